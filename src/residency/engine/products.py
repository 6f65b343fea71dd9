"""One product with a frozen weight, and several adapters on it: forward and backward written out.

The linears of a model that read the same input (q, k, v; gate, up) are one product here: their weights lie in one
tensor, their A matrices below one another, their B matrices as blocks on a diagonal. The tokens of a pass belong to
`Slots`: neighbouring adapters, each with an equal share of the tokens, in order.

A single adapter lies in the border of the weight itself: [[W, B], [A, 0]]. With x A' beside x one product gives
x W' + (x A') B', and with g B beside g one gives g W + (g B) A. The update then costs no pass over the results, and
rows are made with room beside them, as wide as the border. Several adapters on a small base have a copy of it each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from residency.engine.batch import round_up
from residency.engine.fp8 import Fp8Weight
from residency.engine.frozen import Nf4Weight, Workspace, is_nf4, shares, side_by_side
from residency.engine.memory import total_bytes
from residency.engine.rows import with_room

BORDER_MULTIPLE = 16
"""Matrices whose rows start at multiples of 32 bytes are multiplied as fast as others."""
COPIES_SHARE = 0.05
"""Most of a card's memory that copies of a base may take."""


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
    grad_a: torch.Tensor = field(init=False)
    grad_b: torch.Tensor = field(init=False)
    """Gradients for a and b, in fp32."""


class Product:
    """y = x W' + bias + (x A') B', for x (tokens, in). Rows may have room beside them, which counts for nothing."""

    def __init__(
        self, linears: list[nn.Linear], workspace: Workspace, *, fp8: bool, may_alternate: bool = False
    ) -> None:
        self.linears, self.may_alternate = linears, may_alternate
        self.weight: torch.Tensor | Fp8Weight | Nf4Weight
        if is_nf4(linears[0]):
            self.weight = Nf4Weight(linears, workspace)
        elif fp8:
            self.weight = Fp8Weight(linears, workspace)
        else:
            self.weight = side_by_side(linears)[0]
        self.out_features, self.in_features = self.weight.shape
        biases = [one.bias for one in linears]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
        self.stack: Stack | None = None
        self.bordered = self.weight[None] if isinstance(self.weight, torch.Tensor) else None
        """A plain weight with its border, shape (copies, out + rank, in + rank)."""
        self.alternating = False
        """Whether the rows of the linears alternate in the weight, instead of one linear's coming after another's."""

    def lay(self, rank: int, copies: int, *, alternating: bool) -> torch.Tensor:
        """Gives a plain weight a border of this width, and returns both, so many times."""
        assert self.bordered is not None
        shape = (copies, self.out_features + rank, self.in_features + rank)
        if self.bordered.shape != shape or alternating != self.alternating:
            first = side_by_side(self.linears, rank, copies, alternating=alternating)
            self.bordered, self.alternating = first, alternating
            self.weight = first[0, : self.out_features, : self.in_features]
        return self.bordered

    def room(self, slots: Slots) -> int:
        """The columns that rows of a pass are to have beside them."""
        return 0 if self.bordered is None or not slots.adapters else self.bordered.shape[1] - self.out_features

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

    def loose_a(self, slots: Slots) -> torch.Tensor | None:
        """A, where `backward` leaves the update to the caller who lets it."""
        return None if self.room(slots) else self.a(slots)

    def loose_b(self, slots: Slots) -> torch.Tensor | None:
        """B, where `forward` leaves the update to the caller who lets it."""
        return None if self.room(slots) else self.b(slots)

    def forward_matrix(self, slots: Slots) -> torch.Tensor:
        """[W, B] for x with x A' beside it, one for each adapter of the pass; W alone for a pass without border."""
        return self._bordered(slots)[:, : self.out_features, : self.in_features + self.room(slots)]

    def backward_matrix(self, slots: Slots) -> torch.Tensor:
        """[W; A] for a gradient with the one for x A' beside it, likewise."""
        return self._bordered(slots)[:, : self.out_features + self.room(slots), : self.in_features]

    def _bordered(self, slots: Slots) -> torch.Tensor:
        assert self.bordered is not None
        return self.bordered[slots.first : slots.first + slots.adapters] if self.room(slots) else self.bordered[:1]

    def inner(self, x: torch.Tensor, slots: Slots) -> torch.Tensor | None:
        """x A'. Where x has room for it, it is put there too: x goes, and this is kept for the backward pass."""
        a = self.a(slots)
        if a is None:
            return None
        inner = _batched(x[:, : self.in_features], a.mT)
        if x.shape[1] >= self.in_features + self.room(slots) > self.in_features:
            x[:, self.in_features : self.in_features + self.room(slots)] = inner
        return inner

    def forward(
        self, x: torch.Tensor, slots: Slots, *, quantized: Quantized | None = None, loose: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the product, and x A' for the backward pass. `loose`: without the update, where `loose_b` is one.

        The product has room beside it if x has.
        """
        inner, b = self.inner(x, slots), None if loose else self.loose_b(slots)
        rows, room = x[:, : self.in_features], self.room(slots)
        if room and x.shape[1] >= self.in_features + room:
            y = with_room(len(x), self.out_features, room, x)
            _batched(x[:, : self.in_features + room], self.forward_matrix(slots).mT, into=y[:, : self.out_features])
        elif isinstance(self.weight, Fp8Weight):
            y = self.weight.forward(rows, quantized)
            y = y if b is None or inner is None else _batched(inner, b.mT, onto=y)
        elif inner is None or loose:
            y = rows @ self._matrix().T
        else:  # the update first and the large product onto it, so that y is not read and written again
            b = self.b(slots)
            assert b is not None
            y = _batched(inner, b.mT).addmm_(rows, self._matrix().T)
        if self.bias is not None:
            y[:, : self.out_features] += self.bias
        return y, inner

    def backward_b(self, grad: torch.Tensor, inner: torch.Tensor | None, slots: Slots) -> torch.Tensor | None:
        """Adds B's gradient. Returns the one for x A'; where `grad` has room for it, it lies there."""
        b = self.b(slots)
        if b is None or inner is None or self.stack is None:
            return None
        rows = grad[:, : self.out_features]
        _accumulate(self.stack.grad_b[slots.first : slots.first + slots.adapters], rows, inner)
        room = self.room(slots)
        return _batched(rows, b, into=grad[:, self.out_features : self.out_features + room] if room else None)

    def backward(
        self, grad: torch.Tensor, grad_inner: torch.Tensor | None, slots: Slots, *, quantized: Quantized | None = None,
        loose: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        """The gradient for x, from the one for x A'. `loose`: without the update, where `loose_a` is one."""
        a = None if loose else self.loose_a(slots)
        rows = grad[:, : self.out_features]
        if room := self.room(slots):
            return _batched(grad[:, : self.out_features + room], self.backward_matrix(slots))
        if isinstance(self.weight, Fp8Weight):
            y = self.weight.backward(rows, quantized)
            return y if a is None or grad_inner is None else _batched(grad_inner, a, onto=y)
        if a is None or grad_inner is None:
            return rows @ self._matrix()
        return _batched(grad_inner, a).addmm_(rows, self._matrix())

    def _matrix(self) -> torch.Tensor:
        """The weight, shape (out, in), in the dtype of x."""
        assert not isinstance(self.weight, Fp8Weight)
        return self.weight.matrix() if isinstance(self.weight, Nf4Weight) else self.weight

    def backward_a(self, x: torch.Tensor, grad_inner: torch.Tensor | None, slots: Slots) -> None:
        if self.stack is not None and grad_inner is not None:
            _accumulate(self.stack.grad_a[slots.first : slots.first + slots.adapters], grad_inner, x)


def _batched(
    x: torch.Tensor, w: torch.Tensor, *, onto: torch.Tensor | None = None, into: torch.Tensor | None = None
) -> torch.Tensor:
    """x (tokens, in), w (count, in, out): the i-th share of the rows times w[i]; added onto `onto` in place, or written
    into `into`."""
    if len(w) == 1:
        return torch.mm(x, w[0], out=into) if onto is None else onto.addmm_(x, w[0])
    shared, width = x.view(len(w), -1, x.shape[1]), w.shape[2]
    if onto is not None:
        onto.view(len(w), -1, width).baddbmm_(shared, w)
        return onto
    y = torch.bmm(shared, w, out=None if into is None else into.view(len(w), -1, width))
    return y.view(len(x), width) if into is None else into


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
    """Keeps the stacks of all products in step with the parameters PEFT owns, which have their gradients already."""

    def __init__(self, products: list[Product], names: list[str], peft_layer_of: dict[nn.Module, Any]) -> None:
        self.names = names
        self.linked: dict[str, list[Linked]] = {name: [] for name in names}
        bordered = len(names) == 1 or _may_copy(products, len(names))
        layers = {product: [peft_layer_of.get(one) for one in product.linears] for product in products}
        for product in products:
            product.stack = _stack(product, names, layers[product], bordered=bordered)
        self.gradients = _as_rows([one.stack for one in products if one.stack], len(names))
        """All that the stacks gather, a row for each adapter."""
        for product in products:
            self._link(product, layers[product])

        self._refresh = {n: copies([(one.parameter, one.value, one.scale) for one in self.linked[n]]) for n in names}
        self._collect = {n: copies([(one.grad, _grad(one.parameter), one.scale) for one in self.linked[n]])
                         for n in names}  # fmt: skip

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
        self.gradients[self.names.index(name)].zero_()

    def _link(self, product: Product, layers: list[Any]) -> None:
        if (stack := product.stack) is None:
            return
        for slot, name in enumerate(self.names):
            first_rank = 0
            values, grads = (
                shares(b[slot], product.linears, alternating=product.alternating) for b in (stack.b, stack.grad_b)
            )
            for layer, b, grad_b in zip(layers, values, grads, strict=True):
                if layer is None or name not in layer.lora_A:
                    continue
                ranks = slice(first_rank, first_rank + layer.r[name])
                first_rank += layer.r[name]
                self.linked[name] += [
                    Linked(layer.lora_A[name].weight, stack.a[slot, ranks], stack.grad_a[slot, ranks], 1.0),
                    Linked(layer.lora_B[name].weight, b[:, ranks], grad_b[:, ranks], layer.scaling[name]),
                ]


def _grad(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def copies(pairs: list[tuple[torch.Tensor, torch.Tensor, float]]) -> Callable[[], None]:
    """A function that copies each first matrix, times its scale, into the second: on a GPU in one launch."""
    if pairs and pairs[0][0].is_cuda and pairs[0][0].dtype == torch.float32:
        from residency.engine.triton_kernels import CopyTable

        return CopyTable(pairs).run
    sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scales = [pair[2] for pair in pairs]
    return lambda: torch._foreach_copy_(targets, torch._foreach_mul(sources, scales))


def _may_copy(products: list[Product], copies: int) -> bool:
    """Whether the base is so small that each adapter may have its own."""
    weights = [product.weight for product in products if isinstance(product.weight, torch.Tensor)]
    needed = copies * sum(weight.nbytes for weight in weights)
    return needed <= COPIES_SHARE * total_bytes(weights[0].device) if weights else False


def _stack(product: Product, names: list[str], layers: list[Any], *, bordered: bool) -> Stack | None:
    """In the border of a plain weight, or beside it; without gradients yet."""
    present = [layer for layer in layers if layer is not None]
    rank = max((sum(layer.r[name] for layer in present if name in layer.lora_A) for name in names), default=0)
    out, width = product.out_features, product.in_features
    if isinstance(product.weight, torch.Tensor):
        border = round_up(rank, BORDER_MULTIPLE) if bordered else 0
        whole = product.lay(
            border, len(names) if border else 1, alternating=len(names) == 1 and product.may_alternate
        )  # fmt: skip
        if border:
            return Stack(whole[:, out:, :width], whole[:, :out, width:])
    if not rank:
        return None
    rank = max(16, 1 << (rank - 1).bit_length())  # the kernels' tiles take powers of two
    like = product.weight if isinstance(product.weight, torch.Tensor) else product.weight.like
    return Stack(like.new_zeros(len(names), rank, width), like.new_zeros(len(names), out, rank))


def _as_rows(stacks: list[Stack], adapters: int) -> torch.Tensor:
    """Gives the stacks their gradients: zeros, in fp32, as columns of what is returned."""
    matrices = [matrix for stack in stacks for matrix in (stack.a, stack.b)]
    sizes = [matrix[0].numel() for matrix in matrices]
    device = matrices[0].device if matrices else None
    rows = torch.zeros(adapters, sum(sizes), dtype=torch.float32, device=device)
    columns = iter(torch.split(rows, sizes, dim=1))
    for stack in stacks:
        stack.grad_a, stack.grad_b = (next(columns).view(matrix.shape) for matrix in (stack.a, stack.b))
    return rows
