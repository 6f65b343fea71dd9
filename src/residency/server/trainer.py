"""The process in which a job trains: the ordinary pipeline on the job's run folder.

    python -m residency.server.trainer RUN_FILE RUNS

Begins the run of that file below RUNS, or goes on with it. The exit code is that of `residency train`; the reason of a
failure is in the run's `error.json`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from residency.config.load import load_run
from residency.errors import ResidencyError
from residency.records import RunFolder
from residency.server.supervise_watch import end_with_parent

PARENT = "parent.txt"
"""Beside the run file: the adapter that is to be trained further, merged into its base first."""
SECONDS_TO_SAVE = 20.0
"""How long a trainer whose worker has died may take for its last checkpoint."""


def main(run_file: Path, runs: Path) -> int:
    end_with_parent(SECONDS_TO_SAVE)
    try:
        train(run_file, runs)
    except ResidencyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def train(run_file: Path, runs: Path) -> None:
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
    parent, base = run_file.with_name(PARENT), Path(config.model.id)
    if parent.exists() and not base.exists():
        merge(Path(parent.read_text()), base)
    from residency import pipeline

    pipeline.run(config, runs, resume=begun)


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
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
