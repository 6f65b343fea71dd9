"""Rows for training, validation and test, such that rows which say nearly the same stay together."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.similar import groups
from residency.errors import ConfigError, DataError
from residency.wording import counted

PARTS = ("train", "validation", "test")


def parse_shares(text: str) -> dict[str, float]:
    """`80/10/10` or `90/10`: the shares of train, validation and test (two shares: train and test)."""
    numbers = [float(part) for part in re.split(r"[/:]", text) if re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", part)]
    names = PARTS if len(numbers) == 3 else ("train", "test")
    if len(numbers) not in (2, 3) or not all(numbers) or abs(sum(numbers) - 100) > 0.01:
        raise ConfigError(
            f"--split {text}: not shares that add up to 100", param="--split", hint="for example 80/10/10"
        )
    return dict(zip(names, (number / 100 for number in numbers), strict=True))


def split_by_cluster(clusters: NDArray[np.int64], shares: dict[str, float], seed: int = 0) -> list[str]:
    """The part of each row; rows of one cluster get the same. The same arguments give the same split.

    Clusters are dealt in random order, large ones first, each to the part that lacks most of its share.
    Raises DataError where there are fewer clusters than parts.
    """
    members: Sequence[list[int]] = groups(clusters)
    alone = sorted(set(range(len(clusters))) - {row for group in members for row in group})
    dealt = [*members, *([row] for row in alone)]
    if len(dealt) < len(shares):
        raise DataError(f"{counted(len(dealt), 'group')} of rows that differ cannot be split into {len(shares)} parts",
                        hint="add rows, or split into fewer parts")  # fmt: skip
    random.Random(seed).shuffle(dealt)
    dealt.sort(key=len, reverse=True)
    wanted = {name: share * len(clusters) for name, share in shares.items()}
    part = [""] * len(clusters)
    for group in dealt:
        name = max(wanted, key=lambda name: wanted[name])
        wanted[name] -= len(group)
        for row in group:
            part[row] = name
    return part
