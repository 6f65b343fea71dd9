"""What can be said before anything is trained: what the data are, and what training will need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from residency.config.learning_rate import SEARCH_PRICE
from residency.config.model import ResolvedConfig, RunConfig
from residency.config.resolve import resolve
from residency.config.steps import total_steps
from residency.data.audit.audit import Audit, with_findings
from residency.data.audit.findings import Finding
from residency.data.lengths import fit_length
from residency.data.messages import Origin, Rendered
from residency.methods.order import rows_of_step
from residency.models.facts import Estimate, matmul_rate, model_facts
from residency.models.facts import estimate as estimate_need
from residency.models.load import load_config
from residency.stages.eye import model_findings
from residency.stages.facts import device, gather, passes_of
from residency.stages.model import DTYPES
from residency.stages.prepare import Data, audit_data, hold_out, lengths_of, load_renderer, read_data, render
from residency.stages.trial import measure
from residency.wording import counted

TRIAL_SECONDS = 3.0
"""No timed step is to take longer, by the formula, on the whole model; it takes far less on a shallow one."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    format: str
    format_reason: str
    rows: dict[str, int]
    """By what they are for: train, eval, and each test."""
    tokens: dict[str, float]
    """Of the training rows: total, trained, p50, p99, longest."""
    over_long: int
    """Training rows longer than `data.max_length_tokens`, or than the model's context."""
    example: str
    """The first training row as the model sees it, with the text that carries loss marked."""
    audit: Audit
    """What was found in the training rows."""


@dataclass(frozen=True, slots=True)
class EstimateResult:
    resolved: ResolvedConfig
    reasons: dict[str, str]
    steps: int
    need: Estimate


def check(config: RunConfig, *, eye: bool = False) -> CheckResult:
    """Everything that is checked before training; with `eye` the model itself reads the rows too, which takes minutes.

    Raises DataError with the problems of all files, and the others.
    """
    data = read_data(config)
    renderer, _ = load_renderer(config)
    found = audit_data(data, renderer)
    data = hold_out(config, data, found.groups)
    rows = render(config, renderer, data.train)
    render(config, renderer, data.held_out)
    limit = config.data.max_length_tokens
    if limit == "auto":
        limit = model_facts(load_config(config.model)).context_length
    too_long = fit_length(rows, limit, "drop").dropped
    return CheckResult(
        format=data.format,
        format_reason=data.format_reason,
        rows=count_rows(data),
        tokens=lengths_of(rows),
        over_long=len(too_long),
        example=renderer.describe(data.train[0]),
        audit=with_findings(
            found,
            [over_long_finding(too_long, len(rows), limit), *(model_findings(config, data, renderer) if eye else [])],
        ),
    )


def over_long_finding(rows: list[Origin], number: int, limit: int) -> Finding | None:
    if not rows:
        return None
    return Finding(
        "over_long", "warning" if len(rows) > 0.01 * number else "note",
        f"Longer than {limit:,} tokens as this model reads them: {counted(len(rows), 'row')}. data.over_long decides "
        "whether they are dropped or cut.",
        rows, {"limit": limit}, len(rows) / number,
    )  # fmt: skip


def estimate(config: RunConfig) -> EstimateResult:
    """Memory and time of the training, from the data, the model's shape and this machine's measured speed."""
    data = hold_out(config, read_data(config))
    renderer, _ = load_renderer(config)
    rows = render(config, renderer, data.train)
    hf_config = load_config(config.model)
    facts = gather(config, hf_config, data.train, data.tests, rows, data.format, bool(data.held_out), renderer)
    resolved, reasons = resolve(config, facts)
    torch.set_num_threads(resolved.speed.threads)
    steps, tokens = total_steps(resolved.train, len(rows)), lengths_of(rows)
    dtype, mean = DTYPES[resolved.speed.precision], tokens["total"] / len(rows)
    price = SEARCH_PRICE if resolved.train.learning_rate == "search" else 1.0
    model = model_facts(hf_config)
    passes = passes_of(resolved, hf_config, model, dtype.itemsize)
    need = estimate_need(
        model,
        resolved.adapter,
        passes=replace(passes, accumulated=resolved.train.batch_size * mean > resolved.train.micro_batch_tokens),
        micro_batch_tokens=min(resolved.train.micro_batch_tokens, int(resolved.train.batch_size * mean)),
        trained_share=tokens["trained"] / tokens["total"],
        total_tokens=int(price * steps * resolved.train.batch_size * mean),
        row_length=mean,
        matmul_flops=matmul_rate(device(), dtype),
        device=device().type,
    )
    need = timed(need, resolved, hf_config, rows, price * steps)
    return EstimateResult(resolved, reasons, steps, need)


def timed(need: Estimate, resolved: ResolvedConfig, hf_config: Any, rows: Sequence[Rendered], steps: float) -> Estimate:
    """With the seconds of real steps in the place of the formula's: over as many rows of a step as pass in a moment.

    `steps` are the run's, those of its search included.
    """
    size = min(resolved.train.batch_size, len(rows))
    order = rows_of_step(0, size, len(rows), resolved.train.seed)
    share = min(1.0, TRIAL_SECONDS / max(need.seconds / steps, 1e-9))
    batch = [rows[i] for i in order[: max(1, round(size * share))]]
    found = measure(resolved, hf_config, batch)
    if found is None:
        return need
    tokens = sum(map(len, batch))
    whole = sum(map(len, rows)) / len(rows) * resolved.train.batch_size / tokens
    bound = ", bound by the host: other programs on it count" if found.host_bound else ""
    basis = (
        f"steps of {found.seconds * whole:.3g} seconds (half of them between {found.low * whole:.3g} and "
        f"{found.high * whole:.3g}){bound}; from real ones over {counted(len(batch), 'row')} of {tokens} tokens on "
        "this machine, by models of this shape with few layers; memory by formula"
    )
    if resolved.speed.compile:
        basis += "; layers uncompiled"
    return replace(need, seconds=found.seconds * whole * steps, basis=basis)


def count_rows(data: Data) -> dict[str, int]:
    return {"train": len(data.train), "eval": len(data.held_out)} | {k: len(v) for k, v in data.tests.items()}
