"""What a job goes through around its training: how it is begun, what ends it, and what a trainer's death makes of it.

Whatever dies, the run folder and the job's row say how far it came. Each write names the attempt that makes it, so a
worker that was thought dead changes nothing any more.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import httpx
import yaml

from residency import durable
from residency.errors import Interrupted, ResidencyError, RunError
from residency.server import worker_child as child
from residency.server.ask import Inference
from residency.server.database.queue import LeaseLost
from residency.server.ids import new_id
from residency.server.job_settings import run_config
from residency.server.names import tuned_name
from residency.server.trainer import PARENT
from residency.server.worker_attempt import Attempt, Desk, Told, say
from residency.server.worker_files import local_files
from residency.server.worker_finish import cancel, close, fail, leave, snapshot
from residency.server.worker_results import saved_steps

log = logging.getLogger(__name__)
MOST_CRASHES = 10
"""So often a trainer may die without a new checkpoint before the job fails."""
MOST_BACKOFF_SECONDS = 30.0
NEW_NOTES: dict[str, Any] = {
    "started": False, "open": False, "planned": False, "step": 0, "messages": 0, "crashes": 0, "crashed_at": 0,
    "checkpoints": {},
}  # fmt: skip

Ending: TypeAlias = Literal["lost", "cancel", "pause", "stop"]


def ready(attempt: Attempt) -> bool:
    """Whether it may train now; where not, its attempt is over."""
    ending = asked_to_end(attempt)
    if ending is None:
        if attempt.notes["open"] and count_death(attempt) > MOST_CRASHES:
            give_up(attempt, "with its worker")
            return False
        try:
            begin(attempt)
        except ResidencyError as error:
            fail(attempt, error.as_record())
            return False
        child.bury_former(attempt.work)
        ending = asked_to_end(attempt)
    if ending:
        conclude(attempt, ending)
    return ending is None


def conclude(attempt: Attempt, ending: Ending) -> None:
    match ending:
        case "lost":
            raise LeaseLost(attempt.job.id)
        case "cancel":
            cancel(attempt)
        case "pause":
            snapshot(attempt)
            close(attempt, "paused", "Fine-tuning job paused")
        case "stop":
            leave(attempt, "The server stops; training goes on when it is back")


def begin(attempt: Attempt) -> None:
    """The run file and the data, and what is said of a first or an orphaned attempt."""
    job, notes = attempt.job, attempt.notes
    further = base_of_its_own(attempt) if job.parent else {}
    config = run_config(job, *local_files(attempt.desk, job))
    durable.write_text(attempt.work / "run.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    told: list[Told] = []
    fresh: dict[str, Any] = {"started": True, "open": True}
    if not notes["started"]:
        told = [Told("Fine-tuning job started")]
        if further:
            told.append(Told(f"{job.model} is trained further: its adapter is merged into its base first"))
        fresh |= {"name": tuned_name(job.model, attempt.desk.settings.organization, job.suffix),
                  "result_file": new_id("file-")}  # fmt: skip
    elif notes["open"]:
        told = [Told("The worker of this job ended unexpectedly; another takes it up", level="warn")]
    say(attempt, told, fresh, status="running", started_at=job.started_at or time.time(), **further)
    job.status, job.progress = "running", attempt.notes


def make_room(desk: Desk) -> None:
    """On a GPU the models that answer questions give their memory to training; they come back when they are asked."""
    if desk.leased_device and desk.device != "cpu":
        # where no inference process runs, there is nothing to unload
        with Inference(desk.settings.inference_url) as inference, suppress(httpx.HTTPError):
            inference.waiting.post("/unload", json={})


def base_of_its_own(attempt: Attempt) -> dict[str, str]:
    """An earlier result that is trained further becomes a base: the trainer merges it into this folder."""
    job = attempt.job
    job.base = str(attempt.desk.settings.home.absolute() / "bases" / job.id)
    with durable.disk_errors(attempt.work):
        attempt.work.mkdir(parents=True, exist_ok=True)
    durable.write_text(attempt.work / PARENT, str(job.parent))
    return {"base": job.base}


def is_over(attempt: Attempt) -> bool:
    """The report is what the pipeline writes last."""
    return (attempt.run / "report.html").exists()


def is_begun(attempt: Attempt) -> bool:
    """Whether a trainer has come to it."""
    return (attempt.run / "config.yaml").exists()


def asked_to_end(attempt: Attempt) -> Ending | None:
    if attempt.pulse.lost:
        return "lost"
    if attempt.pulse.wanted == "cancel":
        return "cancel"
    if attempt.pulse.wanted == "pause":
        return "pause"
    return "stop" if attempt.desk.stopping.is_set() else None


# ---- after a trainer that nobody asked to end


def failure(attempt: Attempt, code: int) -> dict[str, Any] | None:
    """Why training cannot succeed, as the trainer said it; None where another try may end better."""
    if code <= 0 or code == Interrupted.exit_code:
        return None
    try:
        record: dict[str, Any] = json.loads((attempt.run / "error.json").read_bytes())
    except (OSError, ValueError):
        record = {}
    if record.get("exit_code") == code:
        return record
    if code == RunError.exit_code:  # without a record: another process holds the run
        return None
    log.error(
        "%s: the trainer ended with code %s; its words are in %s", attempt.job.id, code, child.log_of(attempt.work)
    )
    return {"code": "trainer_failed", "message": f"The trainer ended with code {code}; the server keeps its words"}


def note_death(attempt: Attempt, code: int) -> bool:
    """After a trainer that died: whether the job goes on. One that never gets further fails."""
    words = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    if count_death(attempt) > MOST_CRASHES:
        give_up(attempt, f"by {words}")
        return False
    say(attempt, [Told(f"The trainer died ({words}); training goes on from its last checkpoint", level="warn")])
    return True


def backoff_seconds(attempt: Attempt) -> float:
    """Before the next try."""
    return float(min(2.0 ** (attempt.notes["crashes"] - 2), MOST_BACKOFF_SECONDS))


def give_up(attempt: Attempt, how: str) -> None:
    fail(
        attempt,
        {
            "code": "trainer_died",
            "message": f"The trainer died {attempt.notes['crashes']} times (the last time "
            f"{how}) without getting past step {attempt.notes['crashed_at']}; most often that is memory which ran out",
        },
    )


def count_death(attempt: Attempt) -> int:
    """Deaths in a row without a new checkpoint between them, this one included."""
    saved, notes = max(saved_steps(attempt.run), default=0), attempt.notes
    crashes = 1 if saved > notes["crashed_at"] else notes["crashes"] + 1
    attempt.notes = notes | {"crashes": crashes, "crashed_at": saved}
    return crashes
