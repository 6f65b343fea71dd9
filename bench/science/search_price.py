"""What a search over eight learning rates costs, against one run, and against the same search one after another.

    python bench/science/search_price.py CASE [CASE ...] --out bench/results/search_price.json [--steps 235]

A case is `demo` (the starter model; the smart-home rows where they were made, else rows like them), or a shape of
gpu_models.py with random weights and rows of 128 random tokens, 8 a step: smollm2-135m, llama32-1b. Each case may have
a process of its own; `--merge FILE ...` puts their files together as --out. Wall time from the start of training to its
end, measurements and checkpoints included, loading excluded; on a CPU that other programs share,
`price_in_processor_time` says what the wall cannot. The one run has the rate that the search chose; `sequential` trains
each candidate alone for the steps it was trained in the search, and compares its losses step by step. What such a
comparison can show is bounded by rounding: so the one run is made twice more, again as it is and with its rows in
smaller passes, and compared with itself. Each case is written when it is done.

`--price-alone` times the run's first half, then the search, then the rest, which both have in common: on a processor to
the bit. The search stands between the halves, so that a machine that slows down meanwhile changes the price little.
A search that went on after half of the run, its last two not plainly apart, is held against a run timed again up to
where it ended; `--undecided` carries every one's last two to their ends.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import math
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tasks import rendered

from residency import durable
from residency.config.learning_rate import learning_rate
from residency.config.model import Lora, Model, Train
from residency.data.messages import Origin, Rendered
from residency.data.render import renderer_for
from residency.data.validate import load_examples
from residency.engine.adapters import ADAPTER, peft_config
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings
from residency.errors import Interrupted
from residency.methods import passes, sft
from residency.models.load import load_model, load_tokenizer, versions
from residency.records import RunFolder
from residency.search import halving
from residency.search.arms import Arm, train_step
from residency.search.halving import Search, marks, new_arm, search_side_by_side
from residency.search.ladder import BELOW, ladder
from residency.search.learning_rate import promote

ROOT = Path(__file__).resolve().parents[2]
LORA = Lora(rank=16)
BATCH = 8
SMALL_PASS_TOKENS = 256
RANDOM_CENTRE = 1e-5
"""Random rows teach nothing: rates so low that none is lost."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("bench/results/search_price.json"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="smollm2-135m", help="the demo's model: a name or a folder")
    parser.add_argument("--steps", type=int, default=235, help="of the demo's 1.25 epochs of 1,500 rows")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--merge", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument(
        "--price-alone", action="store_true", help="half a run, the search and the rest, and no comparison of losses"
    )
    parser.add_argument(
        "--undecided", action="store_true", help="where passes are shared the last two always go on to their ends"
    )
    parser.add_argument("--profile", action="store_true", help="print where the search spends its time on the host")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(options.threads)
    if options.undecided:
        halving.APART = math.inf
    found: dict[str, Any] = {}
    for file in [options.out, *options.merge]:
        found |= json.loads(file.read_text()) if file.exists() else {}
    if options.merge:
        durable.write_json(options.out, found)
        return
    for case in options.cases:
        name = f"{case}/{options.device.split(':')[0]}/{options.steps}{', undecided' if options.undecided else ''}"
        if name not in found:
            found[name] = measure(case, options)
            durable.write_json(options.out, found)
        print(name, json.dumps({k: v for k, v in found[name].items() if k != "candidates"}, indent=2), flush=True)


@dataclass(frozen=True)
class Timed:
    seconds: float
    processor_seconds: float
    """Of all threads: what other programs on the machine hardly change."""

    def __add__(self, other: Timed) -> Timed:
        return Timed(self.seconds + other.seconds, self.processor_seconds + other.processor_seconds)


@dataclass(frozen=True)
class Searched:
    """A run with a search, and what its two parts took."""

    made: Search
    rate: float
    ended: int
    """The step at which one was left."""
    search: Timed
    rest: Timed


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    rows, held_out = data(case, options)
    settings = Train[Any](epochs=1e6, max_steps=options.steps, batch_size=BATCH, micro_batch_tokens=16384,
                          learning_rate=1e-3, eval_every_steps=max(1, options.steps // 6), patience=None,
                          save_every_steps=max(1, options.steps // 6))  # fmt: skip
    engine = new_engine(case, options)
    warm_up(engine, rows)
    engine = fresh(case, options, engine)
    measured_on = conditions(case, options, engine, rows, held_out)
    rates = ladder(RANDOM_CENTRE if case != "demo" else formula(engine, options.steps))
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "searched")
        if options.price_alone:
            half = marks(settings.max_steps)[-1][0]
            first = timed_until(half, engine, rates[BELOW], settings, rows, held_out, Path(folder) / "half")
            engine = fresh(case, options, engine)
            one = searched(engine, rates, settings, rows, held_out, run)
            if one.ended > half:
                engine = fresh(case, options, engine)
                first = timed_until(one.ended, engine, rates[BELOW], settings, rows, held_out, Path(folder) / "more")
            return prices(one, first + one.rest) | {"steps": options.steps, "conditions": measured_on}
        with cProfile.Profile() if options.profile else nullcontext() as profile:
            one = searched(engine, rates, settings, rows, held_out, run)
        if profile:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
        engine = fresh(case, options, engine)
        alone = RunFolder(Path(folder) / "alone")
        alone.path.mkdir()
        at_its_rate = settings.model_copy(update={"learning_rate": one.rate})
        alone_took = timed(lambda: sft.train(engine, ADAPTER, rows, held_out, at_its_rate, alone))
        found = prices(one, alone_took) | {"steps": options.steps, "conditions": measured_on}
        winner_differs = largest_difference(losses(run), losses(alone))
        by_rounding = {}
        for what, tokens in (("again", engine.micro_batch_tokens), ("in smaller passes", SMALL_PASS_TOKENS)):
            engine = fresh(case, options, engine)
            engine.micro_batch_tokens = tokens
            again = RunFolder(Path(folder) / what)
            again.path.mkdir()
            sft.train(engine, ADAPTER, rows, held_out, at_its_rate, again)
            by_rounding[what] = largest_difference(losses(again), losses(alone))
        engine = fresh(case, options, engine)
        sequential, differs = one_after_another(engine, one.made, settings, rows, held_out,
                                                Path(folder) / "sequential")  # fmt: skip
    return found | {
        "same_steps_one_after_another_seconds": sequential, "winner_loss_differs_by": winner_differs,
        "one_run_differs_from_itself_by": by_rounding, "candidates_loss_differs_by": differs,
    }  # fmt: skip


def timed_until(
    end: int, engine: Engine, rate: float, settings: Any, rows: list[Rendered], held_out: list[Rendered], folder: Path
) -> Timed:
    """One run up to the step where the search ended, its checkpoint included. At any rate it takes as long."""
    run, steps = RunFolder(folder), count(1)
    run.path.mkdir()
    settings = settings.model_copy(update={"learning_rate": rate})

    def asked_to_stop() -> str | None:
        return "where the search ended" if next(steps) == end else None

    def first_part() -> None:
        with suppress(Interrupted):
            passes.alone(sft.training(engine, ADAPTER, rows, held_out, settings, run, asked_to_stop=asked_to_stop))

    return timed(first_part)


def prices(one: Searched, alone: Timed) -> dict[str, Any]:
    fates, whole = sorted(one.made.fates.values(), key=lambda fate: fate.learning_rate), one.search + one.rest
    return {
        "chosen": one.rate, "one_run_seconds": alone.seconds, "searched_run_seconds": whole.seconds,
        "price": whole.seconds / alone.seconds, "search_seconds": one.search.seconds,
        "price_in_processor_time": whole.processor_seconds / alone.processor_seconds,
        "eight_runs_seconds": 8 * alone.seconds,
        "tokens_seen": {f"{fate.learning_rate:.2g}": fate.tokens for fate in fates},
        "extra_tokens": one.made.extra_tokens, "candidates": [fate.model_dump() for fate in fates],
    }  # fmt: skip


def conditions(
    case: str, options: argparse.Namespace, engine: Engine, rows: list[Rendered], held_out: list[Rendered]
) -> dict[str, Any]:
    return {
        "on": device_name(options), "batch": BATCH, "rank": LORA.rank, "held_out": len(held_out),
        "model": options.model if case == "demo" else case,
        "parameters": sum(p.numel() for name, p in engine.model.named_parameters() if ".lora_" not in name),
        "row_tokens": round(sum(map(len, rows)) / len(rows), 1),
    } | versions()  # fmt: skip


def data(case: str, options: argparse.Namespace) -> tuple[list[Rendered], list[Rendered]]:
    if case != "demo":
        from gpu_models import SHAPES

        draw, vocabulary = np.random.default_rng(0), SHAPES[case]["vocab_size"]
        trained = np.arange(128) > 0
        rows = [Rendered(draw.integers(3, vocabulary, 128).astype(np.int32), trained, Origin("random", i + 1))
                for i in range(BATCH * options.steps + 64)]  # fmt: skip
        return rows[64:], rows[:64]
    renderer = renderer_for(load_tokenizer(Model(id=options.model)))
    folder = ROOT / "examples" / "smart-home" / "data"
    if folder.is_dir() and options.model == "smollm2-135m":
        parts = [
            renderer.render_all(load_examples(str(folder / f"{name}.jsonl")).examples) for name in ("train", "eval")
        ]
        return parts[0], parts[1]
    rows = rendered("home", 0, 1100, renderer)
    return rows[100:], rows[:100]


def new_engine(case: str, options: argparse.Namespace) -> Engine:
    gpu = options.device.startswith("cuda")
    if case == "demo":
        model = load_model(Model(id=options.model), dtype=torch.bfloat16 if gpu else torch.float32,
                           device=torch.device(options.device))  # fmt: skip
    else:
        from gpu_models import random_model

        model = random_model(case, torch.bfloat16 if gpu else torch.float32, options.device)
    engine = Engine(model, micro_batch_tokens=16384 if gpu else 4096)
    engine.add_adapter(ADAPTER, peft_config(LORA, str(model.name_or_path)))
    return engine


def fresh(case: str, options: argparse.Namespace, engine: Engine) -> Engine:
    """A new engine once the old one's memory is free."""
    engine.model = None
    engine.__dict__.clear()
    gc.collect()
    torch.cuda.empty_cache()
    return new_engine(case, options)


def warm_up(engine: Engine, rows: list[Rendered]) -> None:
    """Kernels are compiled on first use, once for a machine; a processor has none to compile."""
    if engine.device.type == "cpu":
        engine.forward_backward({ADAPTER: rows[:BATCH]})
        return
    for number in range(7):
        engine.add_adapter(f"warm-{number}", peft_config(LORA, str(engine.model.name_or_path)))
        names = [ADAPTER, *(f"warm-{n}" for n in range(number + 1))]
        if len(names) in (2, 4, 8):
            for _ in range(2):
                engine.forward_backward(dict.fromkeys(names, rows[:BATCH]))
                engine.step({name: StepSettings(1e-6) for name in names})
            engine.logprobs(names[-1], rows[:BATCH])


def formula(engine: Engine, steps: int) -> float:
    config = engine.model.config.get_text_config()
    return learning_rate(LORA.model_dump(), hidden_size=config.hidden_size, parameters=engine.model.num_parameters(),
                         steps=steps, batch_size=BATCH)[0]  # fmt: skip


def search_of(engine: Engine, settings: Any, rows: list[Rendered], held_out: list[Rendered], run: RunFolder) -> Search:
    def add_adapters(names: Sequence[str]) -> None:
        engine.add_adapters(names, peft_config(LORA, str(engine.model.name_or_path)), seed=settings.seed)

    search = Search(engine, rows, held_out, settings, run, add_adapters)
    search.record.path.mkdir(parents=True)
    return search


def searched(
    engine: Engine, rates: list[float], settings: Any, rows: list[Rendered], held_out: list[Rendered], run: RunFolder
) -> Searched:
    search = search_of(engine, settings, rows, held_out, run)
    found: list[Arm] = []

    def find() -> None:
        winner = search_side_by_side(search, rates)
        promote(search, winner)
        engine.drop_adapter(winner.name)
        found.append(winner)

    search_took = timed(find)
    [winner] = found
    search.fates[winner.name] = search.fates[winner.name].model_copy(
        update={"steps": winner.state.step, "tokens": winner.state.tokens, "fate": "chosen"}
    )
    at_its_rate = settings.model_copy(update={"learning_rate": winner.rate})
    rest_took = timed(lambda: sft.train(engine, ADAPTER, rows, held_out, at_its_rate, run))
    return Searched(search, winner.rate, winner.state.step, search_took, rest_took)


def one_after_another(
    engine: Engine, search: Search, settings: Any, rows: list[Rendered], held_out: list[Rendered], folder: Path
) -> tuple[float, dict[str, float]]:
    """Seconds, and for each candidate the largest relative difference of a loss from the one side by side."""
    alone = search_of(engine, settings, rows, held_out, RunFolder(folder))
    differs, seconds = {}, 0.0
    for one in search.fates.values():
        if not one.steps:
            continue
        alone.add_adapters([one.name])
        arm = new_arm(alone, one.name, one.learning_rate)
        began = time.monotonic()
        for _ in range(one.steps):
            train_step(engine, [arm])
        synchronize()
        seconds += time.monotonic() - began
        engine.drop_adapter(one.name)
        together = losses(RunFolder(search.record / one.name))
        differs[f"{one.learning_rate:.2g}"] = largest_difference(together, losses(arm.record))
    return seconds, differs


def losses(run: RunFolder) -> list[float]:
    return [metric.loss for metric in run.metrics() if metric.split == "train"]


def largest_difference(one: list[float], other: list[float]) -> float:
    assert one
    assert len(one) == len(other)
    return max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(one, other, strict=True))


def timed(work: Callable[[], object]) -> Timed:
    began, processor = time.monotonic(), time.process_time()
    work()
    synchronize()
    return Timed(time.monotonic() - began, time.process_time() - processor)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(options: argparse.Namespace) -> str:
    return torch.cuda.get_device_name() if options.device.startswith("cuda") else f"CPU, {options.threads} threads"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "bench"))
    main()
