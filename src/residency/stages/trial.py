"""How long a step takes here: real steps of the run's own kind, on models of its shape with few layers.

A step's time is that of its layers, which are alike, and of the rest. Two depths tell the two apart, on any machine,
for any model and method; formulas of operations and rates do not (kernels' launches, caches, autocast).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

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
WARM_UP, REPEATS = 2, 4


def step_seconds(engine_of: Callable[[int], tuple[Engine, str]], depth: int, batch: Sequence[Rendered]) -> float:
    """Seconds of one optimizer step over `batch` with `depth` layers; `engine_of(layers)` builds what is timed."""
    if depth <= DEPTHS[1]:
        return _timed(*engine_of(depth), batch)
    few, more = (_timed(*engine_of(layers), batch) for layers in DEPTHS)
    return few + (more - few) / (DEPTHS[1] - DEPTHS[0]) * (depth - DEPTHS[0])


def measure(resolved: ResolvedConfig, hf_config: Any, batch: Sequence[Rendered]) -> float | None:
    """`step_seconds` of this run; None where not even a shallow model of its shape fits into memory."""
    text = hf_config.get_text_config()
    try:
        return step_seconds(lambda layers: _engine(resolved, hf_config, layers), text.num_hidden_layers, batch)
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


def _timed(engine: Engine, name: str, batch: Sequence[Rendered]) -> float:
    """The fastest of some steps: other programs' work must not count."""
    seconds = []
    for _ in range(WARM_UP + REPEATS):
        began = time.perf_counter()
        loss = engine.forward_backward({name: batch})[name]
        norm = engine.step({name: StepSettings(1e-6)})[name]
        float(norm), float(loss.mean)  # waits for the device
        seconds.append(time.perf_counter() - began)
    return min(seconds[WARM_UP:])
