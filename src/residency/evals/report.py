"""Writes a run's report: one page that opens anywhere, and the same as Markdown."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from residency import durable, wording
from residency.evals import plots
from residency.evals.card_page import heat_map
from residency.evals.findings import TUNED, Findings, read_findings, strongest
from residency.records import Comparisons, RunFolder

TEMPLATES = Path(__file__).with_name("templates")
NUMBERS = {
    "percent": wording.percent,
    "score": wording.score,
    "signed": wording.signed,
    "points": wording.points,
    "probability": wording.probability,
    "duration": wording.duration,
    "memory": wording.memory,
    "count": wording.count,
    "counted": wording.counted,
}


def write_report(run: RunFolder) -> Path:
    """Writes report.html, report.md, comparisons.json and verdict.json from what is in the folder; returns the page.

    A run that failed or has not finished gets one too. Raises RunError where a file of the run is damaged.
    """
    findings = read_findings(run)
    run.write("comparisons.json", Comparisons(comparisons=findings.comparisons))
    if findings.verdict:
        run.write("verdict.json", findings.verdict)
    durable.write_text(run / "report.md", _markdown(findings))
    durable.write_text(run / "report.html", _html(findings))
    return run / "report.html"


def _html(findings: Findings) -> str:
    best_step = findings.summary.best_step if findings.summary else None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= NUMBERS | {"code": code}
    drawn = findings.data["plots"] if findings.data else {}
    topics: dict[str, Any] = next(
        (one["data"] for one in (findings.data or {}).get("findings", ()) if one["check"] == "topics"), {}
    )
    measuring, training = measuring_seconds(findings)
    total = sum(measuring.values())
    return environment.get_template("report.html.j2").render(
        run=findings,
        row_lengths=plots.row_lengths(drawn.get("lengths", {})),
        label_balance=plots.label_balance(drawn.get("labels")),
        topic_map=plots.topic_map(topics.get("map", ()), topics.get("topics", ())),
        measuring=measuring,
        cost=f"{wording.duration(total)}, {wording.percent(total / training)}" if training > 0 else "",
        decisive=strongest(findings.comparisons),
        forest=plots.forest(findings.results, TUNED),
        loss_curves=plots.loss_curves(findings.metrics, best_step),
        learning_rate=plots.small_curve(findings.metrics, "learning_rate"),
        forgetting=plots.forgetting(findings.metrics, findings.retention),
        card=heat_map(findings.card),
        trade_off=plots.trade_off(findings.scaled, findings.retention),
        grad_norm=plots.small_curve(findings.metrics, "grad_norm"),
    )


def code(text: str) -> Markup:
    """What stands in backticks, set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def measuring_seconds(findings: Findings) -> tuple[dict[str, float], float]:
    """What measuring took beyond the answers to the tests, part by part; and the training without it."""
    if findings.summary is None:
        return {}, 0.0
    stages = findings.summary.seconds
    spent = findings.retention.seconds if findings.retention else {}
    during = spent.get("training", 0.0)
    parts = {
        "asking the base (kept for its next run)": stages.get("remember", 0.0) - spent.get("replay_answers", 0.0),
        "during training": during,
        "afterwards, and at smaller scales": stages.get("retention", 0.0),
        "where it holds": stages.get("plan card", 0.0) + stages.get("card", 0.0),
    }
    return {part: seconds for part, seconds in parts.items() if seconds}, stages.get("train", 0.0) - during


def _markdown(findings: Findings) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # Markdown: `cell` and `fence` make values safe
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= NUMBERS | {"cell": cell, "fence": fence}
    return environment.get_template("report.md.j2").render(run=findings, card=heat_map(findings.card))


def cell(text: object) -> str:
    """Text for a Markdown line or table cell: no markup of its own, no line breaks, no column breaks."""
    line = re.sub(r"\s*[\r\n\t]\s*", " ", html.escape(str(text), quote=False)).strip(" ")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", line)


def fence(text: str) -> str:
    """Text as a Markdown code block, with a fence longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}\n{text}\n{ticks}"
