"""Which rule of a search chooses best: all eight candidates trained to the end, and each rule played on what was seen.

    python bench/science/search_rules.py dates/0 dates/1 manual/0 ... --out bench/results/search_rules.json
    python bench/science/search_rules.py --out bench/results/search_rules.json

A part is a task and a seed of `tasks.py`, set up as in `learning_rate.py` with LoRA. Every candidate is trained to the
end, whatever a search would do with it. At the marks each is scored as it is, cooled down as a search does it, and by
the mean of its weights over the last 10, 25 and 50 % of its steps, on a copy. Parts that the file has are not made
again. Then it prints how often the best few at a mark have one among them that ends within 1 % of the best; and for
each rule in how many parts its choice does, the worst, and the steps trained in runs (cool-downs are not counted). Made
for a GPU: 30 to 40 s a part on an H200 that three to five of them share.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import learning_rate as grids
import torch

from residency import durable
from residency.config.model import Train
from residency.evals.retention import spread
from residency.models.load import versions
from residency.search.arms import Arm, Score, cool_down, score_each, standard_error, train_step
from residency.search.halving import ENOUGH_HELD_OUT, new_arm
from residency.search.ladder import ladder

STEPS = 100
MARKS = (8, 12, 20, 35, 50, 75)
SHARES = (10, 25, 50)
KINDS = ("as it is", "cooled", *(f"mean {share}" for share in SHARES))
END = f"{STEPS}/as it is"
DECIDING = ("50/cooled", "50/mean 25", "75/mean 25")
"""Where the last two may be told apart."""

Part = Mapping[str, Any]
"""`losses`: by mark and kind ("50/cooled") and rate, on the first rows a search looks at and on all; `errors`: the
standard error of the difference of two rates ("0.001 0.002"), on all rows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="TASK/SEED")
    parser.add_argument("--out", type=Path, default=Path("bench/results/search_rules.json"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    found: dict[str, Any] = (
        json.loads(options.out.read_text()) if options.out.exists() else {"conditions": versions(), "parts": {}}
    )
    for name in options.parts:
        if name not in found["parts"]:
            found["parts"][name] = part_of(measured(name, options))
            durable.write_json(options.out, found)
            print(name, flush=True)
    if not found["parts"]:
        sys.exit("nothing was measured: name parts, such as dates/0")
    print(table_of_marks(found["parts"]), table_of_rules(found["parts"]), sep="\n\n")


def measured(name: str, options: argparse.Namespace) -> dict[str, dict[float, Score]]:
    task, seed = name.split("/")
    rows = grids.rows_of(task, int(seed), grids.BATCH * STEPS // 2 + grids.HELD_OUT, options.model)
    settings = Train[Any](epochs=2.0, max_steps=STEPS, batch_size=grids.BATCH, micro_batch_tokens=16384,
                          learning_rate=1e-3, seed=int(seed), eval_every_steps=STEPS, patience=None,
                          save_every_steps=STEPS)  # fmt: skip
    engine = grids.new_engine("lora", options)
    rates = ladder(grids.formula(engine, "lora", STEPS))
    with tempfile.TemporaryDirectory() as folder:
        search = grids.search_of(engine, settings, rows[grids.HELD_OUT :], rows[: grids.HELD_OUT], "lora", Path(folder))
        candidates = [new_arm(search, f"candidate-{number}", rate) for number, rate in enumerate(rates)]
        search.add_adapters([arm.name for arm in candidates])
        seen = seen_on_the_way(engine, candidates, search.held_out)
    del engine, search
    grids.release()
    return seen


def seen_on_the_way(engine: Any, candidates: list[Arm], held_out: Any) -> dict[str, dict[float, Score]]:
    seen: dict[str, dict[float, Score]] = {}
    weights: dict[str, list[torch.Tensor]] = {arm.name: [] for arm in candidates}
    for step in range(1, STEPS + 1):
        train_step(engine, [arm for arm in candidates if not arm.failure])
        left = [arm for arm in candidates if not arm.failure]
        for arm in left:
            weights[arm.name].append(engine.weights(arm.name).clone())
        if step not in MARKS:
            continue
        before = {arm.name: engine.snapshot(arm.name) for arm in left}
        seen[f"{step}/as it is"] = scores(engine, left, held_out)
        cool_down(engine, left)
        seen[f"{step}/cooled"] = scores(engine, left, held_out)
        for share in SHARES:
            count = max(1, round(share * step / 100))
            for arm in left:
                engine.set_weights(arm.name, torch.stack(weights[arm.name][-count:]).mean(dim=0))
            seen[f"{step}/mean {share}"] = scores(engine, left, held_out)
        engine.put_back(before)
    return seen | {END: scores(engine, left, held_out)}


def scores(engine: Any, candidates: list[Arm], held_out: Any) -> dict[float, Score]:
    found = score_each(engine, [arm.name for arm in candidates], held_out)
    return {arm.rate: found[arm.name] for arm in candidates}


def part_of(seen: Mapping[str, Mapping[float, Score]]) -> dict[str, Any]:
    return {
        "losses": {
            mark: {f"{rate:.2g}": [round(first_rows(one).mean, 6), round(one.mean, 6)] for rate, one in scores.items()}
            for mark, scores in seen.items()
        },
        "errors": {
            mark: {f"{a:.2g} {b:.2g}": round(standard_error(scores[a], scores[b]), 6)
                   for a, b in combinations(sorted(scores), 2)}
            for mark, scores in seen.items() if mark in DECIDING
        },
    }  # fmt: skip


def first_rows(one: Score) -> Score:
    """Those that a search halves by."""
    places = spread(range(len(one.losses)), ENOUGH_HELD_OUT)
    return Score(one.losses[places], one.tokens[places])


# ---- who is among the best at a mark


def table_of_marks(parts: Mapping[str, Part]) -> str:
    lines = [f"{'scored':16}" + "".join(f"  best {count}: within 1 %, worst" for count in (1, 2, 3, 4))]
    for mark in MARKS:
        for kind in KINDS:
            found = []
            for count in (1, 2, 3, 4):
                above = [min(above_best(part, rate) for rate in best(part, f"{mark}/{kind}", count, list(ends(part))))
                         for part in parts.values()]  # fmt: skip
                found.append(f"{sum(one <= 0.01 for one in above):14} of {len(above)} {max(above):6.1%}")
            lines.append(f"{mark:3} {kind:12}" + "".join(found))
    return "\n".join(lines)


def ends(part: Part) -> dict[str, float]:
    return {rate: both[1] for rate, both in part["losses"][END].items()}


def above_best(part: Part, rate: str) -> float:
    return ends(part)[rate] / min(ends(part).values()) - 1


def best(part: Part, mark: str, count: int, among: list[str], *, rows: int = 1) -> list[str]:
    """The `count` lowest losses, on all rows or (`rows` 0) on the first ones."""
    return sorted(among, key=lambda rate: part["losses"][mark][rate][rows])[:count]


# ---- the rules


def table_of_rules(parts: Mapping[str, Part]) -> str:
    lines = [f"{'rule':78} within 1 %  5 %  worst  runs"]
    for name, rule in RULES.items():
        made = [rule(part) for part in parts.values()]
        above = [above_best(part, rate) for part, (rate, _) in zip(parts.values(), made, strict=True)]
        near = f"{sum(one <= 0.01 for one in above)} of {len(parts)}"
        five = sum(one <= 0.05 for one in above)
        lines.append(
            f"{name:78} {near:>10} {five:4} {max(above):6.1%} {sum(cost for _, cost in made) / len(made):5.2f}"
        )
    return "\n".join(lines)


def last_two(part: Part, kind: str, first: int) -> list[str]:
    """`first` are kept at the first mark, which in so short a run comes at 8 %, and two at the second."""
    left = best(part, f"8/{kind}", first, list(ends(part)), rows=0)
    return best(part, f"20/{kind}", 2, left, rows=0)


def compared(part: Part, mark: str, two: list[str]) -> tuple[str, str, float]:
    """The better, the other, and how many standard errors they are apart."""
    better, other = best(part, mark, 2, two)
    error = part["errors"][mark][" ".join(sorted(two, key=float))]
    return better, other, (part["losses"][mark][other][1] - part["losses"][mark][better][1]) / error


def both_losses(part: Part, mark: int, better: str, other: str) -> tuple[float, float]:
    """The better one's loss, and how far the other is behind it."""
    losses = part["losses"][f"{mark}/mean 25"]
    return losses[better][1], losses[other][1] - losses[better][1]


def up_to_half(first: int) -> float:
    """Steps, in runs."""
    return 8 * 0.08 + first * 0.12 + 2 * 0.3


def at_half(part: Part, kind: str, first: int, within: float = 0.0) -> tuple[str, float]:
    """Halved by `kind`, and chosen cooled down: the lowest rate within so many standard errors."""
    better, other, apart = compared(part, "50/cooled", last_two(part, kind, first))
    return (min(better, other, key=float) if apart <= within else better), up_to_half(first) + 0.5


def until_apart(
    part: Part, kind: str, first: int, *, marks: Mapping[int, float], matters: float = 0.0
) -> tuple[str, float]:
    """The first of these marks at which they are so many standard errors apart decides, or the last one where the one
    behind could not be better by `matters`; else the end."""
    two = last_two(part, kind, first)
    for mark, plainly in marks.items():
        better, other, apart = compared(part, f"{mark}/mean 25", two)
        cost, loss, behind = up_to_half(first) + 0.5 + (mark - 50) / STEPS, *both_losses(part, mark, better, other)
        if apart > plainly:
            return better, cost
        if mark == max(marks) and behind * (plainly / apart - 1) <= matters * loss:
            return (min(two, key=float) if apart <= 1 else better), cost
    return min(two, key=lambda rate: ends(part)[rate]), up_to_half(first) + 1.0


RULES: Mapping[str, Callable[[Part], tuple[str, float]]] = {
    f"{how}; halved {'cooled' if kind == 'cooled' else 'by means'}, {first} kept at the first mark": partial(
        rule, kind=kind, first=first
    )
    for how, rule in {
        "half: the lowest rate within one standard error": partial(at_half, within=1.0),
        "half: the lowest loss": at_half,
        "three errors apart at half, or 75 %: the lower loss": partial(until_apart, marks={50: 3.0, 75: 0.0}),
        "three errors apart at half, at 75 %, or the end": partial(until_apart, marks={50: 3.0, 75: 3.0}),
        "the same, but as good within 1 % at 75 %": partial(until_apart, marks={50: 3.0, 75: 3.0}, matters=0.01),
        "the end": partial(until_apart, marks={}),
    }.items()
    for kind, first in (("cooled", 4), ("mean 25", 4), ("mean 25", 3))
}  # fmt: skip


if __name__ == "__main__":
    main()
