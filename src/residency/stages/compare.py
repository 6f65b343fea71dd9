"""Any two of runs, their checkpoints, their untuned bases and plain models, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from residency.config.model import Model, ResolvedConfig
from residency.data.messages import Example
from residency.data.render import renderer_for
from residency.data.validate import load_examples
from residency.errors import RunError
from residency.evals.paired import compare_all, forgetting_between
from residency.evals.run import evaluate
from residency.models.load import load_model, load_tokenizer
from residency.records import EvalResult, Interval, PairedResult, RetentionResult, RunFolder
from residency.run_folders import find_run, list_runs
from residency.stages.facts import device
from residency.stages.model import DTYPES, new_engine, result_name
from residency.stages.prepare import read_resolved
from residency.stages.session import Session, open_session

TUNED = "tuned"


@dataclass(frozen=True, slots=True)
class Subject:
    """One side of a comparison, as the user named it: `RUN`, `RUN:base`, `RUN@STEP`, or a model."""

    name: str
    run: RunFolder | None
    label: str = TUNED
    """What of the run: `tuned`, `base`, or another model it has measured."""
    step: int | None = None
    """A checkpoint of the run."""


def subject(name: str, runs: Path) -> Subject:
    """What is no run is a model."""
    plain, _, step = name.partition("@")
    plain, _, label = plain.partition(":")
    try:
        run = find_run(runs, plain)
    except RunError:
        return Subject(name, None)
    if step and not step.isdigit():
        raise RunError(f"{name}: what follows @ is the number of a step", param=name, hint=f"for example {plain}@50")
    return Subject(name, run, label or TUNED, int(step) if step else None)


def compare_subjects(a: str, b: str, runs: Path, test: str | None = None) -> PairedResult:
    """Without a test file, from what both runs have measured; with one, both answer it now, by the graders of the run.

    Raises RunError where one of them is no run and there is no test file, or they have measured no test in common.
    """
    sides = subject(a, runs), subject(b, runs)
    if test is None:
        before, after = (stored(side, runs) for side in sides)
        if not {one.test for one in before} & {one.test for one in after}:
            raise RunError(f"{a} and {b} have measured no test in common", param=b,
                           hint=f"name a test file: residency compare {a} {b} test.jsonl")  # fmt: skip
        return compare_all(a, b, before, after, forgetting(*sides))
    owner = next((side.run for side in sides if side.run), None)
    if owner is None:
        raise RunError(f"neither {a} nor {b} is a run", param=a, hint="one of the two must be: its graders are used")
    resolved, _ = read_resolved(owner)
    examples = load_examples(test, "auto", purpose="test").examples
    before, after = ([answered(side, resolved, owner, examples, Path(test).stem)] for side in sides)
    return compare_all(a, b, before, after, forgetting(*sides))


def stored(side: Subject, runs: Path) -> list[EvalResult]:
    """Raises RunError, with what there is, where a side has answered nothing."""
    if side.run is None:
        known = ", ".join(run.path.name for run in list_runs(runs)) or "none"
        raise RunError(f"{side.name} is no run in {runs}, and of a model no answers are stored", param=side.name,
                       hint=f"runs there: {known}. For a model, name a test file that both are to answer")  # fmt: skip
    if side.step is not None:
        raise RunError(f"of the checkpoint {side.name} no answers are stored", param=side.name,
                       hint="name a test file that both are to answer")  # fmt: skip
    results = side.run.eval_results()
    found = [result for result in results if result.model == side.label]
    if not found:
        known = ", ".join(sorted({result.model for result in results})) or "nothing"
        raise RunError(f"{side.run.path} has no answers of `{side.label}`", param=side.name,
                       hint=f"answered there: {known}")  # fmt: skip
    return found


def forgetting(a: Subject, b: Subject) -> Interval | None:
    """Only of two results; nothing else has a retention.json of its own."""
    found = []
    for side in (a, b):
        if (
            side.run is None
            or side.label != TUNED
            or side.step is not None
            or not (side.run / "retention.json").exists()
        ):
            return None
        found.append(side.run.read("retention.json", RetentionResult).prompts)
    return forgetting_between(*found)


def answered(
    side: Subject, resolved: ResolvedConfig, owner: RunFolder, examples: list[Example], test: str
) -> EvalResult:
    session = session_of(side, resolved, owner)
    return evaluate(test, side.name, examples, session.answer, resolved.eval.graders)


def session_of(side: Subject, resolved: ResolvedConfig, owner: RunFolder) -> Session:
    if side.run is None:
        named = Model(id=side.name)
        model = load_model(named, dtype=DTYPES[resolved.speed.precision], device=device())
        own = resolved.model_copy(update={"model": named})
        return Session(owner, own, new_engine(model, own, None, owner), renderer_for(load_tokenizer(named)), None)
    session = open_session(side.run)
    if side.label != TUNED:
        return session.untuned()
    return session if side.step is None else at_step(session, side)


def at_step(session: Session, side: Subject) -> Session:
    """The session's model with the weights of a checkpoint."""
    folder = session.run / "checkpoints"
    found = [path for kind in ("step", "best") if (path := folder / f"{kind}-{side.step:06d}").is_dir()]
    if not found:
        known = ", ".join(sorted({str(int(path.name.split("-")[1])) for path in folder.glob("[sb]*-[0-9]*")})) or "none"
        raise RunError(f"{session.run.path} has no checkpoint of step {side.step}", param=side.name,
                       hint=f"steps that are kept: {known}")  # fmt: skip
    name = result_name(session.resolved)
    if session.adapter is None:
        session.engine.train_all_weights()
    session.engine.restore(name, found[0], optimizer=False)
    return session
