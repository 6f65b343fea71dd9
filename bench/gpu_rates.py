"""What this card's own products reach: the ceilings the other rows are held against. gpu_rates.py OUT.jsonl"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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


def main() -> None:
    lines: list[dict[str, Any]] = [
        product_rates(8192, k, n)
        for k, n in ((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096), (28672, 4096), (4096, 14336))
    ]
    x = random(1 << 29)
    y = torch.empty_like(x)
    lines.append({"copy_tb_s": round(4 * len(x) / 1e9 / milliseconds(lambda: y.copy_(x)), 2)})
    with Path(sys.argv[1]).open("a") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
