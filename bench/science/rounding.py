"""What holding the frozen weights and their inputs in 8 bits does to an adapter's gradient, on a real model.

    python bench/science/rounding.py --out bench/results/rounding.json [--model smollm2-135m] [--rows 12]

Every product of the layers' linears is made with rounded factors, simulated in fp32: x and W forward, dY and the same W
backward, each row with a scale of its own. `e4m3` is FP8 with three bits of mantissa, `int8` 256 even steps. `turned`
multiplies blocks of 64 inputs of x and of W by a Hadamard matrix first, which changes no product and spreads what
stands out over the block (QuaRot, arXiv 2404.00456). Printed is the cosine of the gradient of LoRA adapters (r=16,
neither A nor B zero) with the one in fp32, and the loss. Any machine will do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tasks import rendered
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from residency import durable
from residency.config.model import Model
from residency.data.messages import Rendered
from residency.data.render import renderer_for
from residency.models.load import load_model, load_tokenizer, versions

Rounding: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
RANK, BLOCK = 16, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results/rounding.json"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=12)
    options = parser.parse_args()
    rows = rendered("docstrings", 0, options.rows, renderer_for(load_tokenizer(Model(id=options.model))))
    model = load_model(Model(id=options.model), dtype=torch.float32, device=torch.device("cpu")).requires_grad_(False)
    linears = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear) and ".layers." in name}
    exact, loss = gradient(model, linears, rows, (same, same, same))
    found: dict[str, Any] = {"conditions": versions() | {"rows": options.rows}, "fp32 loss": loss, "cosine": {}}
    for name, how in KINDS.items():
        rounded, loss = gradient(model, linears, rows, how)
        cosine = float(cosine_similarity(rounded.double(), exact.double(), 0))
        found["cosine"][name] = {"cosine": round(cosine, 4), "loss": loss}
        print(name, json.dumps(found["cosine"][name]), flush=True)
    durable.write_json(options.out, found)


def same(x: torch.Tensor) -> torch.Tensor:
    return x


def e4m3(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


def int8(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    return (x / scale).round() * scale


def turned(x: torch.Tensor, rounding: Rounding) -> torch.Tensor:
    """Rounded in blocks that a Hadamard matrix has turned, and turned back."""
    matrix = torch.ones(1, 1)
    while len(matrix) < BLOCK:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    matrix = matrix / BLOCK**0.5
    blocks = x.unflatten(-1, (-1, BLOCK))
    return (rounding((blocks @ matrix).flatten(-2)).unflatten(-1, (-1, BLOCK)) @ matrix).flatten(-2)


TURNED = partial(turned, rounding=int8)
KINDS: dict[str, tuple[Rounding, Rounding, Rounding]] = {
    "e4m3: x, W, dY": (e4m3, e4m3, e4m3), "e4m3: x": (e4m3, same, same), "e4m3: W": (same, e4m3, same),
    "e4m3: dY": (same, same, e4m3), "int8: x, W, dY": (int8, int8, int8), "int8: x": (int8, same, same),
    "int8: W": (same, int8, same), "int8: dY": (same, same, int8), "int8: x turned": (TURNED, same, same),
    "int8: x and W turned, dY": (TURNED, TURNED, int8),
}  # fmt: skip
"""How x, W and dY are rounded."""


class RoundedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, how: tuple[Rounding, Rounding, Rounding]) -> Any:
        ctx.weight, ctx.how = how[1](weight), how
        return how[0](x) @ ctx.weight.T

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return ctx.how[2](grad) @ ctx.weight, None, None


def gradient(
    model: Any, linears: dict[str, Any], rows: list[Rendered], how: tuple[Rounding, Rounding, Rounding]
) -> tuple[torch.Tensor, float]:
    """The adapters' gradient as one vector, and the mean loss in nats."""
    torch.manual_seed(0)
    adapters = []
    for one in linears.values():
        a = (torch.randn(RANK, one.in_features) * one.in_features**-0.5).requires_grad_()
        b = (torch.randn(one.out_features, RANK) * 0.01).requires_grad_()
        adapters += [a, b]
        weight = one.weight.detach()
        one.forward = lambda x, w=weight, a=a, b=b: RoundedProduct.apply(x, w, how) + x @ a.T @ b.T
    total, tokens = 0.0, 0
    for row in rows:
        ids, trained = torch.from_numpy(row.input_ids).long(), torch.from_numpy(row.trained)
        logits = model(input_ids=ids[None]).logits[0, :-1]
        loss = cross_entropy(logits[trained[1:]], ids[1:][trained[1:]], reduction="sum")
        torch.autograd.backward(loss)
        total, tokens = total + float(loss.detach()), tokens + int(trained.sum())
    return torch.cat([one.grad.flatten() for one in adapters if one.grad is not None]), round(total / tokens, 4)


if __name__ == "__main__":
    main()
