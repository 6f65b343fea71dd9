"""The last candidates carried to their ends: each is then a run of its own, held in step with the other.

So it has what a run has: the held-out loss at each evaluation, patience, what it forgets, its best weights and its own
checkpoints. They lie in the candidate's folder, and the better one's become the run's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from residency.data.messages import Rendered
from residency.engine.checkpoint import Checkpoints
from residency.engine.engine import Engine
from residency.errors import Interrupted, TrainingError
from residency.methods.passes import Run, together
from residency.methods.sft import training
from residency.search.arms import Arm


def is_begun(arm: Arm) -> bool:
    return (arm.record / "checkpoints").exists()


def carry_to_ends(engine: Engine, arms: Sequence[Arm], held_out: Sequence[Rendered]) -> None:
    """From where they stand, or where they were interrupted. One that loses its loss has a `failure` then.

    Raises Interrupted after a signal, when each has saved where it is.
    """
    interrupted: list[Interrupted] = []

    def carried(arm: Arm) -> Run[None]:
        try:
            outcome = yield from training(engine, arm.name, arm.rows, held_out, arm.settings, arm.record, arm.keep)
            arm.state = outcome.progress
        except Interrupted as error:
            interrupted.append(error)
        except TrainingError as error:
            arm.failure = error.message

    for arm in arms:
        if not is_begun(arm):
            begin(engine, arm)
    together([carried(arm) for arm in arms])
    if interrupted:
        raise interrupted[0]


def begin(engine: Engine, arm: Arm) -> None:
    checkpoints = Checkpoints(arm.record, arm.settings.keep_checkpoints)
    checkpoints.save(arm.state, lambda folder: engine.save(arm.name, folder))


def by_result(arms: Sequence[Arm]) -> list[Arm]:
    """By the lowest held-out loss that each had, inside the budget where it stops at one; of equal ones the lower rate
    first, which forgets less."""
    return sorted(arms, key=lambda arm: (math.inf if arm.state.best_loss is None else arm.state.best_loss, arm.rate))


def result_of(arm: Arm) -> str:
    return "over the budget" if arm.state.best_loss is None else f"{arm.state.best_loss:.4f}"
