"""Adapter, weights and optimizer as safetensors files, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from residency.engine.optim import StepSettings, step_sizes
from residency.errors import RunError

Snapshot: TypeAlias = list[tuple[nn.Parameter, torch.Tensor, dict[str, torch.Tensor]]]
"""Each parameter with copies of its value and of its optimizer's state."""

ADAPTER = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"


@dataclass(slots=True)
class Trained:
    """One named set of parameters, with its optimizer and what has been added since its last step."""

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    tokens: int = 0

    def step(self, settings: StepSettings) -> float:
        """One AdamW step with autograd's gradients. Returns their norm before clipping; where it is not finite, the
        weights stay as they are."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        tokens, self.tokens = self.tokens, 0
        if not gradients:
            return 0.0
        torch._foreach_mul_(gradients, 1.0 / max(1, tokens))
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            self.optimizer.zero_grad()
            return float(norm)
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), settings.max_grad_norm, norm)
        step_sizes(self.optimizer, settings)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)


def weights(trained: Trained) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trained.parameters.values()])


@torch.no_grad()
def set_weights(trained: Trained, weights: torch.Tensor) -> None:
    parameters = list(trained.parameters.values())
    for parameter, part in zip(parameters, torch.split(weights, [p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))


def snapshot(trained: Trained) -> Snapshot:
    return [
        (p, p.detach().clone(), {key: value.clone() for key, value in trained.optimizer.state.get(p, {}).items()})
        for p in trained.parameters.values()
    ]


@torch.no_grad()
def put_back(trained: Trained, copies: Snapshot) -> None:
    for parameter, value, moments in copies:
        parameter.copy_(value)
        trained.optimizer.state[parameter] = {key: moment.clone() for key, moment in moments.items()}


def adapter_parameters(model: Any, name: str) -> dict[str, nn.Parameter]:
    """The parameters that PEFT trains for the active adapter `name`, by their full names."""
    return {
        full: p
        for full, p in model.named_parameters()
        if p.requires_grad and (f".{name}." in full or full.endswith(f".{name}"))
    }


def twin_parameters(model: Any, of: Mapping[str, nn.Parameter], adapter: str, twin: str) -> dict[str, nn.Parameter]:
    """What `of` are to `adapter`, to another adapter like it."""
    parts = [full.rpartition(f".{adapter}.") for full in of]
    return {name: model.get_parameter(name) for name in (f"{before}.{twin}.{after}" for before, _, after in parts)}


def save(model: Any, name: str, parameters: Mapping[str, nn.Parameter], folder: Path) -> None:
    """An adapter in PEFT's format, readable by PEFT alone; else the weights under their own names."""
    configs = getattr(model, "peft_config", {})
    if name not in configs:
        save_file({key: p.detach().contiguous() for key, p in parameters.items()}, folder / WEIGHTS)
        return
    tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    save_file({key: t.contiguous() for key, t in tensors.items()}, folder / ADAPTER, metadata={"format": "pt"})
    configs[name].save_pretrained(str(folder))


def restore(model: Any, name: str, parameters: Mapping[str, nn.Parameter], folder: Path) -> None:
    if name in getattr(model, "peft_config", {}):
        tensors = load_file(folder / ADAPTER)
        expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        if different := sorted(expected.keys() ^ tensors.keys()):
            raise RunError(f"{folder / ADAPTER} is not of this adapter: {different[0]} has no counterpart",
                           param=str(folder))  # fmt: skip
        set_peft_model_state_dict(model, tensors, adapter_name=name)
        return
    tensors = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(tensors[key])


def nameless(parameter: str, adapter: str) -> str:
    """A parameter's name without its adapter's, so that what one adapter saved another can go on from."""
    return parameter.replace(f".{adapter}.", ".").removesuffix(f".{adapter}")


def save_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], adapter: str, folder: Path
) -> None:
    tensors = {
        f"{nameless(name, adapter)}|{key}": value.contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(tensors, folder / OPTIMIZER)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], adapter: str, folder: Path
) -> None:
    optimizer.state.clear()
    own = {nameless(name, adapter): parameter for name, parameter in parameters.items()}
    for key, value in load_file(folder / OPTIMIZER).items():
        name, _, slot = key.rpartition("|")
        parameter = own[name]
        optimizer.state[parameter][slot] = value.to(parameter.device)  # `step` too, as the fused kernel wants it
