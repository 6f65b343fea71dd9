"""The whole life of a run, top to bottom: check, measure, train, measure again, report.

Each stage reads the run's folder and writes its own files into it, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from residency.config.model import RunConfig
from residency.data.validate import load_examples
from residency.engine.engine import Engine
from residency.engine.memory import peak_bytes
from residency.errors import DataError, ResidencyError, ResourceError
from residency.evals.compare import compare
from residency.evals.report import write_report
from residency.evals.run import evaluate as grade_answers
from residency.evals.run import few_shot_examples
from residency.evals.suites import measure_suite
from residency.methods import sft
from residency.methods.keep import NOTHING
from residency.methods.passes import Run, alone
from residency.methods.row_losses import write_hard_rows
from residency.models.load import versions
from residency.records import Comparison, EvalResult, Event, RunFolder, Summary
from residency.run_folders import claim, create, find_run, list_runs, unfinished
from residency.search.learning_rate import with_learning_rate
from residency.stages.base import Base
from residency.stages.card import measure_card, plan_card
from residency.stages.model import save_result
from residency.stages.prepare import Prepared, prepare
from residency.stages.retention import Memory, measure_tuned, remember_base, scale_down, with_canaries
from residency.stages.session import Session, open_session
from residency.stages.survey import check, estimate
from residency.wording import counted

Listener = Callable[[Event], None]


def run(config: RunConfig, runs: Path, *, resume: bool = False, listener: Listener | None = None) -> RunFolder:
    """Trains `config` in a new folder below `runs`, or goes on with its newest unfinished one.

    Raises ResidencyError; its record is left in the folder as `error.json`.
    """
    return alone(life(config, runs, Base(), resume=resume, listener=listener))


def life(
    config: RunConfig,
    runs: Path,
    base: Base,
    *,
    resume: bool = False,
    listener: Listener | None = None,
    asked_to_stop: Callable[[], str | None] = lambda: None,
) -> Run[RunFolder]:
    """`run` as a generator, for runs that share a base; `asked_to_stop` says why this one alone is to stop."""
    folder = unfinished(runs, config.name) if resume else create(runs, config.name)
    record = RunFolder(folder, listener)
    with claim(folder), failures_recorded(record), base.joined(record):
        stages = Stopwatch()
        record.say("run", f"the run is in {folder}", path=str(folder))
        with stages("check"):
            prepared = prepare(config, record, base.machine)
        resolved = prepared.resolved
        with stages("load"):
            engine, name = base.start(prepared, record)
        untuned = Session(record, resolved, engine, prepared.renderer, None, name)
        tuned = untuned.tuned()
        with stages("before"):
            measure(untuned, "base", prepared)
            measure_suites(untuned, "base")
            if shots := resolved.eval.few_shot:
                measure(untuned, f"base-{shots}-shot", prepared, shots=shots)
        with stages("remember"):
            memory = remember_base(untuned, prepared)
            prepared = with_canaries(prepared, record)
        with stages("plan card"):
            plan_card(untuned, prepared)
        with stages("train"):
            keep = memory.keep(untuned) if memory else NOTHING
            prepared = with_learning_rate(prepared, engine, record, keep)
            resolved = prepared.resolved
            outcome = yield from sft.training(engine, name, prepared.rows, prepared.held_out, resolved.train, record,
                                              keep, asked_to_stop)  # fmt: skip
        if memory:
            with stages("retention"):
                weigh(tuned, name, prepared, memory, outcome)
        with stages("save"):
            save_result(engine, name, prepared.renderer.tokenizer, resolved, record)
            write_hard_rows(record, prepared.rows, prepared.train_examples, resolved.train.seed)
        with stages("after"):
            measure(tuned, "tuned", prepared)
            measure_suites(tuned, "tuned")
        with stages("card"):
            measure_card(tuned, prepared)
        with stages("report"):
            record.write("summary.json", summarise(outcome, prepared, engine, stages))
            write_report(record)
    return record


def weigh(tuned: Session, name: str, prepared: Prepared, memory: Memory, outcome: sft.Outcome) -> None:
    """What was forgotten, and how much less it would be at a smaller scale of the change; measured again if taken."""
    spent = outcome.progress.retention_seconds
    found = measure_tuned(tuned, memory, spent)
    if scale_down(tuned, name, prepared, memory, found):
        measure_tuned(tuned, memory, spent)


def measure(session: Session, label: str, prepared: Prepared, *, shots: int = 0) -> None:
    """Grades every test that this run has not graded for this model yet."""
    worked = few_shot_examples(prepared.train_examples, shots, session.resolved.train.seed) if shots else ()
    for test, examples in prepared.tests.items():
        file = f"eval/{test}.{label}.json"
        if (session.run / file).exists():
            continue
        result = grade_answers(test, label, examples, lambda rows: session.answer(rows, worked),
                               session.resolved.eval.graders)  # fmt: skip
        session.run.write(file, result)
        session.run.say("measured", sentence(result), test=test, model=label)


def measure_suites(session: Session, label: str) -> None:
    """The suites of the harness; one that cannot be read is said, and left out."""
    wanted, run = session.resolved.eval, session.run
    for suite in wanted.suites:
        file = f"eval/suite-{suite}.{label}.json"
        if (run / file).exists():
            continue
        try:
            result = measure_suite(session.engine, session.adapter, session.renderer.tokenizer, suite, label,
                                   wanted.suite_rows)  # fmt: skip
        except DataError as error:
            run.say("suite_left_out", str(error), level="warning", suite=suite)
            continue
        run.write(file, result)
        run.say("measured", sentence(result), test=result.test, model=label)


def sentence(result: EvalResult) -> str:
    parts = [
        f"{name} {interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"
        for name, interval in result.summaries.items()
    ]
    return f"{result.test}, {result.model}: {', '.join(parts)} over {counted(len(result.answers), 'row')}"


def evaluate(run: RunFolder, test: str, *, name: str) -> list[Comparison]:
    """Grades a further test file with the untuned and the tuned model of a finished run, and renews the report."""
    examples = load_examples(test, "auto", purpose="test").examples
    tuned = open_session(run)
    graders = tuned.resolved.eval.graders
    before = grade_answers(name, "base", examples, tuned.untuned().answer, graders)
    after = grade_answers(name, "tuned", examples, tuned.answer, graders)
    for result in (before, after):
        run.write(f"eval/{name}.{result.model}.json", result)
    write_report(run)
    return compare(before, after)


def comparisons(run: RunFolder) -> list[Comparison]:
    """The tuned model against every measurement of the untuned one."""
    results = run.eval_results()
    tuned = {result.test: result for result in results if result.model == "tuned"}
    return [
        comparison
        for result in results
        if result.model != "tuned" and result.test in tuned
        for comparison in compare(result, tuned[result.test])
    ]


def summarise(outcome: sft.Outcome, prepared: Prepared, engine: Engine, stages: Stopwatch) -> Summary:
    progress = outcome.progress
    return Summary(
        status="stopped_early" if outcome.stopped_early else "finished",
        steps=progress.step,
        epochs=progress.step * prepared.resolved.train.batch_size / len(prepared.rows),
        best_step=progress.best_step,
        train_loss=sum(progress.recent_losses) / len(progress.recent_losses),
        eval_loss=progress.best_loss,
        rows=prepared.counts,
        tokens=progress.tokens,
        trained_tokens=progress.trained_tokens,
        tokens_per_second=progress.tokens / progress.seconds,
        peak_memory_bytes=peak_bytes(engine.device),
        seconds=stages.seconds
        | {"train": progress.seconds}
        | ({"compile": engine.compile_seconds} if engine.compile_seconds else {}),
        environment=versions(),
    )


class Stopwatch:
    """Wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - began


@contextmanager
def failures_recorded(record: RunFolder) -> Iterator[None]:
    (record / "error.json").unlink(missing_ok=True)
    try:
        yield
    except ResidencyError as error:
        with suppress(ResourceError):  # where the disk is full, the error itself says so
            record.fail(error)
        raise


__all__ = [
    "Session",
    "check",
    "comparisons",
    "estimate",
    "evaluate",
    "find_run",
    "list_runs",
    "open_session",
    "run",
]
