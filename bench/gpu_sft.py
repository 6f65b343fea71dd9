"""Times real training steps on this machine's GPU: gpu_sft.py OUT.jsonl ROW [ROW ...]

A row is MODEL:MIX:PRECISION:RUNS, such as llama31-8b:A:bf16:1; MIX is A or B (passes of 8192 tokens), `short`
(8 documents of 128 tokens for each run), or 4x512 (so many documents of so many tokens). PRECISION is bf16, fp8, or nf4
(QLoRA). After more colons: tokens=16384 (a pass), again=2 (layers formed again), offload=on (their inputs wait in the
host's memory), ends=2 (so many layers at either end that FP8 leaves in bf16), graphs=off, fused=off, kernels=off or on
(those of installed packages), full=1 (all weights are trained, by autocast), layers=8 (of the shape's), dropout=0.1,
compile=on (layers, where nothing is fused; its time is told apart), trial (adds what `residency estimate` would say of
the step's time), profile (adds the time by kernel). Every
step is a forward and backward pass, clipping and AdamW, on new random tokens. Tokens are real ones: what fills a pass
up never counts.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from gpu_models import engine_with_adapters, mix_a, mix_b, random_model
from gpu_power import metered

from residency.data.messages import Rendered
from residency.engine.engine import FULL, Engine
from residency.engine.optim import StepSettings
from residency.engine.speed import Speed
from residency.models.nf4 import hold_in_nf4
from residency.stages.trial import step_time

WARM_UP, STEPS = 6, 20
PASS_TOKENS = 8192


def batches(mix: str, runs: int, tokens: int) -> Iterator[list[list[Rendered]]]:
    """For each step the rows of each run."""
    if "x" in mix:
        count, length = map(int, mix.split("x"))
        return map(list, zip(*(mix_a(count, length, seed=seed) for seed in range(runs)), strict=True))
    kinds = {"A": lambda seed: mix_a(tokens // 4096, seed=seed), "B": lambda seed: mix_b(tokens, seed=seed),
             "short": lambda seed: mix_a(8, 128, seed=seed)}  # fmt: skip
    return map(list, zip(*(kinds[mix](seed) for seed in range(runs)), strict=True))


def loaded(name: str, mix: str, precision: str, runs: int, options: dict[str, str]) -> tuple[Engine, list[str], int]:
    full = "full" in options
    changes = {"num_hidden_layers": int(options["layers"])} if "layers" in options else {}
    model = random_model(name, torch.float32 if full else torch.bfloat16, **changes)
    if precision == "nf4":
        hold_in_nf4(model)
    tokens = (
        1024 * runs if mix == "short"
        else math.prod(map(int, mix.split("x"))) * runs if "x" in mix
        else int(options.get("tokens", PASS_TOKENS))
    )  # fmt: skip
    speed = Speed(
        fused=False if options.get("fused") == "off" else None, fp8=precision == "fp8",
        first_last_layers_bf16=int(options.get("ends", 0)),
        graphs={"on": True, "off": False}.get(options.get("graphs", "")),
        kernels={"on": True, "off": False}.get(options.get("kernels", "")),
        layers_formed_again=int(options.get("again", 0)), compile=options.get("compile") == "on",
        offload=options.get("offload") == "on",
    )  # fmt: skip
    settings = {"speed": speed, "micro_batch_tokens": tokens, "on_compiled": lambda found: print(found, flush=True)}
    if full:
        engine = Engine(model, autocast=torch.bfloat16, **settings)
        engine.train_all_weights()
        return engine, [FULL], tokens
    return *engine_with_adapters(model, runs, dropout=float(options.get("dropout", 0)), **settings), tokens


def measure(row: str) -> dict[str, Any]:
    name, mix, precision, runs, *more = row.split(":")
    started = time.perf_counter()
    options = dict(part.split("=") for part in more if "=" in part)
    engine, names, tokens_at_once = loaded(name, mix, precision, int(runs), options)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    load_seconds = time.perf_counter() - started
    ready = [
        dict(zip(names, rows, strict=True))
        for rows in itertools.islice(batches(mix, int(runs), tokens_at_once), WARM_UP + STEPS)
    ]
    settings = {one: StepSettings(1e-4) for one in names}

    started = time.perf_counter()
    first = engine.forward_backward(ready[0])
    engine.step(settings)
    first_loss = statistics.mean(loss.mean for loss in first.values())
    first_seconds = time.perf_counter() - started
    for one in ready[1:WARM_UP]:
        engine.forward_backward(one)
        engine.step(settings)
    torch.cuda.synchronize()

    ends, host, losses, late, compiling = [], [], [], None, engine.compile_seconds
    started = time.perf_counter()
    with metered() as meter:
        for one in ready[WARM_UP:]:
            at = time.perf_counter()
            now = engine.forward_backward(one)
            engine.step(settings)
            host.append(time.perf_counter() - at)
            if late is not None:
                losses.append(statistics.mean(loss.mean for loss in late.values()))
                ends.append(time.perf_counter())
            late = now
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started - (engine.compile_seconds - compiling)
    tokens = sum(len(r) for one in ready[WARM_UP:] for rows in one.values() for r in rows)
    steps = [1e3 * (b - a) for a, b in itertools.pairwise(ends)]
    result = {
        "row": row, "tok_s": round(tokens / seconds), "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2), "loss_step_0": round(first_loss, 4),
        "loss_last": round(losses[-1], 4), "step_ms": round(statistics.median(steps), 2),
        "step_quartiles_ms": [round(one, 2) for one in statistics.quantiles(steps)[::2]],
        "tokens_per_step": round(tokens / STEPS),
        "host_ms": round(1e3 * statistics.median(host), 2), "first_step_s": round(first_seconds, 2),
        "compile_s": round(engine.compile_seconds, 1), "load_s": round(load_seconds, 1), "steps": STEPS,
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"), "reasons": engine.reasons,
    } | meter  # fmt: skip
    if "trial" in more:
        depth = engine.model.config.num_hidden_layers
        del engine
        result |= trial(row, ready[0][names[0]], depth)
    if "profile" in more:
        result["profile_ms"] = profile(engine, ready[0], settings)
    return result


def trial(row: str, batch: list[Rendered], depth: int) -> dict[str, Any]:
    name, mix, precision, _, *more = row.split(":")
    options = dict(part.split("=") for part in more if "=" in part)

    def engine_of(layers: int) -> tuple[Engine, str]:
        engine, [one], _ = loaded(name, mix, precision, 1, options | {"layers": str(layers)})
        return engine, one

    said = step_time(engine_of, depth, batch, 2 * int(options.get("ends", 0)))
    low, middle, high = (round(1e3 * one, 2) for one in (said.low, said.seconds, said.high))
    return {"trial_ms": middle, "trial_quartiles_ms": [low, high], "host_bound": said.host_bound}


def profile(engine: Engine, batch: dict[str, list[Rendered]], settings: dict[str, StepSettings]) -> dict[str, Any]:
    """Milliseconds of one step: of all kernels, then by kernel, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        engine.forward_backward(batch)
        engine.step(settings)
        torch.cuda.synchronize()
    times, counts = Counter[str](), Counter[str]()
    for event in recorded.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name] += event.device_time / 1e3
            counts[event.name] += 1
    longest = {f"{name[:90]} x{counts[name]}": round(ms, 2) for name, ms in times.most_common(28)}
    return {f"all kernels x{counts.total()}": round(times.total(), 2)} | longest


def main() -> None:
    out = Path(sys.argv[1])
    for row in sys.argv[2:]:
        try:
            result = measure(row)
        except Exception as error:  # the rows after it are still wanted
            result = {"row": row, "error": f"{type(error).__name__}: {str(error)[:400]}"}
        with out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps({k: v for k, v in result.items() if k != "profile_ms"}), flush=True)
        for kernel, ms in result.get("profile_ms", {}).items():
            print(f"  {ms:9.2f} ms  {kernel}")
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
