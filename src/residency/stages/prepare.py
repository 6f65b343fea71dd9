"""From a run file to rows of tokens: everything that can be wrong is found here, before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from residency import durable
from residency.config.model import ResolvedConfig, RunConfig, Speed
from residency.config.resolve import Facts, resolve
from residency.config.section import Final
from residency.data.audit.audit import Audit, audit, refuse, special_token_findings, with_findings
from residency.data.audit.table import table_of
from residency.data.lengths import fit_length
from residency.data.messages import Example, Origin, Rendered
from residency.data.render import Renderer, renderer_for
from residency.data.split import parse_eval, split_examples
from residency.data.templates import resolve_template
from residency.data.validate import Loaded, Purpose, load_examples
from residency.errors import DataError, RunError
from residency.evals.suites import require_harness
from residency.graders.score import check_graders
from residency.methods.pretrain import windows
from residency.models.chat import set_template
from residency.models.load import load_config, load_tokenizer
from residency.records import RunFolder
from residency.stages.facts import gather
from residency.wording import counted

ROWS_SAID = 20
BEFORE_RETENTION = {"anchors": 0, "answer_tokens": 1, "budget": 1.0, "replay": False, "stop": False}
"""What a run did that began before forgetting was measured: nothing of it."""
BEFORE_COMPILING = {"offload": False, "compile": False}
"""And before there were these."""


@dataclass(frozen=True, slots=True)
class Data:
    """The examples of a run, by what they are for."""

    train: list[Example]
    held_out: list[Example]
    tests: dict[str, list[Example]]
    format: str
    format_reason: str
    files: dict[str, str]
    """SHA-256 by file."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a run needs but the model."""

    resolved: ResolvedConfig
    reasons: dict[str, str]
    renderer: Renderer
    rows: list[Rendered]
    held_out: list[Rendered]
    train_examples: list[Example]
    tests: dict[str, list[Example]]
    counts: dict[str, int]
    template_token_ids: tuple[int, ...]
    """Special tokens of a template the user named; their embeddings are to be trained."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs that share a base have in common."""

    free_bytes: int
    """Memory before the base was loaded."""
    speed: Speed[Final]


def prepare(config: RunConfig, run: RunFolder, machine: Machine | None = None) -> Prepared:
    """Reads, checks, splits and renders the data, and replaces every `auto`. A resumed run keeps its first values.
    `machine` is that of the runs which this one joins.

    Raises DataError with the problems of all files, ModelError, TemplateError, ConfigError, RunError.
    """
    resuming = (run / "audit.json").exists()  # written last
    if resuming:
        config = begun_with(config, run)
    else:
        durable.write_text(run / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    data = read_data(config)
    renderer, template_token_ids = load_renderer(config)
    if resuming:
        data = held_out_before(run, data)
    else:
        found = audit_data(data, renderer)
        report_findings(config, run, found)
        data = hold_out(config, data, found.groups)
    rows, held_out = (render(config, renderer, part) for part in (data.train, data.held_out))
    if resuming:
        resolved, reasons = read_resolved(run)
    else:
        facts = gather(config, load_config(config.model), data.train, data.tests, rows, data.format, bool(held_out),
                       renderer)  # fmt: skip
        resolved, reasons = resolve(config, facts) if machine is None else resolve_beside(machine, config, facts)
        durable.write_json(run / "resolved.json", {"config": resolved.model_dump(mode="json"), "reasons": reasons})
    torch.set_num_threads(resolved.speed.threads)
    check_graders(resolved.eval.graders)
    require_harness(resolved.eval.suites)
    rows, held_out, counts = fit(resolved, rows, held_out, run, renderer.tokenizer.bos_token_id)
    counts = {"read": len(data.train) + len(data.held_out), "train": len(rows), "eval": len(held_out)} | counts
    counts |= {name: len(examples) for name, examples in data.tests.items()}
    if not resuming:
        write_audit(run, found, data, rows, counts)
        for path, reason in reasons.items():
            run.say("auto", f"{path} = {value_at(resolved, path)}: {reason}", path=path)
    return Prepared(resolved, reasons, renderer, rows, held_out, data.train, data.tests, counts, template_token_ids)


def resolve_beside(machine: Machine, config: RunConfig, facts: Facts) -> tuple[ResolvedConfig, dict[str, str]]:
    """As for a run alone, with the speed of those whose base it shares."""
    resolved, reasons = resolve(config, replace(facts, memory_bytes=machine.free_bytes))
    why = "As the runs beside it, whose base it trains on."
    reasons = {path: why if path.startswith("speed.") else reason for path, reason in reasons.items()}
    return resolved.model_copy(update={"speed": machine.speed}), reasons


def audit_data(data: Data, renderer: Renderer) -> Audit:
    """The training rows, before any are held out, against the rows that are to measure them, and as this model's
    tokenizer reads them."""
    measuring = [example for part in (data.held_out, *data.tests.values()) for example in part]
    found = audit(table_of(data.train), table_of(measuring) if measuring else None)
    tokenizer = renderer.tokenizer
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    turns = {tokenizer.bos_token, tokenizer.eos_token, *(renderer.template.end_tokens if data.format != "text" else ())}
    return with_findings(found, special_token_findings(found.table, special, frozenset(special & turns)))


def report_findings(config: RunConfig, run: RunFolder, found: Audit) -> None:
    """Says every warning, and refuses what should not be trained on."""
    for finding in found.findings:
        if finding.severity != "note":
            run.say("data_finding", f"{finding.check}: {finding.message}", level=finding.severity,
                    rows=[str(origin) for origin in finding.rows[:ROWS_SAID]])  # fmt: skip
    refuse(found, strict=config.data.strict)


def read_data(config: RunConfig) -> Data:
    """Every file of the run; the problems of all of them are raised together. A share is not held out yet."""
    problems: list[str] = []
    errors: list[DataError] = []

    def read(source: str, purpose: Purpose) -> Loaded | None:
        try:
            return load_examples(source, config.data.format, purpose=purpose)
        except DataError as error:
            errors.append(error)
            problems.extend(error.problems or [error.message])
            return None

    train = read(config.data.train, "train")
    share = parse_eval(config.data.eval) if config.data.eval else None
    held_out = read(share, "eval") if isinstance(share, str) else None
    sources = ({"test": config.data.test} if config.data.test else {}) | config.eval.more_tests
    tests = {name: read(source, "test") for name, source in sources.items()}
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError(f"{len(errors)} files cannot be used", hint=errors[0].hint, problems=problems,
                        param=errors[0].param)  # fmt: skip
    assert train is not None
    files = [config.data.train, *([share] if isinstance(share, str) else []), *sources.values()]
    return Data(train.examples, held_out.examples if held_out else [],
                {name: loaded.examples for name, loaded in tests.items() if loaded}, train.format, train.format_reason,
                {file: durable.sha256(Path(file)) for file in files if Path(file).is_file()})  # fmt: skip


def hold_out(config: RunConfig, data: Data, groups: NDArray[np.int64] | None = None) -> Data:
    """Where `data.eval` is a share, that share of the training rows is held out, near copies on one side."""
    share = parse_eval(config.data.eval) if config.data.eval else None
    if not isinstance(share, float):
        return data
    train, held_out = split_examples(data.train, share, config.train.seed, groups)
    return replace(data, train=train, held_out=held_out)


def held_out_before(run: RunFolder, data: Data) -> Data:
    """The rows held out when the run began, by its `audit.json`: the data are not audited a second time.

    Raises RunError where the data have changed.
    """
    try:
        before = json.loads((run / "audit.json").read_bytes())
        files, lines = before["files"], set(before["held_out_lines"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{run / 'audit.json'} cannot be read: {error}", param=str(run.path),
                       hint="begin a new run") from error  # fmt: skip
    refuse_changed_data(files, data.files)
    if not lines:
        return data
    train, held_out = ([row for row in data.train if (row.origin.line in lines) == held] for held in (False, True))
    return replace(data, train=train, held_out=held_out)


def load_renderer(config: RunConfig) -> tuple[Renderer, tuple[int, ...]]:
    """The tokenizer behind its chat template, which for a base model is the one the user named."""
    tokenizer = load_tokenizer(config.model)
    ids: tuple[int, ...] = ()
    if config.model.chat_template:
        ids = set_template(tokenizer, resolve_template(config.model.chat_template))
    return renderer_for(tokenizer, train_on=config.data.train_on), ids


def render(config: RunConfig, renderer: Renderer, examples: Sequence[Example]) -> list[Rendered]:
    if config.method.name == "sft" and any(example.text is not None for example in examples):
        raise DataError(
            "plain text has no answers to learn from", param="data.train",
            hint="set method: {name: pretrain} to continue pre-training on it",
        )  # fmt: skip
    return renderer.render_all(examples)


def fit(
    resolved: ResolvedConfig, rows: list[Rendered], held_out: list[Rendered], run: RunFolder, bos_id: int | None
) -> tuple[list[Rendered], list[Rendered], dict[str, int]]:
    """Applies the length policy and says what it did; plain text is cut into windows instead, and nothing is lost."""
    length, policy = resolved.data.max_length_tokens, resolved.data.over_long
    if resolved.method.name == "pretrain":
        return windows(rows, length), windows(held_out, length), {}
    counts: dict[str, int] = {}
    fitted = [fit_length(part, length, policy, bos_id=bos_id) for part in (rows, held_out)]
    for kind, verb in (("dropped", "dropped"), ("cut", "cut")):
        touched: list[Origin] = [origin for part in fitted for origin in getattr(part, kind)]
        counts[kind] = len(touched)
        if touched:
            run.say(f"rows_{kind}", f"{verb}, because longer than {length} tokens: {counted(len(touched), 'row')} "
                    f"(data.over_long: {policy}); the first is {touched[0]}", level="warning",
                    rows=[str(origin) for origin in touched])  # fmt: skip
    if not fitted[0].kept:
        raise DataError(
            f"no training row is left: all are longer than {length} tokens", param="data.max_length_tokens",
            hint="raise data.max_length_tokens",
        )  # fmt: skip
    return fitted[0].kept, fitted[1].kept, counts


def read_resolved(run: RunFolder) -> tuple[ResolvedConfig, dict[str, str]]:
    try:
        stored = json.loads((run / "resolved.json").read_bytes())
        config = {"retention": BEFORE_RETENTION} | stored["config"]
        config["speed"] = BEFORE_COMPILING | config["speed"]
        return ResolvedConfig.model_validate(config), stored["reasons"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{run / 'resolved.json'} cannot be read: {str(error).splitlines()[0]}",
                       param=str(run.path), hint="begin a new run") from error  # fmt: skip


def begun_with(config: RunConfig, run: RunFolder) -> RunConfig:
    """A resumed run keeps the run file it began with; where the file says otherwise now, that is said."""
    try:
        began = RunConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{run / 'config.yaml'} cannot be read: {str(error).splitlines()[0]}",
                       param=str(run.path), hint="begin a new run") from error  # fmt: skip
    changed = [name for name in RunConfig.model_fields if getattr(config, name) != getattr(began, name)]
    if changed:
        run.say("kept", f"the run file has changed in {', '.join(changed)} since this run began; it goes on with what "
                f"it began with", level="warning", sections=changed)  # fmt: skip
    return began


def refuse_changed_data(before: Mapping[str, str], files: Mapping[str, str]) -> None:
    changed = sorted(name for name in before.keys() | files.keys() if before.get(name) != files.get(name))
    if changed:
        raise RunError(f"the data have changed since the run began: {', '.join(changed)}", code="data_changed",
                       hint="begin a new run (without --resume), or put the files back", param=changed[0])  # fmt: skip


def write_audit(run: RunFolder, found: Audit, data: Data, rows: Sequence[Rendered], counts: dict[str, int]) -> None:
    trained = {row.origin.line for row in data.train}
    lines = [line for line in found.table.file_lines if line not in trained]
    durable.write_json(run / "audit.json", found.as_record() | {
        "format": data.format, "format_reason": data.format_reason, "files": data.files,
        "rows": counts, "tokens": lengths_of(rows), "held_out_lines": lines,
    })  # fmt: skip
    run.say("data", f"{counted(counts['train'], 'row')} to train on, {counts['eval']} held out; {data.format} format: "
            f"{data.format_reason}", rows=counts)  # fmt: skip


def lengths_of(rows: Sequence[Rendered]) -> dict[str, float]:
    lengths = np.array([len(row) for row in rows])
    return {
        "total": int(lengths.sum()),
        "trained": int(sum(row.trained.sum() for row in rows)),
        "p50": float(np.percentile(lengths, 50)),
        "p99": float(np.percentile(lengths, 99)),
        "longest": int(lengths.max()),
    }


def value_at(resolved: ResolvedConfig, path: str) -> Any:
    value: Any = resolved
    for part in path.split("."):
        value = getattr(value, part)
    if isinstance(value, list):
        return ", ".join(str(getattr(one, "name", one)) for one in value)
    return f"{value:.3g}" if isinstance(value, float) else value
