"""Trains a claimed job to its end, with those that can share its trainer: child after child, told step by step.

A job leaves the trainer when it ends, and is told so at once; the others go on. Alone or not, the path is the same.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from residency.server import worker_child as child
from residency.server.database.queue import LeaseLost
from residency.server.database.tables import Job
from residency.server.trainer_files import ask_to_stop, begin_anew, exit_code
from residency.server.worker_attempt import Attempt, Desk, Told, say
from residency.server.worker_finish import complete, fail, leave
from residency.server.worker_fit import MOST_DEATHS, take_along
from residency.server.worker_follow import Follower
from residency.server.worker_job import (
    NEW_NOTES,
    asked_to_end,
    backoff_seconds,
    conclude,
    failure,
    is_begun,
    is_over,
    make_room,
    note_death,
    ready,
)
from residency.server.worker_pulse import pulse
from residency.server.worker_tell import tell
from residency.server.worker_wandb import LogMetrics, wandb_runs
from residency.wording import counted

log = logging.getLogger(__name__)
POLL_SECONDS = 0.25


@dataclass(slots=True, eq=False)
class Seat:
    """A job's place in a trainer."""

    attempt: Attempt
    log_metrics: LogMetrics
    follower: Follower
    held: ExitStack
    """The lease, and what takes the metrics."""
    trainer: int = 0
    """The number of its process."""


def train(desk: Desk, job: Job) -> None:
    """Carries a claimed job, and those that it takes along, as far as they go."""
    seats = [seat for seat in [take_seat(desk, job)] if seat]
    try:
        others = take_along(desk, job) if seats else []
        seats += [seat for seat in map(partial(take_seat, desk), others) if seat]
        if len(seats) > 1:
            seats = [seat for seat in seats if goes_on(seat, partial(say_company, others=len(seats) - 1))]
        make_room(desk)
        while seats:
            seats = one_trainer(desk, seats)
    finally:
        for seat in seats:
            seat.held.close()


def take_seat(desk: Desk, job: Job) -> Seat | None:
    """None where its attempt has ended before it could train."""
    with ExitStack() as held:
        attempt = Attempt(desk, job, held.enter_context(pulse(desk.database, job, desk.leased_device)),
                          NEW_NOTES | job.progress)  # fmt: skip
        try:
            if not ready(attempt):
                return None
            log_metrics = held.enter_context(wandb_runs(attempt))
        except LeaseLost:
            log.warning("%s: another worker has it now", job.id)
            return None
        return Seat(attempt, log_metrics, Follower(attempt.run), held.pop_all())


def goes_on(seat: Seat, action: Callable[[Seat], bool]) -> bool:
    """What `action` says; false, too, where the job is not ours any more. The seat of one that does not go on is left,
    and a trainer that is still at it is told."""
    try:
        if action(seat):
            return True
    except LeaseLost:
        log.warning("%s: another worker has it now", seat.attempt.job.id)
        ask_to_stop(seat.attempt.work, seat.trainer)
    seat.held.close()
    return False


def say_company(seat: Seat, others: int) -> bool:
    say(seat.attempt, [Told(f"Trained in one process with {counted(others, 'other job')} on the same base")])
    return True


def one_trainer(desk: Desk, seats: list[Seat]) -> list[Seat]:
    """Trains them in one child until it ends, or until all in it are asked to; those that need another try."""
    seats = [seat for seat in seats if goes_on(seat, needs_training)]
    if not seats:
        return []
    for seat in seats:
        begin_anew(seat.attempt.work)
        seat.follower = Follower(seat.attempt.run)
    works = [seat.attempt.work for seat in seats]
    process = child.start_trainer(desk.program, works, desk.settings.runs, desk.device)
    for seat in seats:
        seat.trainer = process.pid
    try:
        while seats and not all(asked_to_end(seat.attempt) for seat in seats) and not ended(process):
            seats = [seat for seat in seats if goes_on(seat, partial(look, beside=len(seats) > 1))]
    finally:
        saves = any(asked_to_end(seat.attempt) not in ("lost", "cancel") for seat in seats)
        code = child.stop(process, seconds=child.SECONDS_TO_STOP if saves else 0)
    rest = partial(after_its_trainer, code=code, seats=tuple(seats))
    seats = wait([seat for seat in seats if goes_on(seat, rest)])
    if any(seat.attempt.notes["crashes"] > MOST_DEATHS for seat in seats):
        return [seat for seat in seats if seat is seats[0] or goes_on(seat, let_go)]
    return seats


def ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def look(seat: Seat, *, beside: bool) -> bool:
    """What the trainer has done of one job since the last time. `beside` others it is asked by a file to stop one."""
    attempt, ending = seat.attempt, asked_to_end(seat.attempt)
    if ending == "lost":
        raise LeaseLost(attempt.job.id)
    tell(attempt, seat.follower, seat.log_metrics, over=False)
    code = exit_code(attempt.work)
    if code is None and ending and beside:
        ask_to_stop(attempt.work, seat.trainer)
        if ending == "cancel" or not is_begun(attempt):  # there is no checkpoint to wait for
            return not settled(seat, None)
    return code is None or not settled(seat, code)


def settled(seat: Seat, code: int | None) -> bool:
    """Whether the job ends here, by what its trainer left or by what is wanted; it is written down where it does."""
    attempt, ending = seat.attempt, asked_to_end(seat.attempt)
    if ending in ("lost", "cancel"):
        conclude(attempt, ending)
    elif is_over(attempt):
        complete(attempt, seat.log_metrics)
    elif code is not None and (error := failure(attempt, code)):
        fail(attempt, error)
    elif ending:
        conclude(attempt, ending)
    else:
        return False
    return True


def after_its_trainer(seat: Seat, *, code: int, seats: Sequence[Seat]) -> bool:
    """Whether it needs another try. `code` is the process's, in which these were left; where this job was the only one
    and wanted to go on, it is the job's own."""
    attempt = seat.attempt
    if not attempt.pulse.lost:
        tell(attempt, seat.follower, seat.log_metrics, over=False)
    own = exit_code(attempt.work)
    if own is None and len(seats) == 1 and not asked_to_end(attempt):
        own = code
    if settled(seat, own):
        return False
    untouched = seat is not seats[0] and not is_begun(attempt)
    return untouched or note_death(attempt, code)


def wait(seats: list[Seat]) -> list[Seat]:
    """A little, before the next try; for whom it is to be."""
    until = time.monotonic() + max((backoff_seconds(seat.attempt) for seat in seats), default=0.0)
    while seats and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        seats = [seat for seat in seats if goes_on(seat, needs_training)]
    return seats


def needs_training(seat: Seat) -> bool:
    return not settled(seat, None)


def let_go(seat: Seat) -> bool:
    """Which of them made the trainer die is not known: each goes on in a process of its own."""
    leave(seat.attempt, "The trainer of several jobs died twice; this one goes on alone")
    return False
