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
    from residency import pipeline

    pipeline.run(config, runs, resume=begun)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
