"""Which speed-ups a card and a model allow; each has a plain twin with the same result, and can be switched off."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass, replace
from typing import Any

import torch

from residency.engine import hopper
from residency.engine.fused import in_nf4, recognise
from residency.engine.recompute import decoder_layers

LARGEST_GRAPH_PARAMETERS = 3e9
"""Above this a pass keeps the card busy longer than its launches take."""
FP8_CAPABILITY = (9, 0)
"""Hopper: older cards lack products with a scale for each row."""


@dataclass(frozen=True, slots=True)
class Speed:
    """None: decided by `choose`."""

    fused: bool | None = None
    """Training passes written out for Llama-like models with plain LoRA, instead of transformers' and autograd's."""
    graphs: bool | None = None
    """Whole passes and steps recorded as CUDA graphs."""
    kernels: bool | None = None
    """In fused passes, the attention and the products of installed packages (`hopper`)."""
    fp8: bool = False
    """The frozen weights in FP8. It changes the numbers a little, so nobody but the user decides for it."""
    first_last_layers_bf16: int = 0
    """So many of the first layers and of the last keep their weights as they are."""
    shared: bool | None = None
    """Several adapters in one pass over the base. On a CPU that saves nothing, and one after another each is computed
    as it would be alone, to the bit."""
    layers_formed_again: int = 0
    """So many layers keep their input alone and are formed again in the backward pass, to save memory."""
    offload: bool = False
    """What those layers keep waits in the host's memory."""
    compile: bool = False
    """Layers compiled by torch in the passes of autograd. Whoever knows how many steps come decides whether it pays."""


def choose(wanted: Speed, model: Any, *, plain_lora: bool, autocast: bool) -> tuple[Speed, dict[str, str]]:
    """The speed-ups to use, and for each the reason why, or why not."""
    reasons: dict[str, str] = {}
    fused = _fused(wanted, model, plain_lora, autocast, reasons)
    objection = (
        "not asked for" if not wanted.fp8
        else "needs the fused passes" if not fused
        else "the base is held in 4 bits" if in_nf4(model)
        else "this card has no FP8 units" if model.device.type == "cuda" and not has_fp8_units()
        else None
    )  # fmt: skip
    ends = wanted.first_last_layers_bf16
    kept = f"; layers at either end that stay in bf16: {ends}" if ends else ""
    fp8, reasons["fp8"] = objection is None, objection or f"asked for{kept}"
    graphs = _graphs(wanted, model, fused, reasons)
    kernels = _kernels(wanted, model, fused, graphs, reasons)
    if wanted.offload:
        waiting = "in the host's memory" if wanted.layers_formed_again else "nowhere: no layer is formed again"
        reasons["offload"] = f"layers' inputs wait {waiting}"
    compiled = _compiled(wanted, model, fused, reasons)
    if fused:
        reasons["share_prefix"] = "fused passes compute every row whole"
    shared = model.device.type != "cpu" if wanted.shared is None else wanted.shared
    decided = replace(wanted, fused=fused, graphs=graphs, kernels=kernels, fp8=fp8, shared=shared, compile=compiled)
    return decided, reasons


def _fused(wanted: Speed, model: Any, plain_lora: bool, autocast: bool, reasons: dict[str, str]) -> bool:
    objection = (
        "switched off" if wanted.fused is False
        else "what is trained is not plain LoRA on the layers' linears" if not plain_lora
        else "autocast decides the precision of each operation" if autocast
        else recognise(model)
        or (_lacking(model) if model.device.type == "cuda"
            else None if wanted.fused else "transformers' passes serve a CPU as well")
    )  # fmt: skip
    reasons["fused"] = objection or "a Llama-like model with plain LoRA"
    return objection is None


def _graphs(wanted: Speed, model: Any, fused: bool, reasons: dict[str, str]) -> bool:
    small = sum(p.numel() for p in model.parameters()) <= LARGEST_GRAPH_PARAMETERS
    objection = (
        "switched off" if wanted.graphs is False
        else "needs a CUDA device" if model.device.type != "cuda"
        else "needs the fused passes" if not fused
        else "layers' inputs wait in the host's memory" if wanted.offload
        else None if wanted.graphs or small
        else "the model is large enough to keep the card busy"
    )  # fmt: skip
    reasons["graphs"] = objection or "the model is small: launches would take longer than the work"
    return objection is None


def _kernels(wanted: Speed, model: Any, fused: bool, graphs: bool, reasons: dict[str, str]) -> bool:
    objection = (
        "switched off" if wanted.kernels is False
        else "needs the fused passes" if not fused
        else None if wanted.kernels
        else "needs a CUDA device" if model.device.type != "cuda"
        else "they are for passes that are not recorded" if graphs
        else hopper.lacking()
    )  # fmt: skip
    reasons["kernels"] = objection or "flash-attn-4 and quack-kernels"
    return objection is None


def _compiled(wanted: Speed, model: Any, fused: bool, reasons: dict[str, str]) -> bool:
    objection = (
        "not asked for" if not wanted.compile
        else "the fused passes need none" if fused
        else "its layers are none that transformers marks as such" if not decoder_layers(model)
        else no_compiler(model.device)
    )  # fmt: skip
    reasons["compile"] = objection or "the first pass of each length is compared with the same one uncompiled"
    return objection is None


def no_compiler(device: torch.device) -> str | None:
    """What torch's compiler needs and does not find."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    name = "CC" if device.type == "cuda" else "CXX"
    found = [os.environ[name]] if name in os.environ else ["gcc", "clang"] if name == "CC" else ["g++", "clang++"]
    return None if any(map(shutil.which, found)) else f"there is no compiler ({' or '.join(found)})"


def _lacking(model: Any) -> str | None:
    """What the kernels for a GPU need and do not find."""
    if model.dtype is not torch.bfloat16:
        return f"its weights are {str(model.dtype).removeprefix('torch.')}, and the kernels take bfloat16"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


def has_fp8_units() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= FP8_CAPABILITY
