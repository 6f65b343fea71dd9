"""How long a step takes here: real steps of the run's own kind, on models of its shape with few layers.

A step's time is that of its layers, which are alike, and of the rest. Two depths tell the two apart, on any machine,
for any model and method; formulas of operations and rates do not (kernels' launches, caches, autocast).

The two are timed in turns, so that each pair of steps meets the machine in one state, and every pair gives an estimate
of its own: the median of these is the answer, and their quartiles how sure it is. A step that waits for the host takes
as long as the host, with all that runs on it, needs; its fastest run would promise what training does not keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from residency.config.model import Full, Qlora, ResolvedConfig
from residency.data.messages import Rendered
from residency.engine.adapters import ADAPTER, peft_config
from residency.engine.engine import FULL, Engine
from residency.engine.memory import is_out_of_memory, release_memory
from residency.engine.optim import StepSettings
from residency.models.nf4 import hold_in_nf4
from residency.models.quiet import quiet_transformers
from residency.stages.facts import device
from residency.stages.model import DTYPES, engine_settings

DEPTHS = (2, 6)
WARM_UP, FEWEST, MOST = 2, 4, 20
"""Steps of each depth; after FEWEST timed ones they end when TIMING_SECONDS are over."""
TIMING_SECONDS = 4.0
HOST_BOUND = 0.8
"""On a GPU: half of the rows take this share of the time of all, or more."""


@dataclass(frozen=True, slots=True)
class StepTime:
    seconds: float
    """The median."""
    low: float
    high: float
    """The quartiles."""
    host_bound: bool = False
    """The device waits for the host, which issues a step more slowly than the device works."""


def step_time(
    engine_of: Callable[[int], tuple[Engine, str]], depth: int, batch: Sequence[Rendered], ends: int = 0
) -> StepTime:
    """Of one optimizer step over `batch` with `depth` layers, `ends` of which are not like the others;
    `engine_of(layers)` builds what is timed."""
    few_and_more = tuple(ends + layers for layers in DEPTHS)
    depths = few_and_more if depth > few_and_more[1] else (depth,)
    engines = [engine_of(layers) for layers in depths]
    turns = _timed_in_turns(engines, batch)
    few, more = turns[:, 0], turns[:, -1]
    whole = few + (more - few) * (depth - depths[0]) / max(1, depths[-1] - depths[0])
    low, median, high = np.maximum(np.quantile(whole, (0.25, 0.5, 0.75)), 0.0).tolist()
    return StepTime(median, low, high, _waits_for_the_host(engines[0], batch, float(np.median(few))))


def measure(resolved: ResolvedConfig, hf_config: Any, batch: Sequence[Rendered]) -> StepTime | None:
    """`step_time` of this run; None where not even a shallow model of its shape fits into memory."""
    text = hf_config.get_text_config()
    try:
        ends = 2 * resolved.speed.first_last_layers_bf16 if resolved.speed.fp8 else 0
        return step_time(lambda layers: _engine(resolved, hf_config, layers), text.num_hidden_layers, batch, ends)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        release_memory()


def _engine(resolved: ResolvedConfig, hf_config: Any, layers: int) -> tuple[Engine, str]:
    from transformers import AutoModelForCausalLM

    shallow = type(hf_config).from_dict(hf_config.to_dict() | _changes(hf_config, layers))
    dtype, full = DTYPES[resolved.speed.precision], isinstance(resolved.adapter, Full)
    with quiet_transformers(), torch.device(device()):
        model = AutoModelForCausalLM.from_config(shallow, dtype=torch.float32 if full else dtype)
    model.name_or_path = "shallow"
    if isinstance(resolved.adapter, Qlora):
        hold_in_nf4(model)
    settings = engine_settings(resolved, dtype if full and dtype is not torch.float32 else None)
    settings["speed"] = replace(settings["speed"], compile=False)  # compiling takes longer than all of this
    engine = Engine(model, **settings)
    if isinstance(resolved.adapter, Full):
        engine.train_all_weights()
        return engine, FULL
    engine.add_adapter(ADAPTER, peft_config(resolved.adapter, model.name_or_path))
    return engine, ADAPTER


def _changes(hf_config: Any, layers: int) -> dict[str, Any]:
    """The config's fields that say how many layers there are, and of which type each is."""
    text = hf_config.get_text_config()
    fields: dict[str, Any] = {"num_hidden_layers": layers}
    if getattr(text, "layer_types", None):
        fields["layer_types"] = text.layer_types[:layers]
    if text is hf_config:
        return fields
    return {"text_config": text.to_dict() | fields}


def _timed_in_turns(engines: Sequence[tuple[Engine, str]], batch: Sequence[Rendered]) -> np.ndarray[Any, Any]:
    """Seconds, shape (turns, engines)."""
    for _ in range(WARM_UP):
        for engine, name in engines:
            _step_seconds(engine, name, batch)
    turns: list[list[float]] = []
    until = time.perf_counter() + TIMING_SECONDS
    while len(turns) < FEWEST or (len(turns) < MOST and time.perf_counter() < until):
        turns.append([_step_seconds(engine, name, batch) for engine, name in engines])
    return np.array(turns)


def _waits_for_the_host(trained: tuple[Engine, str], batch: Sequence[Rendered], seconds: float) -> bool:
    """On a GPU, a step that half of the rows do not shorten waits for its launches."""
    engine, name = trained
    half = batch[: len(batch) // 2]
    if engine.device.type == "cpu" or not half:
        return False
    times = [_step_seconds(engine, name, half) for _ in range(WARM_UP + FEWEST)][WARM_UP:]
    return float(np.median(times)) >= HOST_BOUND * seconds


def _step_seconds(engine: Engine, name: str, batch: Sequence[Rendered]) -> float:
    began = time.perf_counter()
    loss = engine.forward_backward({name: batch})[name]
    norm = engine.step({name: StepSettings(1e-6)})[name]
    float(norm), float(loss.mean)  # waits for the device
    return time.perf_counter() - began
