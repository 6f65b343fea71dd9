"""Does the search find the rate? Seven tasks and two seeds against an exhaustive grid.

    python bench/science/learning_rate.py --out bench/results/learning_rate.json [--minutes 9] [--full-seeds 0]
    CUDA_VISIBLE_DEVICES=1 python bench/science/learning_rate.py --share 1/4 --out share-1.json
    python bench/science/learning_rate.py --merge share-*.json --out bench/results/learning_rate.json
    python bench/science/learning_rate.py --again home tickets

The grid doubles from a sixteenth of the formula's rate to 32 times of it, a rung beyond the search at either end; each
rate is trained to the end. The search's choice is held against the grid's best by the final held-out loss. Full
fine-tuning too, for the ratio of the best rates (by a parabola through the best three of the grid).

A task, a seed and a kind make a part; its cells are the search and the grid, which for full fine-tuning, where rates
cannot be trained side by side, is a cell a rate. Every cell is written when it is done, a part when it has all of its
cells, and a second call goes on with the rest; `--minutes` starts no cell after that time. The longest come first. A
search that another rule made (`rule`) is made again, the grid is not.

What a choice can be held to is bounded by what the grid's best differs from itself: `--again` makes the grids of some
tasks a second time, in smaller passes, where nothing but the rounding is another. All tasks are reported; whether the
search is within 5 % is read on those whose best is within 5 % of itself with every seed (fixed before the sixth and the
seventh task were run).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shares import add_options, read_all, share_of
from tasks import TASKS, rendered

from residency import durable
from residency.config.learning_rate import learning_rate
from residency.config.model import Full, Lora, Model, Train
from residency.data.messages import Rendered
from residency.data.render import renderer_for
from residency.engine.adapters import peft_config
from residency.engine.engine import FULL, Engine
from residency.methods.sft import EXPLODED
from residency.models.load import load_model, load_tokenizer, versions
from residency.records import RunFolder
from residency.search import arms
from residency.search.arms import Arm, score, train_step
from residency.search.halving import AGAIN, APART, MARKS, MATTERS, Search, new_arm, search_side_by_side
from residency.search.ladder import ladder
from residency.search.race import search_one_by_one

LOWEST, HIGHEST = -4, 5
BATCH, HELD_OUT, SEARCHED_WITHIN = 8, 128, 1.05
SMALL_PASS_TOKENS = 1024
LORA = Lora(rank=16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results/learning_rate.json"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="smollm2-135m", help="a model's name or folder")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--full-seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument(
        "--cool-down",
        type=float,
        default=None,
        metavar="SHARE",
        help="cool candidates down over this share of their steps so far, instead of as a search does",
    )
    parser.add_argument("--again", nargs="*", default=[], metavar="TASK", help="only the second grid of these tasks")
    add_options(parser)
    options = parser.parse_args()
    if options.cool_down:
        arms.COOL_DOWN_SHARE, arms.LONGEST_COOL_DOWN_SHARE = options.cool_down, 1.0
    before = read_all([*options.merge, options.out], "conditions")
    done = cells_in(before)
    if options.merge:
        write(options.out, before[0]["conditions"], done)
        return
    own = conditions(options)
    if different := [key for key, value in own.items() if before and before[0]["conditions"].get(key) != value]:
        sys.exit(f"{options.out} was measured with another {', '.join(different)}: give --out a file of its own")
    began = time.monotonic()
    for cell in share_of(cells_of(options), options.share):
        if is_done(cell, done) or time.monotonic() - began > 60 * options.minutes:
            continue
        done[cell.name] = measure(cell, options)
        write(options.out, own, done)
        print(cell.name, json.dumps(done[cell.name]), flush=True)
    print(json.dumps(summary(parts_of(done)), indent=2))


@dataclass(frozen=True)
class Cell:
    task: str
    seed: int
    kind: str
    what: str
    """`search`, `grid`, `again`, or one rate of the grid as its doublings above the formula's."""

    @property
    def name(self) -> str:
        return f"{self.task}/{self.seed}/{self.kind}/{self.what}"


POWERS = [str(power) for power in range(LOWEST, HIGHEST + 1)]
CELLS = {"full": ["search", *POWERS], "lora": ["search", "grid"]}
"""What a part of each kind consists of."""


def rule(kind: str) -> dict[str, Any]:
    """What a search's result depends on beside the data: one that another rule made is made again."""
    found = {"marks": [list(one) for one in MARKS], "diverged_at_times_the_start": EXPLODED,
             "cool_down_shares": [arms.COOL_DOWN_SHARE, arms.LONGEST_COOL_DOWN_SHARE]}  # fmt: skip
    return found if kind == "full" else found | {"mean_share": arms.MEAN_SHARE, "last_two": [AGAIN, APART, MATTERS]}


def is_by_the_rule(name: str, cell: dict[str, Any]) -> bool:
    return bool(cell.get("rule") == rule(name.split("/")[2]))


def cells_in(files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All cells by name; of a search that is there twice, the one by the present rule."""
    cells = [(name, one) for file in files for name, one in file.get("cells", {}).items()]
    return dict(sorted(cells, key=lambda cell: is_by_the_rule(*cell)))


def is_done(cell: Cell, done: dict[str, Any]) -> bool:
    return cell.name in done and (cell.what != "search" or is_by_the_rule(cell.name, done[cell.name]))


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """The searches of full fine-tuning take longest."""
    if options.again:
        return [Cell(task, seed, "lora", "again") for task in options.again for seed in options.seeds]
    seeds = {"full": options.full_seeds, "lora": options.seeds}
    kinds = [("full", ["search"]), ("lora", CELLS["lora"]), ("full", POWERS)]
    return [Cell(task, seed, kind, what) for kind, whats in kinds for seed in seeds[kind] for task in options.tasks
            for what in whats]  # fmt: skip


def write(out: Path, conditions: dict[str, Any], done: dict[str, Any]) -> None:
    parts = parts_of(done)
    durable.write_json(out, {"conditions": conditions, "summary": summary(parts), "parts": parts, "cells": done})


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    own = {"model": options.model, "steps": options.steps, "batch": BATCH, "held_out_rows": HELD_OUT}
    return own | {"doublings_around_the_formula": [LOWEST, HIGHEST]} | versions()


def parts_of(done: dict[str, Any]) -> dict[str, Any]:
    """Those of which every cell is there."""
    names = list(dict.fromkeys(name.rpartition("/")[0] for name in done))
    cells = {name: [f"{name}/{what}" for what in CELLS[name.rpartition("/")[2]]] for name in names}
    whole = {name: [done[one] for one in parts] for name, parts in cells.items() if done.keys() >= set(parts)}
    return {name: part(*parts) | second(parts[1], done.get(f"{name}/again")) for name, parts in whole.items()}


def part(search: dict[str, Any], *grids: dict[str, Any]) -> dict[str, Any]:
    grid = {rate: loss for one in grids for rate, loss in one["losses"]}
    finite = {rate: loss for rate, loss in grid.items() if loss is not None}
    best, chosen = min(finite, key=lambda rate: finite[rate]), search["chosen"]
    return {key: value for key, value in search.items() if key != "seconds"} | {
        "grid": {f"{rate:.2g}": loss for rate, loss in grid.items()}, "best": best,
        "best_between": between(finite), "chosen_loss": grid[chosen], "best_loss": finite[best],
        "above_best": None if grid[chosen] is None else grid[chosen] / finite[best] - 1,
        "seconds_of": {"search": search["seconds"], "grid": round(sum(one["seconds"] for one in grids), 1)},
    }  # fmt: skip


def second(grid: dict[str, Any], again: dict[str, Any] | None) -> dict[str, Any]:
    """How far the best of both grids, rate by rate, is from itself, as a share of the lower of the two."""
    if again is None:
        return {}
    both = [sorted((one, other)) for (_, one), (_, other) in zip(grid["losses"], again["losses"], strict=True)
            if one is not None and other is not None]  # fmt: skip
    low, high = min(both)
    return {"grid_again": {f"{rate:.2g}": loss for rate, loss in again["losses"]}, "best_from_itself": high / low - 1}


def measure(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    rows = rows_of(cell.task, cell.seed, BATCH * options.steps // 2 + HELD_OUT, options.model)
    settings = Train[Any](epochs=2.0, max_steps=options.steps, batch_size=BATCH, micro_batch_tokens=16384,
                          learning_rate=1e-3, seed=cell.seed, eval_every_steps=options.steps, patience=None,
                          save_every_steps=options.steps)  # fmt: skip
    engine = new_engine(cell.kind, options)
    centre, held_out, loaded = formula(engine, cell.kind, options.steps), rows[:HELD_OUT], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        search = search_of(engine, settings, rows[HELD_OUT:], held_out, cell.kind, Path(folder))
        if cell.what == "search":
            found = {"rule": rule(cell.kind), "formula": centre} | searched(search, cell.kind, centre)
        else:
            powers = [cell.what] if cell.what in POWERS else POWERS
            engine.micro_batch_tokens = SMALL_PASS_TOKENS if cell.what == "again" else engine.micro_batch_tokens
            found = {"losses": exhaustive(search, cell.kind, [two_digits(centre * 2.0 ** int(one)) for one in powers])}
    del engine, search
    release()
    ended = time.monotonic()
    return found | {"loading_seconds": round(loaded - began, 1), "seconds": round(ended - loaded, 1)}


@cache
def rows_of(task: str, seed: int, count: int, model: str) -> list[Rendered]:
    return rendered(task, seed, count, renderer_for(load_tokenizer(Model(id=model))))


def two_digits(rate: float) -> float:
    """As a search writes its candidates."""
    return float(f"{rate:.2g}")


def new_engine(kind: str, options: argparse.Namespace) -> Engine:
    where = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    gpu = where.startswith("cuda")
    dtype = torch.bfloat16 if gpu and kind == "lora" else torch.float32
    model = load_model(Model(id=options.model), dtype=dtype, device=torch.device(where))
    # Without a shared start attention is one kernel a row; with it many, which a GPU waits for longer than they take.
    engine = Engine(model, micro_batch_tokens=16384 if gpu else 4096, share_prefix=not gpu,
                    autocast=torch.bfloat16 if gpu and kind == "full" else None)  # fmt: skip
    if kind == "full":
        engine.train_all_weights()
    else:
        engine.add_adapter("tuned", peft_config(LORA, str(model.name_or_path)))
    return engine


def release() -> None:
    import gc

    gc.collect()
    torch.cuda.empty_cache()


def formula(engine: Engine, kind: str, steps: int) -> float:
    adapter = Full().model_dump() if kind == "full" else LORA.model_dump()
    config = engine.model.config.get_text_config()
    return learning_rate(adapter, hidden_size=config.hidden_size, parameters=engine.model.num_parameters(), steps=steps,
                         batch_size=BATCH)[0]  # fmt: skip


def search_of(
    engine: Engine, settings: Any, rows: list[Rendered], held_out: list[Rendered], kind: str, folder: Path
) -> Search:
    def add_adapters(names: Sequence[str]) -> None:
        if kind == "lora":
            engine.add_adapters(names, peft_config(LORA, str(engine.model.name_or_path)), seed=settings.seed)

    (folder / "search").mkdir(parents=True)
    return Search(engine, rows, held_out, settings, RunFolder(folder), add_adapters)


def searched(search: Search, kind: str, centre: float) -> dict[str, Any]:
    rates = ladder(centre)
    winner = search_one_by_one(search, rates) if kind == "full" else search_side_by_side(search, rates)
    return {
        "chosen": winner.rate,
        "search_seconds": round(search.seconds, 2),
        "fates": {f"{one.learning_rate:.2g}": one.fate for one in search.fates.values()},
        "scores": {f"{one.learning_rate:.2g}": one.scores for one in search.fates.values()},
        "probe": next(one.data["losses"] for one in search.run.events() if one.kind == "range_probe"),
    }


def exhaustive(search: Search, kind: str, rates: list[float]) -> list[tuple[float, float | None]]:
    """The final held-out loss of each rate; None where it was lost. Only one rate fits a full set of weights."""
    arms = [new_arm(search, f"candidate-{number}", rate) for number, rate in enumerate(rates)]
    search.add_adapters([arm.name for arm in arms])
    if kind == "full":
        arms[0].engine_name = FULL
    run_to_end(search.engine, arms)
    return [(arm.rate, final_loss(search.engine, arm, search.held_out)) for arm in arms]


def run_to_end(engine: Engine, arms: list[Arm]) -> None:
    going = list(arms)
    for _ in range(arms[0].total):
        train_step(engine, going)
        for arm in [arm for arm in going if arm.failure]:
            going.remove(arm)
        if not going:
            return


def final_loss(engine: Engine, arm: Arm, held_out: Sequence[Rendered]) -> float | None:
    loss = score(engine, arm.engine_name, held_out).mean
    return loss if arm.failure is None and math.isfinite(loss) else None


def between(losses: dict[float, float]) -> float:
    """The rate at the bottom of a parabola through the grid's best and its neighbours, over the logarithm."""
    rates = sorted(losses)
    place = min(range(len(rates)), key=lambda i: losses[rates[i]])
    near = rates[max(0, place - 1) : place + 2]
    if len(near) < 3:
        return rates[place]
    a, b, _ = np.polyfit(np.log2(near), [losses[rate] for rate in near], 2)
    return float(2 ** np.clip(-b / (2 * a), np.log2(near[0]), np.log2(near[2]))) if a > 0 else rates[place]


def summary(parts: dict[str, Any]) -> dict[str, Any]:
    above = {name: one["above_best"] for name, one in parts.items()}
    pairs = {
        name: parts[twin]["best_between"] / one["best_between"]
        for name, one in parts.items()
        if name.endswith("/full") and (twin := name.replace("/full", "/lora")) in parts
    }
    lora = [value for name, value in above.items() if name.endswith("/lora")]
    full = [value for name, value in above.items() if name.endswith("/full")]
    repeating = tasks_whose_best_repeats(parts)
    sound = [above[name] for name in above if name.endswith("/lora") and name.partition("/")[0] in repeating]
    nats = [one["chosen_loss"] - one["best_loss"] for one in parts.values() if one["chosen_loss"] is not None]
    return {
        "parts": len(parts),
        "within_5_percent": sum(map(is_within_5_percent, above.values())),
        "within_1_percent": sum(value is not None and value <= 0.01 for value in above.values()),
        "lora_within_5_percent": f"{sum(map(is_within_5_percent, lora))} of {len(lora)}",
        "full_within_5_percent": f"{sum(map(is_within_5_percent, full))} of {len(full)}",
        "lora_within_5_percent_where_the_best_repeats": f"{sum(map(is_within_5_percent, sound))} of {len(sound)}",
        "tasks_whose_best_repeats": repeating,
        "lora_worst_above_best": None if None in lora or not lora else max(lora),
        "worst_above_best_nats": max(nats, default=None),
        "diverged_choices": sum(value is None for value in above.values()),
        "best_from_itself": {name: one["best_from_itself"] for name, one in parts.items() if "grid_again" in one},
        "lora_to_full_ratios": {name.removesuffix("/full"): round(ratio, 1) for name, ratio in pairs.items()},
        "ratios_of_rates_within_1_percent_of_the_best": {
            name.removesuffix("/full"): ratio_range(parts[name.replace("/full", "/lora")], parts[name])
            for name in pairs
        },
    }


def tasks_whose_best_repeats(parts: dict[str, Any]) -> list[str]:
    """Those of which the grids of all seeds were made twice and the best is within 5 % of itself in each."""
    of_task: dict[str, list[bool]] = {}
    for name, one in parts.items():
        if name.endswith("/lora"):
            of_task.setdefault(name.partition("/")[0], []).append(is_within_5_percent(one.get("best_from_itself")))
    return [task for task, repeats in of_task.items() if all(repeats)]


def is_within_5_percent(above_best: float | None) -> bool:
    return above_best is not None and above_best <= SEARCHED_WITHIN - 1


def ratio_range(lora: dict[str, Any], full: dict[str, Any]) -> list[float]:
    """What the ratio of the best rates may be where the grid cannot tell them from their neighbours."""
    of_lora, of_full = near_best(lora), near_best(full)
    return [round(min(of_lora) / max(of_full), 1), round(max(of_lora) / min(of_full), 1)]


def near_best(one: dict[str, Any]) -> list[float]:
    return [float(rate) for rate, loss in one["grid"].items() if loss is not None and loss <= 1.01 * one["best_loss"]]


if __name__ == "__main__":
    main()
