"""The model into the engine before training, and the result out of it afterwards."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from residency import durable
from residency.config.model import Full, Qlora, ResolvedConfig
from residency.engine.adapters import ADAPTER, peft_config
from residency.engine.checkpoint import require_disk_space
from residency.engine.compiled import Compilation
from residency.engine.engine import FULL, Engine
from residency.engine.speed import Speed
from residency.models.chat import fit_embeddings
from residency.models.hub import is_hub_id
from residency.models.load import load_model
from residency.models.quiet import quiet_transformers
from residency.models.starter import STARTER_ID
from residency.records import RunFolder
from residency.stages.facts import device
from residency.stages.prepare import Prepared

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def result_name(resolved: ResolvedConfig) -> str:
    """What the engine calls the thing that is trained."""
    return FULL if isinstance(resolved.adapter, Full) else ADAPTER


def result_folder(run: RunFolder, resolved: ResolvedConfig) -> Path:
    return run / ("model" if isinstance(resolved.adapter, Full) else "adapter")


def load_base(resolved: ResolvedConfig, vocabulary: int) -> tuple[Any, torch.dtype | None]:
    """The base model, and the dtype to compute in where that is not the weights' own.

    Weights that are trained stay in fp32, where small updates do not vanish; a frozen base is held as it is computed.
    """
    here, dtype = device(), DTYPES[resolved.speed.precision]
    full = isinstance(resolved.adapter, Full)
    model = load_model(resolved.model, dtype=torch.float32 if full else dtype, device=here,
                       quantize=isinstance(resolved.adapter, Qlora))  # fmt: skip
    fit_embeddings(model, vocabulary)
    if is_hub_id(resolved.model.id) and resolved.model.id != STARTER_ID:
        model.name_or_path = resolved.model.id  # PEFT writes it into the adapter, which must not name a cache folder
    return model, dtype if full and dtype is not torch.float32 else None


def start_engine(prepared: Prepared, run: RunFolder) -> Engine:
    """Loads the base and adds what is trained, as the seed starts it. Raises ModelError, ResourceError."""
    resolved = prepared.resolved
    model, autocast = load_base(resolved, len(prepared.renderer.tokenizer))
    engine = new_engine(model, resolved, autocast, run)
    add_trained(engine, result_name(resolved), prepared, run)
    return engine


def add_trained(engine: Engine, name: str, prepared: Prepared, run: RunFolder) -> None:
    """Adds what this run trains, beside what the engine trains already."""
    resolved, model = prepared.resolved, engine.model
    if isinstance(resolved.adapter, Full):
        engine.train_all_weights()
    else:
        config = peft_config(resolved.adapter, model.name_or_path, prepared.template_token_ids)
        engine.add_adapter(name, config, seed=resolved.train.seed)
    say_speed(engine, resolved, run)
    count = engine.trainable_parameters(name)
    require_disk_space(run.path, count * 4 * (3 * resolved.train.keep_checkpoints + 5))
    total = model.num_parameters() - sum(engine.trainable_parameters(one) for one in engine.trained if one != name)
    run.say("model", f"{count:,} of {total:,} weights are trained", trained=count)


def new_engine(model: Any, resolved: ResolvedConfig, autocast: torch.dtype | None, run: RunFolder) -> Engine:
    return Engine(
        model,
        **engine_settings(resolved, autocast),
        on_smaller_micro_batch=partial(say_smaller, run),
        on_compiled=partial(say_compiled, run),
    )


def say_smaller(run: RunFolder, tokens: int) -> None:
    run.say("micro_batch_halved", f"memory ran out; {tokens} tokens pass at once from now on, with the same result",
            level="warning", micro_batch_tokens=tokens)  # fmt: skip


def say_compiled(run: RunFolder, found: Compilation) -> None:
    passes = f"layers compiled for passes of {found.tokens} tokens in {found.seconds:.1f} s"
    if found.problem:
        run.say("compile_dropped", f"{passes} are not used: {found.problem}; training goes on uncompiled",
                level="warning", **asdict(found))  # fmt: skip
        return
    run.say("compiled", f"{passes}; against the same pass uncompiled the loss differs by {found.loss_error:.1e} of "
            f"itself, no gradient by more than {found.gradient_error:.1e}", **asdict(found))  # fmt: skip


def engine_settings(resolved: ResolvedConfig, autocast: torch.dtype | None) -> dict[str, Any]:
    return {
        "micro_batch_tokens": resolved.train.micro_batch_tokens,
        "packing": resolved.speed.packing,
        "share_prefix": resolved.speed.share_prefix,
        "autocast": autocast,
        "speed": Speed(
            fused=None if resolved.speed.fused else False,
            kernels=None if resolved.speed.kernels else False,
            fp8=resolved.speed.fp8,
            first_last_layers_bf16=resolved.speed.first_last_layers_bf16,
            layers_formed_again=resolved.speed.recompute_layers,
            offload=resolved.speed.offload,
            compile=resolved.speed.compile,
        ),
    }


def say_speed(engine: Engine, resolved: ResolvedConfig, run: RunFolder) -> None:
    said = [
        f"{name} {'on' if getattr(engine.speed, name, False) else 'off'} ({reason})"
        for name, reason in engine.reasons.items()
    ]
    refused = resolved.speed.fp8 and not engine.speed.fp8
    run.say("speed", f"speed: {', '.join(said)}", level="warning" if refused else "info", **engine.reasons)


def save_result(engine: Engine, name: str, tokenizer: Any, resolved: ResolvedConfig, run: RunFolder) -> None:
    """The adapter in PEFT's format, or the whole model in transformers', with the tokenizer and its template."""
    folder = result_folder(run, resolved)
    aside = folder.with_name(f".{folder.name}.writing")
    with durable.disk_errors(folder):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if isinstance(resolved.adapter, Full):
            with quiet_transformers():
                engine.model.save_pretrained(aside)
        else:
            engine.save(name, aside, optimizer=False)
        tokenizer.save_pretrained(aside)
        for file in aside.iterdir():
            durable.sync_file(file)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        durable.sync_folder(run.path)
    run.say("saved", f"the result is in {folder}", path=str(folder))
