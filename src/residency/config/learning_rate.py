"""The default learning rate.

LoRA: 4e-4 * (3000 / hidden)^0.6 * (min(rank, 64) / 32)^0.15, fitted to the 96 complete learning-rate curves (35 models
of 1B to 1T parameters) that the Tinker cookbook publishes: 0.30 % above the best loss of each curve on average, 1.5 %
at worst. It holds for alpha = 32 with scale alpha / rank and many steps of 32 or more rows. Full fine-tuning wants a
tenth of it; LoRA runs under 100 steps want half as much again (Schulman et al. 2025, "LoRA Without Regret").
"""

from __future__ import annotations

from typing import Any

from residency.wording import counted

LARGE_PARAMETERS = 1_000_000_000
LARGE_CAP = 2e-3
"""Above 1B parameters LoRA diverges beyond this."""
SEARCH_PRICE = 2.1
"""Tokens of a run with `learning_rate: search`, as a multiple of the run's alone: 8 candidates for 5 % of the steps, 3
up to 20 %, 2 up to 50 %, the range probe and the cool-down. On a GPU up to 2.5, in passes that candidates share."""
PEFT_RATES = {"IA3": 3e-3, "VERA": 4e-3, "PROMPT_TUNING": 1e-2, "P_TUNING": 1e-2, "PREFIX_TUNING": 1e-2}
"""Rates their authors used or near them; heuristics, not measured here."""


def learning_rate(
    adapter: dict[str, Any], *, hidden_size: int, parameters: int, steps: int, batch_size: int, multiplier: float = 1.0
) -> tuple[float, str]:
    """The peak rate for an adapter's settings with no `auto` left in them, and the reason as a sentence.

    `multiplier` is what `train.learning_rate_multiplier` asks for.
    """
    rate, why = _by_rule(adapter, hidden_size, parameters, steps, batch_size)
    if multiplier == 1:
        return rate, why
    return float(f"{rate * multiplier:.3g}"), f"{why} {multiplier:g} times that: train.learning_rate_multiplier."


def _by_rule(
    adapter: dict[str, Any], hidden_size: int, parameters: int, steps: int, batch_size: int
) -> tuple[float, str]:
    kind = adapter["kind"]
    if kind == "peft" and (own := PEFT_RATES.get(adapter["type"].upper())):
        return own, f"A common rate for {adapter['type']}: a heuristic, so try a third and three times of it too."
    rank, alpha = adapter.get("rank", 16), adapter.get("alpha", 32.0)
    rate = 4e-4 * (3000 / hidden_size) ** 0.6 * (min(rank, 64) / 32) ** 0.15
    why = [f"LoRA's rule gives {rate:.2g} for hidden size {hidden_size} and rank {rank}"]
    if kind == "full":
        rate = rate / 10
        why.append("full fine-tuning takes a tenth")
    elif steps < 100:
        rate *= 1.5
        why.append(f"x 1.5 for a short run of {counted(steps, 'step')}")
    if batch_size < 32:
        rate *= (batch_size / 32) ** 0.5
        why.append(f"x {(batch_size / 32) ** 0.5:.2f} for {batch_size} instead of 32 rows per step")
    if kind in ("lora", "qlora") and alpha != 32:
        rate *= 32 / alpha
        why.append(f"x {32 / alpha:.2g} for alpha {alpha:g} instead of 32")
    if parameters > LARGE_PARAMETERS and rate > LARGE_CAP:
        rate = LARGE_CAP
        why.append(f"never above {LARGE_CAP:g} for models over 1B parameters")
    if adapter.get("dora"):
        why.append("DoRA takes LoRA's rate")
    if kind == "peft":
        why.append(f"a heuristic for {adapter['type']}, which was not measured")
    return float(f"{rate:.2g}"), "; ".join(why) + "."
