"""One product with a frozen weight, and several adapters on it: forward and backward written out.

The linears of a model that read the same input (q, k, v; gate, up) are one product here: their weights lie in one
tensor, their A matrices below one another, their B matrices as blocks on a diagonal. The tokens of a pass belong to
`Slots`: neighbouring adapters, each with an equal share of the tokens, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from residency.engine.fp8 import Fp8Weight
from residency.engine.frozen import Nf4Weight, Workspace, is_nf4, side_by_side


class Slots(NamedTuple):
    """The adapters of a pass: so many from number `first` on (0: the base model alone)."""

    first: int
    adapters: int


class Quantized(NamedTuple):
    """Rows in e4m3 and their scales, shape (tokens, 1); both empty where FP8 is off."""

    rows: torch.Tensor
    scales: torch.Tensor


@dataclass(slots=True)
class Stack:
    """All adapters on one product; adapters of a lower rank are filled up with zeros."""

    a: torch.Tensor
    """Shape (adapters, rank, in), in the dtype of the products."""
    b: torch.Tensor
    """Shape (adapters, out, rank), with the adapter's scale in it."""
    grad_a: torch.Tensor
    grad_b: torch.Tensor
    """Gradients for a and b, in fp32."""


class Product:
    """y = x W' + bias + (x A') B', for x (tokens, in)."""

    def __init__(self, linears: list[nn.Linear], workspace: Workspace, *, fp8: bool) -> None:
        self.linears = linears
        self.weight: torch.Tensor | Fp8Weight | Nf4Weight
        if is_nf4(linears[0]):
            self.weight = Nf4Weight(linears, workspace)
        elif fp8:
            self.weight = Fp8Weight(linears, workspace)
        else:
            self.weight = side_by_side(linears)
        self.out_features, self.in_features = self.weight.shape
        biases = [one.bias for one in linears]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        self.stack: Stack | None = None

    def a(self, slots: Slots) -> torch.Tensor | None:
        """The A matrices of the pass, shape (adapters, rank, in); None without adapters."""
        return (
            None
            if self.stack is None or not slots.adapters
            else self.stack.a[slots.first : slots.first + slots.adapters]
        )

    def b(self, slots: Slots) -> torch.Tensor | None:
        """The B matrices of the pass, shape (adapters, out, rank)."""
        return (
            None
            if self.stack is None or not slots.adapters
            else self.stack.b[slots.first : slots.first + slots.adapters]
        )

    def base(self, x: torch.Tensor, quantized: Quantized | None = None) -> torch.Tensor:
        """x W' + bias alone."""
        if isinstance(self.weight, Fp8Weight):
            y = self.weight.forward(x, quantized)
            return y if self.bias is None else y.add_(self.bias)
        return torch.nn.functional.linear(x, self._matrix(), self.bias)

    def base_backward(self, grad: torch.Tensor, quantized: Quantized | None = None) -> torch.Tensor:
        """grad W."""
        return self.weight.backward(grad, quantized) if isinstance(self.weight, Fp8Weight) else grad @ self._matrix()

    def inner(self, x: torch.Tensor, slots: Slots) -> torch.Tensor | None:
        """x A'."""
        a = self.a(slots)
        return None if a is None else _batched(x, a.mT)

    def backward_b(self, grad: torch.Tensor, inner: torch.Tensor | None, slots: Slots) -> torch.Tensor | None:
        """Adds B's gradient. Returns the one for x A'."""
        b = self.b(slots)
        if b is None or inner is None or self.stack is None:
            return None
        _accumulate(self.stack.grad_b[slots.first : slots.first + slots.adapters], grad, inner)
        return _batched(grad, b)

    def forward(
        self, x: torch.Tensor, slots: Slots, *, quantized: Quantized | None = None,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """Returns the product (plus `residual`), and x A' for the backward pass.

        The update is formed first and the large product added onto it, so that y is not read and written again.
        """
        y, b, inner = residual, self.b(slots), self.inner(x, slots)
        if b is not None and inner is not None:
            if isinstance(self.weight, Fp8Weight):
                y = _batched(inner, b.mT, onto=self.weight.forward(x, quantized))
                y = y if residual is None else y.add_(residual)
                return (y if self.bias is None else y.add_(self.bias)), inner
            y = _batched(inner, b.mT, plus=residual)
        elif residual is not None:
            y = residual.clone()
        if isinstance(self.weight, Fp8Weight):
            product = self.weight.forward(x, quantized)
            y = product if y is None else y.add_(product)
        else:
            y = x @ self._matrix().T if y is None else y.addmm_(x, self._matrix().T)
        return (y if self.bias is None else y.add_(self.bias)), inner

    def backward(
        self, grad: torch.Tensor, grad_inner: torch.Tensor | None, slots: Slots, *, quantized: Quantized | None = None
    ) -> torch.Tensor:  # fmt: skip
        """The gradient for x, from the one for x A'."""
        a = self.a(slots)
        if a is None or grad_inner is None:
            return self.base_backward(grad, quantized)
        if isinstance(self.weight, Fp8Weight):
            return _batched(grad_inner, a, onto=self.weight.backward(grad, quantized))
        return _batched(grad_inner, a).addmm_(grad, self._matrix())

    def _matrix(self) -> torch.Tensor:
        """The weight, shape (out, in), in the dtype of x."""
        assert not isinstance(self.weight, Fp8Weight)
        return self.weight.matrix() if isinstance(self.weight, Nf4Weight) else self.weight

    def backward_a(self, x: torch.Tensor, grad_inner: torch.Tensor | None, slots: Slots) -> None:
        if self.stack is not None and grad_inner is not None:
            _accumulate(self.stack.grad_a[slots.first : slots.first + slots.adapters], grad_inner, x)


def _batched(
    x: torch.Tensor, w: torch.Tensor, *, onto: torch.Tensor | None = None, plus: torch.Tensor | None = None
) -> torch.Tensor:
    """x (tokens, in), w (count, in, out): the i-th share of the rows times w[i]; added onto `onto` in place, or plus
    `plus` in a new tensor."""
    if len(w) == 1:
        if onto is not None:
            return onto.addmm_(x, w[0])
        return x @ w[0] if plus is None else torch.addmm(plus, x, w[0])
    shares, width = x.view(len(w), -1, x.shape[1]), w.shape[2]
    if onto is not None:
        onto.view(len(w), -1, width).baddbmm_(shares, w)
        return onto
    y = shares @ w if plus is None else torch.baddbmm(plus.view(len(w), -1, width), shares, w)
    return y.view(len(x), width)


def _accumulate(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total[i] += left_i' right_i in fp32, for the i-th share of the rows."""
    ls, rs = (t.view(len(total), -1, t.shape[1]) for t in (left, right))
    if left.dtype == torch.float32 or not left.is_cuda:
        total.baddbmm_(ls.mT.float(), rs.float())
    elif len(total) == 1:
        torch.ops.aten.addmm.dtype_out(total[0], ls[0].mT, rs[0], torch.float32, out=total[0])
    else:
        torch.ops.aten.baddbmm.dtype_out(total, ls.mT, rs, torch.float32, out=total)


@dataclass(frozen=True, slots=True)
class Linked:
    """One PEFT parameter and its places in a stack."""

    parameter: nn.Parameter
    value: torch.Tensor
    grad: torch.Tensor
    scale: float


class Adapters:
    """Keeps the stacks of all products in step with the parameters PEFT owns."""

    def __init__(self, products: list[Product], names: list[str], peft_layer_of: dict[nn.Module, Any]) -> None:
        self.names = names
        self.linked: dict[str, list[Linked]] = {name: [] for name in names}
        self.grads: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        for product in products:
            _stack(product, names, [peft_layer_of.get(one) for one in product.linears], self)

        self._refresh = {n: copies([(one.parameter, one.value, one.scale) for one in self.linked[n]]) for n in names}
        self._collect = {
            n: copies([(one.grad, _grad(one.parameter), one.scale) for one in self.linked[n]]) for n in names
        }

    @torch.no_grad()
    def refresh(self, names: list[str]) -> None:
        """Copies the parameters into the stacks; to be called when they have changed."""
        for name in names:
            self._refresh[name]()

    @torch.no_grad()
    def collect(self, name: str) -> None:
        """Puts what the stacks gathered into the parameters' `grad`, and clears the stacks."""
        self._collect[name]()
        self.clear(name)

    def leave(self, name: str, *, keep: bool) -> None:
        """Puts what was gathered where autograd adds to it; without `keep`, leaves nothing there."""
        self.collect(name)
        for one in self.linked[name]:
            one.parameter.grad = one.parameter.grad if keep else None

    def gathered(self) -> dict[str, list[torch.Tensor]]:
        """What each adapter gathered for its next step, for the stacks that come after these."""
        return {name: [one.grad.clone() for one in linked] for name, linked in self.linked.items()}

    def gather(self, gathered: dict[str, list[torch.Tensor]]) -> None:
        for name, parts in gathered.items():
            for one, part in zip(self.linked[name], parts, strict=True):
                one.grad.copy_(part)

    def clear(self, name: str) -> None:
        torch._foreach_zero_(self.grads[name])


def _grad(parameter: nn.Parameter) -> torch.Tensor:
    parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def copies(pairs: list[tuple[torch.Tensor, torch.Tensor, float]]) -> Callable[[], None]:
    """A function that copies each first matrix, times its scale, into the second: on a GPU in one launch."""
    if pairs and pairs[0][0].is_cuda and pairs[0][0].dtype == torch.float32:
        from residency.engine.triton_kernels import CopyTable

        return CopyTable(pairs).run
    sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scales = [pair[2] for pair in pairs]
    return lambda: torch._foreach_copy_(targets, torch._foreach_mul(sources, scales))


def _stack(product: Product, names: list[str], layers: list[Any], adapters: Adapters) -> None:
    present = [layer for layer in layers if layer is not None]
    ranks = {name: sum(layer.r[name] for layer in present if name in layer.lora_A) for name in names}
    if not any(ranks.values()):
        product.stack = None
        return
    rank = max(16, 1 << (max(ranks.values()) - 1).bit_length())  # the kernels' tiles take powers of two
    like = product.weight if isinstance(product.weight, torch.Tensor) else product.weight.like
    a = torch.zeros(len(names), rank, product.in_features, dtype=like.dtype, device=like.device)
    b = torch.zeros(len(names), product.out_features, rank, dtype=like.dtype, device=like.device)
    stack = Stack(a, b, torch.zeros_like(a, dtype=torch.float32), torch.zeros_like(b, dtype=torch.float32))
    product.stack = stack
    for slot, name in enumerate(names):
        adapters.grads[name] += [stack.grad_a[slot], stack.grad_b[slot]]
        first_rank = first_row = 0
        for linear, layer in zip(product.linears, layers, strict=True):
            rows = slice(first_row, first_row + linear.out_features)
            first_row += linear.out_features
            if layer is None or name not in layer.lora_A:
                continue
            ranks_here = slice(first_rank, first_rank + layer.r[name])
            first_rank += layer.r[name]
            adapters.linked[name] += [
                Linked(layer.lora_A[name].weight, a[slot, ranks_here], stack.grad_a[slot, ranks_here], 1.0),
                Linked(
                    layer.lora_B[name].weight,
                    b[slot, rows, ranks_here],
                    stack.grad_b[slot, rows, ranks_here],
                    layer.scaling[name],
                ),
            ]
