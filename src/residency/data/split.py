"""Held-out rows that share no prompt with the training rows."""

from __future__ import annotations

import random
import re

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.similar import clusters_of
from residency.data.messages import Example
from residency.errors import ConfigError, DataError
from residency.wording import counted


def parse_eval(value: str) -> float | str:
    """`"10%"` is the share 0.1; anything else is a path. Raises ConfigError for a share outside (0 %, 100 %)."""
    percent = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*%\s*", value)
    if not percent:
        return value
    share = float(percent[1]) / 100
    if not 0 < share < 1:
        raise ConfigError(
            f"data.eval is {value.strip()}; a share lies between 0% and 100%",
            param="data.eval",
            hint='write for example "10%", the path of a file, or null for no held-out rows',
        )
    return share


def split_examples(
    examples: list[Example], share: float, seed: int, clusters: NDArray[np.int64] | None = None
) -> tuple[list[Example], list[Example]]:
    """(training rows, held-out rows), each in file order; the same arguments give the same split.

    Rows whose prompts are equal but for case and white space stay on one side, and so do those of one of the
    `clusters` of near copies, so that the held-out loss does not reward remembering. The held-out
    side has about `share` of the rows; each side has at least one.

    Raises DataError where that cannot be: fewer than two different prompts.
    """
    groups = _together(examples, clusters)
    if len(groups) < 2:
        raise DataError(
            f"cannot hold out rows: {counted(len(examples), 'training row')} with {counted(len(groups), 'prompt')}",
            param="data.eval",
            hint="add rows, name a file in data.eval, or set data.eval: null",
        )
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    target = min(max(1, round(share * len(examples))), len(examples) - 1)
    held_out: set[int] = set()
    for group in order:
        if len(held_out) + len(group) <= target:
            held_out.update(group)
    held_out = held_out or set(sorted(order, key=len)[0])
    train = [example for index, example in enumerate(examples) if index not in held_out]
    return train, [examples[index] for index in sorted(held_out)]


def _together(examples: list[Example], clusters: NDArray[np.int64] | None) -> dict[int, list[int]]:
    """The rows that have to stay on one side, by the first of them."""
    first: dict[str, int] = {}
    same = [(first.setdefault(_prompt_key(example), index), index) for index, example in enumerate(examples)]
    if clusters is not None:
        same += enumerate(clusters.tolist())
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(clusters_of(len(examples), np.array(same, dtype=np.int64)).tolist()):
        groups.setdefault(label, []).append(index)
    return groups


def _prompt_key(example: Example) -> str:
    if example.text is not None:
        parts = [example.text]
    else:
        parts = [f"{m['role']} {m['content']} {m.get('tool_calls', '')}" for m in example.prompt]
    return "\n".join(" ".join(part.split()) for part in parts).casefold()
