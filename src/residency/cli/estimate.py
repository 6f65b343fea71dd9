"""`residency estimate`: memory and time before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from residency.cli.options import AsJson, Overrides, RunFile
from residency.cli.output import print_answer, print_line, print_table, table
from residency.config.learning_rate import SEARCH_PRICE
from residency.config.load import load_run
from residency.wording import counted, duration, memory

if TYPE_CHECKING:
    from residency.stages.survey import EstimateResult

EPILOG = """
Examples

    residency estimate run.yaml

    residency estimate run.yaml --set model.id=Qwen/Qwen3-4B --set adapter.kind=qlora
"""


def add_to(app: typer.Typer) -> None:
    app.command("estimate", epilog=EPILOG)(estimate)


def estimate(run_file: RunFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what training will need in memory and time, and what each `auto` becomes and why. Nothing is trained."""
    config = load_run(run_file, overrides or ())
    from residency import pipeline
    from residency.stages.prepare import value_at

    found = pipeline.estimate(config)
    if as_json:
        print_answer(as_record(found))
        return
    parts = [(part, memory(size)) for part, size in found.need.memory_bytes.items()]
    print_table(table(("memory", ""), [*parts, ("total", memory(found.need.total_bytes))], right=(1,)))
    if found.need.host_bytes:
        print_line(f"and {memory(found.need.host_bytes)} of the host's memory, where the layers' inputs wait")
    steps = counted(found.steps, "step")
    print_line(f"\n{steps} in about {duration(found.need.seconds)}, measuring and answering not counted")
    print_line(f"({found.need.basis})")
    if found.resolved.train.learning_rate == "search":
        print_line(f"(the search over eight learning rates included: {SEARCH_PRICE} times the tokens of the run alone)")
    print_line()
    rows = [(path, value_at(found.resolved, path), reason) for path, reason in found.reasons.items()]
    print_table(table(("setting", "value", "why"), rows))


def as_record(found: EstimateResult) -> dict[str, object]:
    return {
        "memory_bytes": found.need.memory_bytes,
        "total_bytes": found.need.total_bytes,
        "host_bytes": found.need.host_bytes,
        "seconds": found.need.seconds,
        "basis": found.need.basis,
        "steps": found.steps,
        "config": found.resolved.model_dump(mode="json"),
        "reasons": found.reasons,
    }
