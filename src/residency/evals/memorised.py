"""Whether training rows can be drawn out of the model word for word (Carlini et al. 2021, arXiv 2012.07805).

A row is drawn out where the model, given its first tokens, goes on greedily with the next ones as they stand there.
That is the case just where each of them is the first choice after those before it, so one forward pass tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from residency.data.messages import Rendered
from residency.engine.engine import Engine
from residency.evals.retention import spread
from residency.evals.stats import wilson
from residency.records import Memorised

ROWS, PREFIX_TOKENS, MATCHING_TOKENS = 50, 50, 30


def drawn_out(engine: Engine, adapter: str | None, rows: Sequence[Rendered]) -> list[bool]:
    """For each of what `probes` gave."""
    return [bool(one.correct.all()) for one in engine.logprobs(adapter, rows)]


def probes(rows: Sequence[Rendered]) -> list[Rendered]:
    """ROWS training rows, spread over those long enough, cut to the prefix and the tokens that would have to follow."""
    length = PREFIX_TOKENS + MATCHING_TOKENS
    long_enough = [row for row in rows if len(row) >= length]
    return [
        Rendered(row.input_ids[:length], np.arange(length) >= PREFIX_TOKENS, row.origin)
        for row in spread(long_enough, ROWS)
    ]


def memorised(before: Sequence[bool], after: Sequence[bool]) -> Memorised | None:
    """None where no training row is long enough to tell."""
    if not after:
        return None
    new = [now and not then for then, now in zip(before, after, strict=True)]
    return Memorised(drawn_out=wilson(sum(after), len(after)), before=wilson(sum(before), len(before)), new=sum(new))
