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
from residency.wording import counted

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
PASS_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Layers are computed again rather than that a pass takes fewer tokens."""
ANCHORS, CPU_ANCHORS = 128, 48
ANSWER_TOKENS, CPU_ANSWER_TOKENS = 64, 32
BUDGET_GREEN, BUDGET = 0.05, 0.15
"""Nats per token, KL(base || tuned) on general prompts: nothing is noticed up to the first, much above the second."""
FEWEST_PROBES, MOST_PROBES = 4, 30
CPU_PROBE_WEIGHTS = 8 * 135e6
"""Rows the generalisation card asks about times the model's weights: what two CPU cores do in less than a minute."""
STEPS_TO_COMPILE = 1000
"""Compiling takes up to some minutes the first time, and saves a part of each step."""
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
    fused: bool = False
    """Whether the fused passes train what is asked for."""
    layers: int = 0
    """Layers that can be computed again in the backward pass."""
    layer_bytes_per_token: int = 0
    """How much of `bytes_per_token` each of them saves then."""
    input_bytes_per_token: int = 0
    """And how much each keeps, its input."""
    host_bytes: int = 0
    """Free memory of the host."""
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
        few = f"LoRA has the capacity for {counted(facts.num_rows, 'row')}, and forgets less"
        return "lora", f"{why}; {few if fits['full'] else 'full fine-tuning does not fit'}."
    if fits["qlora"]:
        return "qlora", f"{why}; only a base held in 4 bits fits."
    raise ResourceError(
        f"adapter.kind: auto finds nothing that fits: {numbers} of {facts.memory_bytes / 1e9:.1f} GB",
        param="adapter.kind", hint="choose a smaller model, or lower data.max_length_tokens",
    )  # fmt: skip


def rank(values: Values, facts: Facts) -> tuple[int, str]:
    if facts.num_rows > LARGE_ROWS:
        return 32, f"{facts.num_rows:,} rows are more than {LARGE_ROWS:,}, and deserve more capacity than rank 16."
    return 16, f"Rank 16 has the capacity for {counted(facts.num_rows, 'row')}; above {LARGE_ROWS:,} it would be 32."


def batch_size(values: Values, facts: Facts) -> tuple[int, str]:
    size = 8 if facts.num_rows < 500 else 16 if facts.num_rows < 32 * TARGET_STEPS else 32
    steps = math.ceil(facts.num_rows / size)
    why = f"{counted(facts.num_rows, 'row')} in steps of {size}: {counted(steps, 'step')} an epoch"
    return size, f"{why}; 8 to 32 rows a step train best."


def epochs(values: Values, facts: Facts) -> tuple[float, str]:
    size = values["train"]["batch_size"]
    needed = math.ceil(TARGET_STEPS * size / facts.num_rows)
    number = min(max(needed, 3 if facts.num_rows < SMALL_ROWS else 1), 10)
    steps = math.ceil(number * facts.num_rows / size)
    passes, rows = counted(number, "pass", "passes"), counted(facts.num_rows, "row")
    why = f"{passes} over {rows}: {counted(steps, 'step')} of {size}"
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
        multiplier=values["train"]["learning_rate_multiplier"],
    )


def fixed_bytes(values: Values, facts: Facts) -> int:
    """Those of the kind that `adapter.kind: auto` chose, where it did."""
    return facts.fixed_bytes_of.get(values["adapter"]["kind"], facts.fixed_bytes)


def recompute_layers(values: Values, facts: Facts) -> tuple[int, str]:
    tokens = max(values["data"]["max_length_tokens"], PASS_TOKENS[facts.device])
    need = fixed_bytes(values, facts) + tokens * facts.bytes_per_token
    said = f"{tokens} tokens at once need about {need / 1e9:.1f} of {facts.memory_bytes / 1e9:.1f} GB"
    lacking = need - facts.memory_bytes * MEMORY_SHARE
    if lacking <= 0 or not facts.layers:
        return 0, f"{said} with all activations kept."
    # The layer that is being computed again has its activations once more.
    layers = min(math.ceil(lacking / (tokens * facts.layer_bytes_per_token)) + 1, facts.layers)
    return layers, f"{said}; {layers} of {facts.layers} layers keep nothing but their input, at the same result."


def offload(values: Values, facts: Facts) -> tuple[bool, str]:
    again = values["speed"]["recompute_layers"]
    if facts.device == "cpu":
        return False, "A CPU's passes are in the host's memory already."
    if not again or again < facts.layers:
        return False, "Not all layers are computed again: what is kept fits."
    tokens = max(values["data"]["max_length_tokens"], PASS_TOKENS[facts.device])
    per_token = facts.bytes_per_token - again * facts.layer_bytes_per_token
    need, inputs = fixed_bytes(values, facts) + tokens * per_token, again * tokens * facts.input_bytes_per_token
    said = f"With all layers computed again {tokens} tokens need about {need / 1e9:.1f} of "
    said = f"{said}{facts.memory_bytes / 1e9:.1f} GB"
    if need <= MEMORY_SHARE * facts.memory_bytes:
        return False, f"{said}: the layers' inputs fit."
    if inputs > MEMORY_SHARE * facts.host_bytes:
        return False, f"{said}, but the host has no room for the layers' inputs ({inputs / 1e9:.1f} GB)."
    return True, f"{said}; {inputs / 1e9:.1f} of them, the layers' inputs, wait in the host's memory."


def micro_batch_tokens(values: Values, facts: Facts) -> tuple[int, str]:
    low, high = CPU_TOKENS if facts.device == "cpu" else GPU_TOKENS
    fixed = fixed_bytes(values, facts)
    free = facts.memory_bytes * MEMORY_SHARE - fixed
    again = values["speed"]["recompute_layers"]
    per_token = facts.bytes_per_token - again * facts.layer_bytes_per_token
    if values["speed"]["offload"]:
        per_token -= max(0, again - 2) * facts.input_bytes_per_token  # two are there at a time
    fitting = int(max(free, 0) // per_token)
    tokens = min(max(fitting // 256 * 256, low), high)
    longest = values["data"]["max_length_tokens"]
    why = f"{tokens} tokens need about {(fixed + tokens * per_token) / 1e9:.1f} of {facts.memory_bytes / 1e9:.1f} GB"
    if longest > tokens:
        need = (fixed + longest * per_token) / 1e9
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
        f"{EVALS_PER_EPOCH} measurements in an epoch of {counted(per_epoch, 'step')}, {STEPS_BETWEEN_EVALS} or more "
        "steps apart."
    )


def save_every_steps(values: Values, facts: Facts) -> tuple[int | str, str]:
    if facts.has_eval:
        every: int | str = values["train"]["eval_every_steps"]
        return every, "With every measurement, so that the best one can be restored."
    steps = total_steps(values, facts)
    return min(
        max(steps // 10, STEPS_BETWEEN_EVALS), steps
    ), f"A tenth of {counted(steps, 'step')}, {STEPS_BETWEEN_EVALS} or more apart."


def anchors(values: Values, facts: Facts) -> tuple[int, str]:
    if facts.device == "cpu":
        return CPU_ANCHORS, (
            f"On a CPU {CPU_ANCHORS} of the {ANCHORS} general prompts, so that measuring takes about a tenth of the "
            "training time; the interval says how far they reach."
        )
    return ANCHORS, "All general prompts: a GPU measures them within seconds."


def answer_tokens(values: Values, facts: Facts) -> tuple[int, str]:
    if facts.device == "cpu":
        return CPU_ANSWER_TOKENS, "Half as long as on a GPU, so that measuring and replaying cost less."
    return ANSWER_TOKENS, "Enough to show what the base would say."


def budget(values: Values, facts: Facts) -> tuple[float, str]:
    return BUDGET, (
        f"Up to {BUDGET_GREEN} nats per token a model answers general prompts as before, above {BUDGET} it does not: "
        "a rule of thumb, to be set by what you must keep."
    )


def replay(values: Values, facts: Facts) -> tuple[bool, str]:
    kind = values["adapter"]["kind"]
    if values["method"]["name"] != "sft" or not values["retention"]["anchors"]:
        return False, "The base's own answers to general prompts are replayed for sft, where retention is measured."
    if kind == "full":
        return False, (
            "Full fine-tuning of the starter model learned less with replay; scaling its change afterwards kept more."
        )
    return True, "With LoRA the base's own answers, replayed, hold the model near the base; the report says how near."


def stop(values: Values, facts: Facts) -> tuple[bool, str]:
    own = values["retention"]["budget"] != "auto"
    return own, (
        "You have set a budget."
        if own
        else "The budget is a rule of thumb and no wish of yours: the verdict and the adapter scale deal with it."
    )


def graders(values: Values, facts: Facts) -> tuple[list[dict[str, Any]], str]:
    if values["method"]["name"] == "pretrain":
        return [], "Plain text has no reference answers to grade against."
    if facts.json_references:
        return [{"type": "json_match"}], "Every reference answer is JSON: parsed values are compared."
    return [{"type": "string_check"}], "Not every reference answer is JSON: texts are compared exactly."


def max_new_tokens(values: Values, facts: Facts) -> tuple[int, str]:
    tokens = math.ceil(facts.longest_answer * 1.25) + 16
    longest = counted(facts.longest_answer, "token")
    return tokens, f"The longest reference answer has {longest}; a quarter and 16 more are allowed."


def probes(values: Values, facts: Facts) -> tuple[int, str]:
    if values["method"]["name"] != "sft":
        return 0, "The generalisation card asks about trained answers, which plain text does not have."
    if facts.device != "cpu":
        return MOST_PROBES, f"{MOST_PROBES} rows are asked about; on this device that takes seconds."
    number = round(CPU_PROBE_WEIGHTS / facts.parameters)
    number = min(max(number, FEWEST_PROBES), MOST_PROBES)
    return number, f"{number} rows: for each the starter model needed 16 s of one core, on a machine with other work."


def precision(values: Values, facts: Facts) -> tuple[str, str]:
    return ("bf16" if facts.bf16_faster else "fp32"), facts.bf16_reason


def compile_layers(values: Values, facts: Facts) -> tuple[bool, str]:
    steps = total_steps(values, facts)
    if facts.device == "cpu":
        return False, "On a CPU the matrix products take the time, and no compiler makes them faster."
    if facts.fused and values["adapter"]["kind"] != "full":
        return False, "The fused passes need no compiler."
    if steps < STEPS_TO_COMPILE:
        said = counted(steps, "step")
        return False, f"{said} would not get back the time that compiling takes; from {STEPS_TO_COMPILE} on."
    return True, f"{steps} steps get back the time that compiling takes."


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
    "speed.recompute_layers": recompute_layers,
    "speed.offload": offload,
    "train.micro_batch_tokens": micro_batch_tokens,
    "train.eval_every_steps": eval_every_steps,
    "train.save_every_steps": save_every_steps,
    "retention.stop": stop,
    "retention.anchors": anchors,
    "retention.answer_tokens": answer_tokens,
    "retention.budget": budget,
    "retention.replay": replay,
    "eval.graders": graders,
    "eval.max_new_tokens": max_new_tokens,
    "eval.probes": probes,
    "speed.precision": precision,
    "speed.compile": compile_layers,
    "speed.threads": threads,
}
"""In this order, by dotted path: a later rule builds on the values before it."""
