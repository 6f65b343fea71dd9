"""Replaces every `auto` by a value, and says why in a sentence.

At least 100 optimizer steps, and 1 to 10 epochs with early stopping: small data bear repetition (arXiv 2602.11149).
LoRA of rank 16 on all linear layers holds what small data teach; attention alone does not (Schulman et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from residency.config.learning_rate import learning_rate
from residency.config.model import ResolvedConfig, RunConfig
from residency.errors import ConfigError, ResourceError

Values: TypeAlias = dict[str, Any]
"""A run's values as a nested dict; rules see those that earlier rules have set."""

TARGET_STEPS = 100
"""Optimizer steps that a run should have, where the data allow."""
SMALL_ROWS = 1000
LARGE_ROWS = 5000
EVALS_PER_EPOCH = 5
STEPS_BETWEEN_EVALS = 10
CPU_TOKENS = (1024, 4096)
"""On a CPU a larger pass is not faster: its caches are full."""
GPU_TOKENS = (1024, 65536)
MEMORY_SHARE = 0.8
"""Share of the free memory that is planned for."""
SMALL_PARAMETERS = 500_000_000
"""Below it full fine-tuning was better than LoRA in loss and in what was forgotten (SmolLM2-135M, 96 rows)."""
ROWS_BEYOND_LORA = 20_000
"""LoRA equals full fine-tuning while the data fit its capacity (Schulman et al. 2025)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules need to know of the model, the data and the machine."""

    hidden_size: int
    parameters: int
    context_length: int
    num_rows: int
    """Training rows, the held-out ones excluded."""
    longest_row: int
    """In tokens."""
    longest_answer: int
    """In tokens: the longest last answer of the training and test rows."""
    format: str
    """The detected row format."""
    json_references: bool
    """Whether every reference answer is a JSON object or list."""
    has_eval: bool
    """Whether there are held-out rows."""
    device: str
    """`cpu` or `cuda`."""
    memory_bytes: int
    """Free memory of the device."""
    fixed_bytes: int
    """Weights, gradients and optimizer (`models.facts.fixed_bytes`)."""
    bytes_per_token: int
    """Activations and logits of one token (`models.facts`)."""
    cpu_cores: int
    """Cores this process may use."""
    busy_cores: float
    """Cores that other processes keep busy (`models.processor.busy_cores`)."""
    bf16_faster: bool
    bf16_reason: str
    """A sentence with the measurement."""
    fixed_bytes_of: dict[str, int] = field(default_factory=dict)
    """As `fixed_bytes`, for `full`, `lora` and `qlora`: what `adapter.kind: auto` chooses by."""


def resolve(config: RunConfig, facts: Facts) -> tuple[ResolvedConfig, dict[str, str]]:
    """Every `auto` becomes a value; the second part gives the reason of each, by dotted path.

    Raises ConfigError and ResourceError where what is asked for cannot be.
    """
    if config.train.learning_rate == "search" and not facts.has_eval:
        raise nothing_to_search_by()
    values = config.model_dump()
    reasons: dict[str, str] = {}
    for path, rule in RULES.items():
        section, key = path.split(".")
        if values[section].get(key) == "auto":
            values[section][key], reasons[path] = rule(values, facts)
    return ResolvedConfig.model_validate(values), reasons


def nothing_to_search_by() -> ConfigError:
    return ConfigError(
        "train.learning_rate: search needs held-out rows to compare candidates on", param="data.eval",
        hint="set data.eval: 10%, or leave train.learning_rate to auto",
    )  # fmt: skip


def row_format(values: Values, facts: Facts) -> tuple[str, str]:
    return facts.format, f"The rows have the {facts.format} format."


def max_length_tokens(values: Values, facts: Facts) -> tuple[int, str]:
    longest = max(round_up(facts.longest_row, 8), 8)
    if longest <= facts.context_length:
        return longest, f"The longest row has {facts.longest_row} tokens; no row is too long."
    return facts.context_length, (
        f"The model's context holds {facts.context_length} tokens, and the longest row has {facts.longest_row}."
    )


def adapter_kind(values: Values, facts: Facts) -> tuple[str, str]:
    """Raises ResourceError where not even QLoRA fits."""
    tokens = max(facts.longest_row, CPU_TOKENS[0])
    need = {kind: fixed + tokens * facts.bytes_per_token for kind, fixed in facts.fixed_bytes_of.items()}
    fits = {kind: size <= MEMORY_SHARE * facts.memory_bytes for kind, size in need.items()}
    numbers = ", ".join(f"{LABELS[kind]} {size / 1e9:.1f}" for kind, size in need.items())
    why = f"With passes of {tokens} tokens {numbers} of {facts.memory_bytes / 1e9:.1f} GB that are free"
    if fits["full"] and facts.parameters < SMALL_PARAMETERS:
        values["adapter"] = {}
        return "full", f"{why}; models under {SMALL_PARAMETERS / 1e9:g}B learn more and forget less with all weights."
    if fits["full"] and facts.num_rows >= ROWS_BEYOND_LORA:
        values["adapter"] = {}
        return "full", f"{why}; {facts.num_rows} rows are more than LoRA's capacity holds ({ROWS_BEYOND_LORA})."
    if fits["lora"]:
        few = f"{facts.num_rows} rows fit LoRA's capacity, and it forgets less"
        return "lora", f"{why}; {few if fits['full'] else 'full fine-tuning does not fit'}."
    if fits["qlora"]:
        return "qlora", f"{why}; only a base held in 4 bits fits."
    raise ResourceError(
        f"adapter.kind: auto finds nothing that fits: {numbers} of {facts.memory_bytes / 1e9:.1f} GB",
        param="adapter.kind", hint="choose a smaller model, or lower data.max_length_tokens",
    )  # fmt: skip


def rank(values: Values, facts: Facts) -> tuple[int, str]:
    if facts.num_rows > LARGE_ROWS:
        return 32, f"{facts.num_rows} rows are more than {LARGE_ROWS}, and deserve more capacity than rank 16."
    return 16, f"Rank 16 has the capacity for {facts.num_rows} rows; above {LARGE_ROWS} it would be 32."


def batch_size(values: Values, facts: Facts) -> tuple[int, str]:
    size = 8 if facts.num_rows < 500 else 16 if facts.num_rows < 32 * TARGET_STEPS else 32
    steps = math.ceil(facts.num_rows / size)
    return size, f"{facts.num_rows} rows make {steps} steps of {size} rows an epoch; 8 to 32 rows a step train best."


def epochs(values: Values, facts: Facts) -> tuple[float, str]:
    size = values["train"]["batch_size"]
    needed = math.ceil(TARGET_STEPS * size / facts.num_rows)
    number = min(max(needed, 3 if facts.num_rows < SMALL_ROWS else 1), 10)
    steps = number * math.ceil(facts.num_rows / size)
    why = f"{number} passes over {facts.num_rows} rows make {steps} steps of {size}"
    if number > needed:
        return float(number), f"{why}; fewer than {SMALL_ROWS} rows are seen 3 times at least."
    return float(number), f"{why}; the aim is {TARGET_STEPS} steps or more, in 10 passes at most."


def peak_learning_rate(values: Values, facts: Facts) -> tuple[float, str]:
    return learning_rate(
        values["adapter"],
        hidden_size=facts.hidden_size,
        parameters=facts.parameters,
        steps=total_steps(values, facts),
        batch_size=values["train"]["batch_size"],
    )


def micro_batch_tokens(values: Values, facts: Facts) -> tuple[int, str]:
    low, high = CPU_TOKENS if facts.device == "cpu" else GPU_TOKENS
    fixed = facts.fixed_bytes_of.get(values["adapter"]["kind"], facts.fixed_bytes)
    free = facts.memory_bytes * MEMORY_SHARE - fixed
    fitting = int(max(free, 0) // facts.bytes_per_token)
    tokens = min(max(fitting // 256 * 256, low), high)
    longest = values["data"]["max_length_tokens"]
    why = (
        f"{tokens} tokens need about {(fixed + tokens * facts.bytes_per_token) / 1e9:.1f} of "
        f"{facts.memory_bytes / 1e9:.1f} GB"
    )
    if longest > tokens:
        need = (fixed + longest * facts.bytes_per_token) / 1e9
        why = f"The longest row must pass at once: {longest} tokens need about {need:.1f} of "
        return longest, f"{why}{facts.memory_bytes / 1e9:.1f} GB."
    return tokens, f"{why}; up to {high} are used on this device."


def eval_every_steps(values: Values, facts: Facts) -> tuple[int, str]:
    steps = total_steps(values, facts)
    if not facts.has_eval:
        return steps, "There are no held-out rows to measure on."
    per_epoch = math.ceil(facts.num_rows / values["train"]["batch_size"])
    every = min(max(per_epoch // EVALS_PER_EPOCH, STEPS_BETWEEN_EVALS), steps)
    return every, (
        f"{EVALS_PER_EPOCH} measurements in an epoch of {per_epoch} steps, {STEPS_BETWEEN_EVALS} or more steps apart."
    )


def save_every_steps(values: Values, facts: Facts) -> tuple[int, str]:
    if facts.has_eval:
        every: int = values["train"]["eval_every_steps"]
        return every, "With every measurement, so that the best one can be restored."
    steps = total_steps(values, facts)
    return min(
        max(steps // 10, STEPS_BETWEEN_EVALS), steps
    ), f"A tenth of {steps} steps, {STEPS_BETWEEN_EVALS} or more apart."


def graders(values: Values, facts: Facts) -> tuple[list[dict[str, Any]], str]:
    if values["method"]["name"] == "pretrain":
        return [], "Plain text has no reference answers to grade against."
    if facts.json_references:
        return [{"type": "json_match"}], "Every reference answer is JSON: parsed values are compared."
    return [{"type": "string_check"}], "Not every reference answer is JSON: texts are compared exactly."


def max_new_tokens(values: Values, facts: Facts) -> tuple[int, str]:
    tokens = math.ceil(facts.longest_answer * 1.25) + 16
    return tokens, f"The longest reference answer has {facts.longest_answer} tokens; a quarter and 16 more are allowed."


def precision(values: Values, facts: Facts) -> tuple[str, str]:
    return ("bf16" if facts.bf16_faster else "fp32"), facts.bf16_reason


def threads(values: Values, facts: Facts) -> tuple[int, str]:
    """Threads that wait for a core spin: 2 on one free core were measured 8 to 11 times slower than 1."""
    busy = min(round(facts.busy_cores), facts.cpu_cores - 1)
    number = facts.cpu_cores - busy
    if busy:
        return number, f"{facts.busy_cores:.1f} of {facts.cpu_cores} cores are busy with other programs."
    return number, f"All of this machine's cores ({facts.cpu_cores}) are free."


def total_steps(values: Values, facts: Facts) -> int:
    train = values["train"]
    steps: int = math.ceil(train["epochs"] * facts.num_rows / train["batch_size"])
    limit: int = train["max_steps"] or steps
    return max(min(steps, limit), 1)


def round_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple


LABELS = {"full": "full fine-tuning needs", "lora": "LoRA", "qlora": "QLoRA"}

RULES: dict[str, Callable[[Values, Facts], tuple[Any, str]]] = {
    "data.format": row_format,
    "data.max_length_tokens": max_length_tokens,
    "adapter.kind": adapter_kind,
    "adapter.rank": rank,
    "train.batch_size": batch_size,
    "train.epochs": epochs,
    "train.learning_rate": peak_learning_rate,
    "train.micro_batch_tokens": micro_batch_tokens,
    "train.eval_every_steps": eval_every_steps,
    "train.save_every_steps": save_every_steps,
    "eval.graders": graders,
    "eval.max_new_tokens": max_new_tokens,
    "speed.precision": precision,
    "speed.threads": threads,
}
"""In this order, by dotted path: a later rule builds on the values before it."""
