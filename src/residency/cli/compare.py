"""`residency compare`: two models on the same rows."""

from __future__ import annotations

from typing import Annotated

import typer

from residency.cli.options import RUNS, AsJson, Runs
from residency.cli.output import print_answer, print_line, print_table, table
from residency.records import PairedComparison, PairedResult
from residency.wording import points, probability, signed

EPILOG = """
Examples

    residency compare smart-home smart-home-2

    residency compare smart-home:base-6-shot smart-home

    residency compare smart-home@40 smart-home other-house.jsonl

    residency compare smart-home smollm2-135m other-house.jsonl
"""


def add_to(app: typer.Typer) -> None:
    app.command("compare", epilog=EPILOG)(compare)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, RUN:base, RUN@STEP (a checkpoint), or a model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    test_file: Annotated[
        str | None, typer.Argument(metavar="TEST_FILE", help="Rows that both answer; else what both have measured.")
    ] = None,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Say which of two models is better on the same rows, with paired intervals and p-values.

    The p-values are adjusted for all tests together (Holm). Nothing is written.
    """
    from residency.evals.paired import sentence
    from residency.stages.compare import compare_subjects

    found = compare_subjects(a, b, runs, test_file)
    if as_json:
        print_answer(found.model_dump(mode="json"))
        return
    columns = ("test", "grader", a, b, "gain", "McNemar", "Holm")
    print_table(table(columns, [row(one) for one in found.comparisons], right=(2, 3, 4)))
    print_line()
    for one in found.comparisons:
        print_line(sentence(one, a, b))
    if found.forgetting:
        print_line(forgetting(found))


def row(found: PairedComparison) -> tuple[str, ...]:
    one = found.comparison
    shown = points if one.p_value is not None else signed
    gain = f"{shown(one.gain.value)}\n[{shown(one.gain.low)}, {shown(one.gain.high)}]"
    p_values = (probability(p) if p is not None else "" for p in (one.p_value, found.p_holm))
    return one.test, one.grader, f"{one.before.value:.3f}", f"{one.after.value:.3f}", gain, *p_values


def forgetting(found: PairedResult) -> str:
    difference = found.forgetting
    assert difference is not None
    interval = f"{signed(difference.value)} [{signed(difference.low)}, {signed(difference.high)}] nats per token"
    more = "more" if difference.value > 0 else "less"
    if difference.low <= 0 <= difference.high:
        return f"forgetting: no difference could be shown between {found.a} and {found.b}: {interval}"
    return f"forgetting: {found.b} forgot {more} than {found.a}: {interval}"
