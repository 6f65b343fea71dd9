"""`residency train`: the whole life of a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from residency.cli.live import live_view
from residency.cli.options import RUNS, AsJson, Overrides, RunFile, Runs
from residency.cli.output import comparison_table, listener, print_answer, print_line, print_table
from residency.config.load import load_run
from residency.errors import Interrupted
from residency.records import RunFolder, Summary, Verdict
from residency.wording import counted, duration, memory

GATE_FAILED = 9
EPILOG = """
Examples

    residency train run.yaml

    residency train run.yaml --set train.epochs=2 --set model.id=Qwen/Qwen3-0.6B

    residency train run.yaml --resume
"""


def add_to(app: typer.Typer) -> None:
    app.command("train", epilog=EPILOG)(train)


def train(
    run_file: RunFile,
    overrides: Overrides = None,
    runs: Runs = RUNS,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest unfinished run of this name.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse data with warnings, not only those with errors (data.strict).")
    ] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 9 unless the verdict is that the result may be shipped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the data, measure the untuned model, train, measure again, and report.

    Nothing is overwritten: a name that is taken gets a number. Ctrl-C leaves a checkpoint.
    """
    config = load_run(run_file, [*(overrides or ()), *(["data.strict=true"] if strict else [])])
    from residency import pipeline

    try:
        with sigterm_as_ctrl_c(), live_view(listener(as_json)) as hear:
            finished = pipeline.run(config, runs, resume=resume, listener=hear)
    except KeyboardInterrupt:
        # Between training steps the loop itself stops and leaves a checkpoint; this is before or after them.
        raise Interrupted("interrupted", hint="go on with the same command and --resume") from None
    verdict = show_result(finished, as_json)
    if gate and not verdict.passed:
        raise typer.Exit(GATE_FAILED)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Whoever ends the process politely is told how to go on, too. Outside the main thread nothing changes."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show_result(run: RunFolder, as_json: bool) -> Verdict:
    from residency.evals.findings import read_findings

    findings = read_findings(run)
    comparisons, verdict = findings.comparisons, run.read("verdict.json", Verdict)
    retention, scaled = findings.retention, findings.scaled
    summary = run.read("summary.json", Summary)
    report = run / "report.html"
    if as_json:
        print_answer({
            "run": str(run.path),
            "report": str(report),
            "summary": summary.model_dump(mode="json"),
            "comparisons": [one.model_dump(mode="json") for one in comparisons],
            "verdict": verdict.model_dump(mode="json"),
            "retention": retention.model_dump(mode="json", exclude={"prompts"}) if retention else None,
            "scale": scaled.model_dump(mode="json") if scaled else None,
            "card": findings.card.model_dump(mode="json", exclude={"behaviours", "probes"}) if findings.card else None,
        })  # fmt: skip
        return verdict
    if comparisons:
        print_line()
        print_table(comparison_table(comparisons))
        print_line()
    print_line(sentence(summary))
    print_line(verdict.sentence)
    print_line(f"report: {report}")
    return verdict


def sentence(summary: Summary) -> str:
    loss = f", held-out loss {summary.eval_loss:.4f}" if summary.eval_loss is not None else ""
    early = "stopped early: " if summary.status == "stopped_early" else ""
    compiling = summary.seconds.get("compile", 0.0)
    compiled = f" and {duration(compiling)} of compiling" if compiling else ""
    return (
        f"{early}{counted(summary.steps, 'step')} in {duration(summary.seconds.get('train', 0.0))}{compiled}, "
        f"{summary.tokens_per_second:,.0f} tokens/s, peak memory {memory(summary.peak_memory_bytes)}, "
        f"training loss {summary.train_loss:.4f}{loss}"
    )
