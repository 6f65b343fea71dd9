"""LoRA's settings, which Axolotl and LLaMA-Factory hand on to PEFT under names of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from residency.importers.ledger import Ledger


@dataclass(frozen=True, slots=True)
class LoraKeys:
    """Their names, and what their tool takes where they are absent (None: nothing, they must be given)."""

    rank: str
    alpha: str
    dropout: str
    dora: str
    rslora: str
    default_rank: int | None
    default_alpha_per_rank: int | None


def put_lora(ledger: Ledger, keys: LoraKeys) -> None:
    rank, alpha, dropout = ledger.whole(keys.rank), ledger.number(keys.alpha), ledger.number(keys.dropout)
    chosen = rank or keys.default_rank
    if chosen is None or chosen < 1:
        ledger.refuse(keys.rank, f"must be 1 or more, and {ledger.tool} has no default; add it")
        return
    ledger.carry(keys.rank, "adapter.rank", chosen, default=not rank)
    scale = keys.default_alpha_per_rank * chosen if alpha is None and keys.default_alpha_per_rank else alpha
    if not scale:
        ledger.refuse(keys.alpha, f"is missing, and {ledger.tool} has no default; add it")
        return
    if ledger.take(keys.rslora):
        # rsLoRA scales the update by alpha / sqrt(rank) (arXiv 2312.03732), plain LoRA by alpha / rank.
        ledger.put("adapter.alpha", round(scale * math.sqrt(chosen), 4))
        ledger.note("carried", f"{keys.alpha}, {keys.rslora}", f"adapter.alpha: {scale * math.sqrt(chosen):.4f}, which "
                    "is alpha times the root of the rank: rsLoRA's scale")  # fmt: skip
    else:
        ledger.carry(keys.alpha, "adapter.alpha", int(scale) if scale == int(scale) else scale, default=alpha is None)
    ledger.carry(keys.dropout, "adapter.dropout", dropout or 0.0, default=dropout is None)
    if ledger.take(keys.dora):
        ledger.carry(keys.dora, "adapter.dora", True)
