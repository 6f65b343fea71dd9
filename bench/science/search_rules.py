"""Which rule of a search chooses best: all eight candidates trained to the end, and each rule played on what was seen.

    python bench/science/search_rules.py dates/0 dates/1 manual/0 ... --out bench/results/search_rules.json
    python bench/science/search_rules.py --out bench/results/search_rules.json

A part is a task and a seed of `tasks.py`, set up as in `learning_rate.py` with LoRA. Every candidate is trained to the
end, whatever a search would do with it; at the marks each is scored, cooled down over so many steps, on a copy. Parts
that the file has are not made again. Then it prints, for each rule, in how many parts its choice ends within 1 % of the
best, the worst, and the steps trained in runs (cool-downs are not counted). Made for a GPU: 30 s a part on an H200.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import learning_rate as grids

from residency import durable
from residency.config.model import Train
from residency.evals.retention import spread
from residency.models.load import versions
from residency.search import arms
from residency.search.arms import Arm, Score, cool_down, score, standard_error, train_step
from residency.search.halving import ENOUGH_HELD_OUT, new_arm
from residency.search.ladder import ladder

STEPS = 100
MARKS = {8: (2,), 20: (2,), 50: (2, 10), 75: (2,), STEPS: (0,)}
"""Steps of cooling down tried at each mark."""

Part = Mapping[str, Any]
"""`losses`: by mark and cool-down ("50/2") and rate, on the first rows a search looks at and on all; `errors`: the
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
            found["parts"][name] = measured(name, options)
            durable.write_json(options.out, found)
            print(name, flush=True)
    if not found["parts"]:
        sys.exit("nothing was measured: name parts, such as dates/0")
    print(table(found["parts"]))


def measured(name: str, options: argparse.Namespace) -> Part:
    task, seed = name.split("/")
    began, count = time.monotonic(), grids.BATCH * STEPS // 2 + grids.HELD_OUT
    rows = grids.rows_of(task, int(seed), count, options.model)
    settings = Train[Any](epochs=2.0, max_steps=STEPS, batch_size=grids.BATCH, micro_batch_tokens=16384,
                          learning_rate=1e-3, seed=int(seed), eval_every_steps=STEPS, patience=None,
                          save_every_steps=STEPS)  # fmt: skip
    engine = grids.new_engine("lora", options)
    rates = ladder(grids.formula(engine, "lora", STEPS))
    seen: dict[str, dict[float, Score]] = {}
    with tempfile.TemporaryDirectory() as folder:
        search = grids.search_of(engine, settings, rows[grids.HELD_OUT :], rows[: grids.HELD_OUT], "lora", Path(folder))
        candidates = [new_arm(search, f"candidate-{number}", rate) for number, rate in enumerate(rates)]
        search.add_adapters([arm.name for arm in candidates])
        for step in range(1, STEPS + 1):
            train_step(engine, [arm for arm in candidates if not arm.failure])
            for cooling in MARKS.get(step, ()):
                left = [arm for arm in candidates if not arm.failure]
                seen[f"{step}/{cooling}"] = cooled(engine, left, cooling, search.held_out)
    del engine, search
    grids.release()
    return part_of(seen) | {"seconds": round(time.monotonic() - began, 1)}


def cooled(engine: Any, left: list[Arm], steps: int, held_out: Any) -> dict[float, Score]:
    before = {arm.name: engine.snapshot(arm.name) for arm in left}
    if steps:
        arms.COOL_DOWN_SHARE, arms.LONGEST_COOL_DOWN_SHARE = steps / left[0].state.step, 1.0
        cool_down(engine, left)
    found = {arm.rate: score(engine, arm.name, held_out) for arm in left}
    engine.put_back(before)
    return found


def part_of(seen: Mapping[str, Mapping[float, Score]]) -> dict[str, Any]:
    return {
        "losses": {
            mark: {f"{rate:.2g}": [round(first_rows(one).mean, 6), round(one.mean, 6)] for rate, one in scores.items()}
            for mark, scores in seen.items()
        },
        "errors": {
            mark: {f"{a:.2g} {b:.2g}": round(standard_error(scores[a], scores[b]), 6)
                   for a, b in combinations(sorted(scores), 2)}
            for mark, scores in seen.items()
        },
    }  # fmt: skip


def first_rows(one: Score) -> Score:
    """Those that a search halves by."""
    places = spread(range(len(one.losses)), ENOUGH_HELD_OUT)
    return Score(one.losses[places], one.tokens[places])


# ---- the rules


def table(parts: Mapping[str, Part]) -> str:
    lines = [f"{'rule':58} within 1 %   worst  runs"]
    for name, rule in RULES.items():
        made = [rule(part) for part in parts.values()]
        above = [
            ends(part)[rate] / min(ends(part).values()) - 1
            for part, (rate, _) in zip(parts.values(), made, strict=True)
        ]
        near = f"{sum(one <= 0.01 for one in above)} of {len(parts)}"
        runs = sum(cost for _, cost in made) / len(made)
        lines.append(f"{name:58} {near:>10} {max(above):7.1%} {runs:5.2f}")
    return "\n".join(lines)


def ends(part: Part) -> dict[str, float]:
    return {rate: both[1] for rate, both in part["losses"][f"{STEPS}/0"].items()}


def last_two(part: Part) -> list[str]:
    left = list(part["losses"]["8/2"])
    for mark, count in (("8/2", 4), ("20/2", 2)):
        left = sorted((rate for rate in left if rate in part["losses"][mark]), key=lambda r: part["losses"][mark][r][0])
        left = left[:count]
    return left


def compared(part: Part, mark: str, two: list[str]) -> tuple[str, str, float]:
    """The better, the other, and how many standard errors they are apart."""
    better, other = sorted(two, key=lambda rate: part["losses"][mark][rate][1])
    error = part["errors"][mark][" ".join(sorted(two, key=float))]
    return better, other, (part["losses"][mark][other][1] - part["losses"][mark][better][1]) / error


HALF = 8 * 0.08 + 4 * 0.12 + 2 * 0.3
"""Steps up to half of the run, in runs: in so short a run the first mark comes at 8 %."""


def at_half(within: float, cooling: int = 2) -> Callable[[Part], tuple[str, float]]:
    def rule(part: Part) -> tuple[str, float]:
        better, other, apart = compared(part, f"50/{cooling}", last_two(part))
        return (min(better, other, key=float) if apart <= within else better), HALF + 0.5

    return rule


def undecided(decided_by: float, mark: str, within: float = 0.0) -> Callable[[Part], tuple[str, float]]:
    def rule(part: Part) -> tuple[str, float]:
        two, step = last_two(part), int(mark.split("/")[0])
        better, _, apart = compared(part, "50/2", two)
        if apart > decided_by:
            return better, HALF + 0.5
        better, other, apart = compared(part, mark, two)
        chosen = min(better, other, key=float) if apart <= within else better
        return chosen, HALF + 0.5 + (step - 50) / STEPS

    return rule


RULES = {
    "half: the lowest rate within one standard error": at_half(1.0),
    "half: the lowest loss": at_half(0.0),
    "half, cooled down over 10 steps: the lowest loss": at_half(0.0, 10),
    "within three at half, then 75 %: the lower loss": undecided(3.0, "75/2"),
    "within three at half, then 75 %: the lowest within one": undecided(3.0, "75/2", 1.0),
    "within one at half, then 75 %: the lower loss": undecided(1.0, "75/2"),
    "within three at half, then the end: the lower loss": undecided(3.0, "100/0"),
    "both to the end: the lower loss": undecided(float("inf"), "100/0"),
}


if __name__ == "__main__":
    main()
