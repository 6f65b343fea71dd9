"""`residency sweep`: settings drawn by Optuna, side by side where they share a base, and the best one's run file.

    sweeps/<name>/
      sweep.json     what was asked for, and every trial: its values, its loss, why it ended
      study.log      Optuna's own journal; a sweep that was interrupted goes on from it
      trials/<n>/    one folder a trial: config.yaml, resolved.json, metrics.jsonl
      best.yaml      the run file of the best trial
      report.html    the table, and the trials as lines through their values

Several processes (one a GPU, say) may work on one folder at once: the journal tells them apart.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from residency import durable
from residency.config.sweep import Range, Sweep, run_of
from residency.errors import ConfigError, RunError
from residency.records import Event, RunFolder, SweepRecord, TrialRecord
from residency.run_folders import claim
from residency.search.sweep_report import write_sweep_report
from residency.search.trials import Trial, new_trial, shares_passes, train_together
from residency.stages.prepare import prepare

INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Running:
    """One process's part in a sweep."""

    sweep: Sweep
    folder: RunFolder
    study: Any
    precision: dict[str, Any]
    """What the first trial's measurement of this machine decided; the same for all, so that they can share a base and
    be compared."""


def run_sweep(sweep: Sweep, folder: Path, listener: Callable[[Event], None] | None = None) -> SweepRecord:
    """Runs what is left of the sweep in `folder`, and writes its table, its report and the best run file.

    Raises ConfigError where optuna is missing, RunError where the folder holds another sweep, Interrupted.
    """
    optuna = import_optuna()
    run = RunFolder(folder, listener)
    refuse_another_sweep(sweep, run)
    running = Running(sweep, run, open_study(optuna, sweep, run), precision_before(run))
    recover(optuna, running)
    while (left := remaining(optuna, running)) > 0:
        asked = [running.study.ask(distributions(optuna, sweep)) for _ in range(min(left, sweep.side_by_side))]
        work_on(optuna, running, asked)
        write_results(optuna, running)
    return write_results(optuna, running)


def precision_before(run: RunFolder) -> dict[str, Any]:
    """Of a trial that ended in a call before; measured again, a busy machine may decide otherwise."""
    for resolved in run.path.glob("trials/*/resolved.json"):
        if (resolved.parent / "trial.json").exists():
            return precision_of(json.loads(resolved.read_bytes())["config"]["speed"])
    return {}


def precision_of(speed: Mapping[str, Any]) -> dict[str, Any]:
    return {f"speed.{name}": speed[name] for name in ("precision", "threads")}


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("a sweep needs Optuna", hint="pip install 'residency[sweep]'", param="sweep") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def refuse_another_sweep(sweep: Sweep, run: RunFolder) -> None:
    """More trials may be asked for later; the fields and the run file stay."""
    asked = sweep.model_dump(mode="json", exclude={"trials", "side_by_side"})
    before = run / "asked.json"
    if before.exists() and json.loads(before.read_bytes()) != asked:
        raise RunError(f"{run.path} holds another sweep", param=str(run.path),
                       hint="choose another folder with --folder, or put the sweep file back")  # fmt: skip
    run.path.mkdir(parents=True, exist_ok=True)
    durable.write_json(before, asked)


def open_study(optuna: Any, sweep: Sweep, run: RunFolder) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(str(run / "study.log"))
    storage = optuna.storages.JournalStorage(backend)
    done = sum(len(study.get_trials(deepcopy=False)) for study in _studies(optuna, storage))
    samplers: dict[str, Callable[[], Any]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=sweep.seed + done, constant_liar=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=sweep.seed + done),
        "grid": lambda: optuna.samplers.RandomSampler(seed=sweep.seed + done),  # never asked: all are enqueued
    }
    pruners: dict[str, Callable[[], Any]] = {
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=20, reduction_factor=2),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=20, max_resource=100, reduction_factor=2),
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=20),
        "none": optuna.pruners.NopPruner,
    }
    study = optuna.create_study(storage=storage, study_name="sweep", direction="minimize", load_if_exists=True,
                                sampler=samplers[sweep.sampler](), pruner=pruners[sweep.pruner]())  # fmt: skip
    if sweep.sampler == "grid" and not done:
        for params in grid(sweep):
            study.enqueue_trial(params)
    return study


def _studies(optuna: Any, storage: Any) -> list[Any]:
    with suppress(KeyError):
        return [optuna.load_study(study_name="sweep", storage=storage)]
    return []


def distributions(optuna: Any, sweep: Sweep) -> dict[str, Any]:
    """Choices travel as JSON text, since Optuna's categories hold no lists."""
    found = {}
    for name, values in sweep.fields.items():
        if isinstance(values, list):
            found[name] = optuna.distributions.CategoricalDistribution([json.dumps(value) for value in values])
        elif whole(values):
            low, high, step = int(values.low), int(values.high), int(values.step or 1)
            found[name] = optuna.distributions.IntDistribution(low, high, step=step)
        else:
            found[name] = optuna.distributions.FloatDistribution(
                values.low, values.high, log=values.log, step=values.step
            )
    return found


def values_of(sweep: Sweep, params: dict[str, Any]) -> dict[str, Any]:
    """As they stand in a run file; a drawn number to three digits."""
    values = {}
    for name, value in params.items():
        drawn = isinstance(sweep.fields[name], Range)
        values[name] = json.loads(value) if not drawn else float(f"{value:.3g}") if isinstance(value, float) else value
    return values


def recover(optuna: Any, running: Running) -> None:
    """Trials whose process is gone are drawn again with the same values."""
    for trial in running.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        record = trial_folder(running, trial.number)
        with ExitStack() as held:
            try:
                held.enter_context(claim(record.path))
            except RunError:
                continue  # another process works on it
            running.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params:
                running.study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
        durable.write_text(record / INTERRUPTED, "")
        (record / "trial.json").unlink(missing_ok=True)
        running.folder.say("trial_again", f"trial {trial.number} was interrupted; its values are tried again",
                           number=trial.number)  # fmt: skip


def remaining(optuna: Any, running: Running) -> int:
    begun = [
        trial.number
        for trial in running.study.get_trials(deepcopy=False)
        if trial.state != optuna.trial.TrialState.WAITING
        and not (trial_folder(running, trial.number) / INTERRUPTED).exists()
    ]
    wanted = running.sweep.trials
    if running.sweep.sampler == "grid":
        wanted = min(wanted, len(grid(running.sweep)))
    return wanted - len(begun)


def grid(sweep: Sweep) -> list[dict[str, Any]]:
    """Every combination, as Optuna's parameters. Raises ConfigError where a range has no step."""
    columns: list[list[Any]] = []
    for name, values in sweep.fields.items():
        if isinstance(values, list):
            columns.append([json.dumps(value) for value in values])
        elif values.step is None:
            raise ConfigError(f"fields.{name}: a grid needs a list, or a range with a step", param=f"fields.{name}",
                              hint="give it a step, or set sampler: tpe")  # fmt: skip
        else:
            count = int((values.high - values.low) / values.step + 1e-9) + 1
            steps = [values.low + values.step * i for i in range(count)]
            columns.append([int(x) for x in steps] if whole(values) else steps)
    return [dict(zip(sweep.fields, row, strict=True)) for row in itertools.product(*columns)]


def whole(values: Range) -> bool:
    """Whether only whole numbers are meant."""
    return not values.log and all(float(one).is_integer() for one in (values.low, values.high, values.step or 1))


def trial_folder(running: Running, number: int) -> RunFolder:
    record = RunFolder(running.folder / "trials" / str(number))
    record.path.mkdir(parents=True, exist_ok=True)
    return record


def work_on(optuna: Any, running: Running, asked: Sequence[Any]) -> None:
    """Trains the trials that were drawn: those that share a base together, the others one after another."""
    with ExitStack() as held:
        trials, of = [], {}
        for drawn in asked:
            record = trial_folder(running, drawn.number)
            held.enter_context(claim(record.path))
            trial = prepared_trial(running, drawn.number, values_of(running.sweep, drawn.params), record)
            trials.append(trial)
            of[drawn.number] = drawn
        while trials:
            together = [
                trial for trial in trials if trial is trials[0] or shares_passes(trials[0].config, trial.config)
            ]
            trials = [trial for trial in trials if trial not in together]
            train_together(together, lambda trial, percent, loss: judged(of[trial.number], percent, loss),
                           lambda trial: tell(optuna, running, trial))  # fmt: skip


def prepared_trial(running: Running, number: int, values: dict[str, Any], record: RunFolder) -> Trial:
    config = run_of(running.sweep, running.precision | values)
    (record / "audit.json").unlink(missing_ok=True)  # what a trial that was interrupted left
    if not running.precision:  # what there is to say of the data is said once
        record.listener = running.folder.listener
    prepared = prepare(config, record)
    record.listener = None
    if not running.precision:
        running.precision = precision_of(prepared.resolved.speed.model_dump())
        if prepared.resolved.retention.replay:
            running.folder.say("no_replay", "trials are trained on their rows alone: the base's answers are replayed "
                               "when a run file such as best.yaml is trained")  # fmt: skip
        config = run_of(running.sweep, running.precision | values)
    return new_trial(number, values, config, record, prepared)


def judged(drawn: Any, percent: int, loss: float) -> str | None:
    drawn.report(loss, percent)
    return f"pruned at {percent} %" if drawn.should_prune() else None


def tell(optuna: Any, running: Running, trial: Trial) -> None:
    """Optuna, the listener, and the trial's own folder hear how it ended."""
    failed = trial.arm.failure or (trial.stopped if trial.best is None else None)
    state: Literal["failed", "pruned", "finished"] = "failed" if failed else "pruned" if trial.stopped else "finished"
    record = TrialRecord(
        number=trial.number, values=trial.values, state=state, loss=trial.best, steps=trial.arm.state.step,
        total_steps=trial.arm.total, tokens=trial.arm.state.tokens, seconds=trial.arm.state.seconds, why=trial.stopped,
    )  # fmt: skip
    trial.record.write("trial.json", record)
    if state == "finished":
        running.study.tell(trial.number, trial.best)
    else:
        states = optuna.trial.TrialState
        running.study.tell(trial.number, state=states.FAIL if failed else states.PRUNED)
    shown = ", ".join(f"{name} {value}" for name, value in trial.values.items())
    loss = "" if trial.best is None else f"held-out loss {trial.best:.4f}"
    outcome = ", ".join(part for part in (loss, trial.stopped) if part)
    running.folder.say("trial", f"trial {trial.number} ({shown}): {outcome}", level="warning" if failed else "info",
                       number=trial.number, state=state, loss=trial.best, why=trial.stopped)  # fmt: skip


def write_results(optuna: Any, running: Running) -> SweepRecord:
    trials = [
        RunFolder(file.parent).read("trial.json", TrialRecord)
        for file in sorted(running.folder.path.glob("trials/*/trial.json"), key=lambda file: int(file.parent.name))
    ]
    ended = [trial for trial in trials if trial.state == "finished" and trial.loss is not None]
    best = min(ended, key=lambda trial: (trial.loss, trial.number), default=None)
    record = SweepRecord(fields=list(running.sweep.fields), best=best.number if best else None, trials=trials)
    running.folder.write("sweep.json", record)
    if best is not None:
        config = run_of(running.sweep, best.values)
        chosen = {name: section for name, section in config.model_dump(mode="json", exclude_defaults=True).items()
                  if section != {}}  # fmt: skip
        durable.write_text(running.folder / "best.yaml", yaml.safe_dump(chosen, sort_keys=False))
    write_sweep_report(running.folder, record)
    return record
