"""Every figure of the report stands in a file of the run folder, in the form a reader sees it."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from residency import wording
from residency.evals.findings import read_findings
from residency.evals.report import measuring_seconds, write_report
from residency.records import RunFolder

FIGURE = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
FORMS = (wording.percent, wording.score, wording.signed, wording.points, wording.probability, wording.duration,
         wording.memory, wording.count, "{:.1f}".format, "{:.2f}".format, "{:.3f}".format, "{:.4f}".format,
         lambda value: f"{100 * value:.0f}")  # fmt: skip


def figures(text: str) -> set[str]:
    return set(FIGURE.findall(text))


def values(node: Any) -> Iterator[Any]:
    """All that stands in a file, and how many items its lists have."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from values(value)
    elif isinstance(node, list):
        yield len(node)
        for value in node:
            yield from values(value)
    else:
        yield node


def told(run: RunFolder) -> set[str]:
    """Every figure of every JSON file, as the report would write it."""
    found: set[str] = set()
    for path in sorted(run.path.rglob("*.json*")):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            for value in values(json.loads(line)):
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found |= {figure for form in FORMS for figure in figures(form(value))}
                found |= figures(str(value))
    return found


def shown(page: str) -> set[str]:
    """The figures with a decimal point that a reader sees; the axes of the plots are scales, and no findings."""
    text = re.sub(r"<(style|svg|title).*?</\1>", " ", page, flags=re.DOTALL)
    return {figure for figure in figures(html.unescape(re.sub(r"<[^>]+>", " ", text))) if "." in figure}


def test_every_figure_of_the_report_stands_in_a_file(finished_run: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(finished_run.path, tmp_path / "smart-home")))
    page = write_report(run).read_text()
    parts, training = measuring_seconds(read_findings(run))  # sums of the seconds in summary.json and retention.json
    total = sum(parts.values())
    sums = {*parts.values(), total, sum(read_findings(run).summary.seconds.values())}  # type: ignore[union-attr]
    derived = {figure for each in sums for figure in figures(wording.duration(each))}
    derived |= figures(wording.percent(total / training))
    assert len(shown(page)) > 50
    assert shown(page) - told(run) - derived == set()


def test_a_figure_that_no_file_has_is_found(finished_run: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(finished_run.path, tmp_path / "smart-home")))
    write_report(run)
    assert shown("<p>12.3457 nats</p><svg>77.7777</svg>") - told(run) == {"12.3457"}
