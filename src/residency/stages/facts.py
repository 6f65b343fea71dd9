"""What the rules for `auto` need to know of the model, the data and this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from residency.config.model import Full, Lora, Qlora, Run
from residency.config.resolve import Facts
from residency.config.section import Auto
from residency.data.messages import Example, Rendered
from residency.data.render import Renderer
from residency.engine.fused import unfit
from residency.engine.memory import available_bytes
from residency.engine.speed import LARGEST_GRAPH_PARAMETERS
from residency.graders.json_match import is_json
from residency.models.facts import ModelFacts, model_facts
from residency.models.memory import Passes, fixed_bytes, input_bytes_per_token, kept_bytes_per_token, working_bytes
from residency.models.processor import busy_cores, cpu_cores

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WORTHWHILE = 1.3
"""bf16 rounds away bits; on a CPU it is taken only where it is this much faster."""
PAIRS = 5
"""Timings in turn, of which the fastest count: another program's work must not decide."""


TYPICAL_TOKENS = 4096
"""What a pass needs beside the kept activations does not grow with its tokens alone; it is spread over so many."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gather(
    config: Run[Any],
    hf_config: PreTrainedConfig,
    train: Sequence[Example],
    tests: Mapping[str, Sequence[Example]],
    rows: Sequence[Rendered],
    row_format: str,
    has_eval: bool,
    renderer: Renderer,
) -> Facts:
    model, here = model_facts(hf_config), device()
    bf16_faster, bf16_reason = compare_precisions(here, model)
    passes = passes_of(config, hf_config, model, 2 if bf16_faster else 4)
    trained_share = sum(int(row.trained.sum()) for row in rows) / max(1, sum(len(row) for row in rows))
    kept, kept_again = (
        kept_bytes_per_token(model, config.adapter, one) for one in (passes, replace(passes, layers_again=model.layers))
    )
    working = working_bytes(model, config.adapter, passes, TYPICAL_TOKENS, int(TYPICAL_TOKENS * trained_share))
    answers = [example.reference for part in (train, *tests.values()) for example in part if example.messages]
    return Facts(
        hidden_size=model.hidden_size,
        parameters=model.parameters,
        context_length=model.context_length,
        num_rows=len(train),
        longest_row=max(len(row) for row in rows),
        longest_answer=longest_tokens(renderer, answers),
        format=row_format,
        json_references=bool(answers) and all(is_json(answer) for answer in answers),
        has_eval=has_eval,
        device=here.type,
        memory_bytes=available_bytes(here),
        fixed_bytes=sum(fixed_bytes(model, config.adapter, passes).values()),
        bytes_per_token=kept + working // TYPICAL_TOKENS,
        fused=passes.fused,
        layers=model.layers,
        layer_bytes_per_token=(kept - kept_again) // model.layers,
        input_bytes_per_token=input_bytes_per_token(model, passes),
        host_bytes=available_bytes(torch.device("cpu")),
        cpu_cores=cpu_cores(),
        busy_cores=busy_cores(),
        bf16_faster=bf16_faster,
        bf16_reason=bf16_reason,
        fixed_bytes_of=fixed_bytes_of(config, hf_config, model, passes.bytes_per_element),
    )


def passes_of(config: Run[Any], hf_config: PreTrainedConfig, facts: ModelFacts, bytes_per_element: int) -> Passes:
    """How the engine will compute this run's passes, as far as its memory and time depend on it."""
    adapter, speed = config.adapter, config.speed
    plain = isinstance(adapter, Lora) and not adapter.dropout and not adapter.dora
    fused = device().type == "cuda" and speed.fused and plain and bytes_per_element == 2 and unfit(hf_config) is None
    again = speed.recompute_layers if isinstance(speed.recompute_layers, int) else 0
    offload = speed.offload is True
    graphs = fused and facts.parameters <= LARGEST_GRAPH_PARAMETERS and not offload
    return Passes(
        bytes_per_element,
        fused=fused,
        fp8=fused and speed.fp8,
        bf16_ends=speed.first_last_layers_bf16,
        layers_again=again,
        offload=offload,
        graphs=graphs,
    )


def fixed_bytes_of(
    config: Run[Any], hf_config: PreTrainedConfig, model: ModelFacts, bytes_per_element: int
) -> dict[str, int]:
    """For each kind that `adapter.kind: auto` may choose, with the rank asked for; a frozen base as it is computed."""
    if not isinstance(config.adapter, Lora):
        return {}
    own = config.adapter.model_dump(exclude={"kind"})
    found: dict[str, int] = {}
    for adapter in (Full(), Lora[Auto](**own), Qlora[Auto](**own)):
        passes = passes_of(config.model_copy(update={"adapter": adapter}), hf_config, model, bytes_per_element)
        found[adapter.kind] = sum(fixed_bytes(model, adapter, passes).values())
    return found


def longest_tokens(renderer: Renderer, answers: Sequence[str]) -> int:
    """Of the answers with the most characters, which are the candidates for the most tokens."""
    candidates = sorted(answers, key=len)[-100:]
    return max((len(renderer.tokenizer(text).input_ids) for text in candidates), default=0)


def compare_precisions(here: torch.device, model: ModelFacts) -> tuple[bool, str]:
    """On a GPU bf16 wins where it exists; on a CPU a feed-forward layer of the model's own shape is timed."""
    if here.type == "cuda":
        good = torch.cuda.is_bf16_supported(including_emulation=False)
        return good, f"The {torch.cuda.get_device_name()} {'has' if good else 'has no'} bf16 units."
    shape = model.hidden_size, model.intermediate_size
    pairs = [(layer_seconds(torch.float32, *shape), layer_seconds(torch.bfloat16, *shape)) for _ in range(PAIRS)]
    ratio = min(fp32 for fp32, _ in pairs) / min(bf16 for _, bf16 in pairs)
    return ratio >= WORTHWHILE, (
        f"A feed-forward layer of this model runs {ratio:.1f} times as fast in bf16 as in fp32 on this processor; "
        f"bf16 is taken from {WORTHWHILE} on."
    )


def layer_seconds(dtype: torch.dtype, width: int, inner: int, tokens: int = 256, repeats: int = 3) -> float:
    """Forward and backward of up, SiLU and down with frozen weights; the fastest of `repeats` after a warm-up."""
    up, down = torch.randn(inner, width).to(dtype), torch.randn(width, inner).to(dtype)
    times = []
    for _ in range(repeats + 1):
        x = torch.randn(tokens, width).to(dtype).requires_grad_()
        began = time.perf_counter()
        y = torch.nn.functional.silu(x @ up.T) @ down.T
        y.backward(torch.ones_like(y))  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - began)
    return min(times[1:])
