"""What this card's own products reach: the ceilings the other rows are held against. gpu_rates.py OUT.jsonl"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from gpu_power import metered

F8 = torch.float8_e4m3fn
aten = torch.ops.aten


def milliseconds(work: Callable[[], Any], repeats: int = 20) -> float:
    for _ in range(5):
        work()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def product_rates(tokens: int, inputs: int, outputs: int) -> dict[str, Any]:
    x, w, y = random(tokens, inputs), random(outputs, inputs), random(tokens, outputs)
    xq, wq, one = x.to(F8), w.to(F8), torch.ones((), device="cuda")
    sx, sw = torch.ones(tokens, 1, device="cuda"), torch.ones(1, outputs, device="cuda")
    gigaflop = 2 * tokens * inputs * outputs / 1e9
    fp8 = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
    a, b = random(48, inputs), random(outputs, 48)
    inner = random(tokens, 48)
    times = {
        "bf16": milliseconds(lambda: x @ w.T),
        "bf16 onto": milliseconds(lambda: y.addmm_(x, w.T)),
        "bf16 dgrad": milliseconds(lambda: y @ w),
        "fp8 tensor": milliseconds(lambda: torch._scaled_mm(xq, wq.T, scale_a=one, scale_b=one, **fp8)),
        "fp8 rows": milliseconds(lambda: torch._scaled_mm(xq, wq.T, scale_a=sx, scale_b=sw, **fp8)),
    }
    rates = {key: round(gigaflop / ms) for key, ms in times.items()}
    skinny = {
        "x A'": milliseconds(lambda: x @ a.T), "inner B'": milliseconds(lambda: inner @ b.T),
        "y += inner B'": milliseconds(lambda: y.addmm_(inner, b.T)), "g B": milliseconds(lambda: y @ b),
        "g' inner": milliseconds(lambda: torch.mm(y.T, inner, out_dtype=torch.float32)),
        "inner' x": milliseconds(lambda: torch.mm(inner.T, x, out_dtype=torch.float32)),
        "turn e4m3": milliseconds(lambda: wq.T.contiguous()),
    }  # fmt: skip
    return {"shape": [tokens, inputs, outputs], "tflops": rates, "us": {k: round(1e3 * v) for k, v in skinny.items()}}


def scaled(x: torch.Tensor, w: torch.Tensor) -> Callable[[], Any]:
    rows, weight = x.to(F8), (400 * w).to(F8)
    scales = {"scale_a": torch.ones(len(x), 1, device="cuda"), "scale_b": torch.ones(1, len(w), device="cuda")}
    return lambda: torch._scaled_mm(rows, weight.T, **scales, out_dtype=torch.bfloat16, use_fast_accum=True)


def sustained(seconds: float, *, fp8: bool) -> dict[str, Any]:
    """The large products of one layer of the 8B shape, forward and backward, over and over: what is left when nothing
    pauses between them and the card has to keep to its power."""
    tokens, shapes = 8192, ((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096))
    work: list[Callable[[], Any]] = []
    for inputs, outputs in shapes:
        x, w, y = random(tokens, inputs), random(outputs, inputs) * 0.02, random(tokens, outputs)
        if not fp8:
            work += [lambda x=x, w=w: x @ w.T, lambda y=y, w=w: y @ w]
            continue
        work += [scaled(x, w), scaled(y, w.T.contiguous())]
    teraflop = sum(4 * tokens * inputs * outputs for inputs, outputs in shapes) / 1e12
    rounds, began, first = 0, time.perf_counter(), None
    with metered() as meter:
        while time.perf_counter() - began < seconds:
            for _ in range(32):
                for one in work:
                    one()
            torch.cuda.synchronize()
            rounds += 32
            first = first or teraflop * rounds / (time.perf_counter() - began)
    rate = teraflop * rounds / (time.perf_counter() - began)
    return {"sustained": "fp8" if fp8 else "bf16", "tflops": round(rate), "first": round(first or 0)} | meter


def main() -> None:
    lines: list[dict[str, Any]] = [
        product_rates(8192, k, n)
        for k, n in ((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096), (28672, 4096), (4096, 14336))
    ]
    x = random(1 << 29)
    y = torch.empty_like(x)
    lines.append({"copy_tb_s": round(4 * len(x) / 1e9 / milliseconds(lambda: y.copy_(x)), 2)})
    lines += [sustained(10, fp8=fp8) for fp8 in (False, True)]
    with Path(sys.argv[1]).open("a") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
