"""Three worlds in which the starter model's right advice is known: smart-home JSON, capital cities, products.

    python bench/science/advise_worlds.py [--seeds 0 1 2] [--rows 200] [--worlds ...] [--model ID] [--out FILE]
    CUDA_VISIBLE_DEVICES=1 python bench/science/advise_worlds.py --share 1/4 --seeds 0 1 2 3 4 --out share-1.json
    python bench/science/advise_worlds.py --merge share-*.json

Runs `residency advise` on each, on a GPU or a processor, and writes one JSON file: the choice, how firm it is, the
figures with intervals, answers and seconds. Ends with 1 where a choice is not the right one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import worlds
from shares import add_options, read_all, share_of

from residency import durable
from residency.advisor.advice import Advice, advise
from residency.advisor.decide import figures_of
from residency.config.task import Task
from residency.models.load import versions
from residency.records import Interval, RunFolder

WORLDS: dict[str, tuple[str, Callable[[int, int], list[worlds.Row]], list[dict[str, Any]]]] = {
    "smart-home": ("fine-tune", worlds.smart_home, worlds.JSON),
    "capitals": ("retrieval", worlds.capitals, worlds.CONTAINS),
    "products": ("rethink", worlds.products, worlds.EXACT),
}
RESULTS = worlds.ROOT / "bench" / "results" / "advise_worlds.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=RESULTS)
    add_options(parser)
    options = parser.parse_args()
    before = read_all(options.merge, "environment")
    found = [one for file in before for one in file["worlds"]]
    if options.merge:
        return written(options.out, before[0]["environment"], found)
    worlds.smart_home(1, 0)  # makes the demo's data, which takes none of advise's time
    for seed, name in share_of([(seed, name) for seed in options.seeds for name in options.worlds], options.share):
        with tempfile.TemporaryDirectory() as folder:
            found.append(run(name, seed, options, Path(folder)))
        print(json.dumps(found[-1]), flush=True)
        written(options.out, versions(), found)
    return written(options.out, versions(), found)


def written(out: Path, environment: dict[str, str], found: list[dict[str, Any]]) -> int:
    """0 where every choice is the right one."""
    durable.write_json(out, {"environment": environment, "worlds": found})
    return 0 if all(one["right"] for one in found) else 1


def run(name: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    expected, make, graders = WORLDS[name]
    examples = worlds.write(folder / "examples.jsonl", make(options.rows, seed))
    task = Task.model_validate({
        "name": name, "examples": str(examples), "graders": graders, "seed": seed, "batch_size": options.batch_size,
        "model": {"id": options.model},
    })  # fmt: skip
    record = RunFolder(folder, lambda event: print(f"  {name}: {event.message}", file=sys.stderr, flush=True))
    return {"world": name, "seed": seed, "expected": expected} | summary(advise(task, record), expected)


def summary(advice: Advice, expected: str) -> dict[str, Any]:
    evidence = advice.evidence
    found = figures_of(evidence, range(len(evidence.passed)))
    mistakes = [mistake for mistake in evidence.mistakes if mistake]
    return {
        "choice": advice.decision.choice,
        "right": advice.decision.choice == expected,
        "reasons": advice.decision.reasons,
        "resampled": advice.decision.resampled,
        "rows": evidence.rows,
        "best_prompt": evidence.prompts[0].name,
        "dev": {score.name: limits(score.right) for score in evidence.prompts},
        "test": limits(found.right),
        "with_context": limits(found.context),
        "one_of_eight": limits(found.tries),
        "agreement": evidence.agreement,
        "form_share": limits(found.form),
        "mistakes": {kind: mistakes.count(kind) for kind in sorted(set(mistakes))},
        "proposal": advice.proposal.model_dump(exclude={"run_file"}) if advice.proposal else None,
        "answers": advice.answers,
        "seconds": round(advice.seconds, 1),
    }


def limits(interval: Interval | None) -> list[float] | None:
    return [round(x, 4) for x in (interval.value, interval.low, interval.high)] if interval else None


if __name__ == "__main__":
    sys.exit(main())
