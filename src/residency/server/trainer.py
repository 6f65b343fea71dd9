"""The process in which jobs train: the ordinary pipeline on each one's run folder, and one base for all of them.

    python -m residency.server.trainer RUN_FILE [RUN_FILE ...] RUNS

Begins the run of each file below RUNS, or goes on with it. `trainer_files` has what it hears and says of each. The exit
code is that of `residency train`, of the first run that did not come to its end; the reason of a failure is in the
run's `error.json`.
"""

from __future__ import annotations

import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from residency.config.load import load_run
from residency.errors import Interrupted, ResidencyError
from residency.records import RunFolder
from residency.server.supervise_watch import end_with_parent
from residency.server.trainer_files import asked_to_stop, exit_code, note_end

if TYPE_CHECKING:
    from residency.methods.passes import Run
    from residency.stages.base import Base

PARENT = "parent.txt"
"""Beside the run file: the adapter that is to be trained further, merged into its base first."""
SECONDS_TO_SAVE = 20.0
"""How long a trainer whose worker has died may take for its last checkpoint."""


def main(run_files: Sequence[Path], runs: Path) -> int:
    end_with_parent(SECONDS_TO_SAVE)
    from residency.methods.passes import together
    from residency.stages.base import Base

    base, stopping = Base(), threading.Event()
    together([to_its_end(file, runs, base, stopping) for file in run_files])
    return next((code for file in run_files if (code := exit_code(file.parent))), 0)


def to_its_end(run_file: Path, runs: Path, base: Base, stopping: threading.Event) -> Run[None]:
    """`train`, whose end is noted and is no other run's; a signal (`stopping`) is for all of them."""
    asked = partial(asked_to_stop, run_file.parent)
    code = Interrupted.exit_code
    try:
        if not stopping.is_set() and not asked():
            yield from train(run_file, runs, base, asked)
            code = 0
    except Interrupted:
        if not asked():
            stopping.set()
    except ResidencyError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except Exception:
        traceback.print_exc()
        code = 1
    note_end(run_file.parent, code)


def train(run_file: Path, runs: Path, base: Base, asked: Callable[[], str | None]) -> Run[None]:
    """Begins the run, goes on with it, or writes the report that a finished one still lacks."""
    config = load_run(run_file)
    run = RunFolder(runs / config.name)
    begun = (run / "config.yaml").exists()
    if not begun:  # a kill came between the folder and its first file
        shutil.rmtree(run.path, ignore_errors=True)
    if (run / "summary.json").exists():
        from residency.evals.report import write_report

        write_report(run)
        return
    parent, own_base = run_file.with_name(PARENT), Path(config.model.id)
    if parent.exists() and not own_base.exists():
        merge(Path(parent.read_text()), own_base)
    from residency import pipeline

    yield from pipeline.life(config, runs, base, resume=begun, asked_to_stop=asked)


def merge(adapter: Path, out: Path) -> None:
    """The model that this adapter makes of its base, standing alone. Raises RunError."""
    from residency.exports.merge import new_folder, own_dtype, write_merged
    from residency.models.quiet import quiet_transformers
    from residency.stages.prepare import read_resolved

    run = next(folder for folder in adapter.parents if (folder / "resolved.json").exists())
    resolved, _ = read_resolved(RunFolder(run))
    with new_folder(out) as aside, quiet_transformers():
        write_merged(adapter, resolved, own_dtype(resolved), aside)


if __name__ == "__main__":
    *files, folder = map(Path, sys.argv[1:])
    sys.exit(main(files, folder))
