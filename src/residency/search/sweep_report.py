"""A sweep's page: every trial in a table, and as a line through its values."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from residency import durable, wording
from residency.evals import plots
from residency.records import RunFolder, SweepRecord


def write_sweep_report(folder: RunFolder, sweep: SweepRecord) -> None:
    environment = Environment(loader=PackageLoader("residency.search"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"duration": wording.duration, "count": wording.count, "counted": wording.counted}
    ranked = sorted(sweep.trials, key=lambda one: (one.state != "finished", one.loss is None, one.loss or 0.0))
    page = environment.get_template("sweep.html.j2").render(
        name=folder.path.resolve().name, sweep=sweep, trials=ranked, picture=picture(sweep),
        tokens=sum(one.tokens for one in sweep.trials), seconds=sum(one.seconds for one in sweep.trials),
    )  # fmt: skip
    durable.write_text(folder / "report.html", page)


def picture(sweep: SweepRecord) -> object:
    """None before two trials have a loss."""
    drawn = [one for one in sweep.trials if one.loss is not None]
    if len(drawn) < 2 or sweep.best is None:
        return None
    columns: dict[str, list[float | str]] = {
        name: [_number(one.values[name]) for one in drawn] for name in sweep.fields
    }
    columns["held-out loss"] = [one.loss or 0.0 for one in drawn]
    return plots.parallel(columns, [one.number for one in drawn].index(sweep.best))


def _number(value: object) -> float | str:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
