"""The report's pictures as inline SVG: text stays text and colours are CSS variables, so both follow the theme."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from residency.records import EvalResult, Metric, RetentionResult, ScaleResult
from residency.wording import percent, score

INK, MUTED, LINE, ACCENT, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent", PAPER: "--paper"}
"""Stand-ins that matplotlib can draw with, and what they become in the page."""
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
ROW_INCHES = 0.27
LEFT = -0.2 / 0.545
"""The figure's left edge, as a share of the forest's width."""
WIDTH_INCHES = 8.4
LONGEST_LABEL = 26
SMOOTH_FROM_POINTS = 20
LABEL_ROOM = 0.06
"""Of an axis' height."""
LABELS_SHOWN = 20
TOPICS_NAMED = 8


def forest(results: Sequence[EvalResult], tuned: str) -> Markup | None:
    """Every model's share or mean score with its 95 % interval, grouped by test and grader; None without any."""
    groups: dict[tuple[str, str], list[EvalResult]] = {}
    for result in results:
        for grader, interval in result.summaries.items():
            if interval.low >= 0 and interval.high <= 1:
                groups.setdefault((result.test, grader), []).append(result)
    if not groups:
        return None
    rows = sum(len(group) for group in groups.values()) + 1.15 * len(groups)
    with _figure("forest", WIDTH_INCHES, ROW_INCHES * rows + 0.35) as (figure, drawn):
        height = figure.get_figheight()
        axes = figure.add_axes((0.2, 0.3 / height, 0.545, 1 - 0.32 / height))
        y = 0.0
        for (test, grader), group in groups.items():
            _beside(axes, LEFT, y, test, weight="bold")
            _beside(axes, 0.024, y, grader, color=MUTED, size=8.4)
            y += 0.95
            for result in group:
                _interval(axes, y, result, grader, ACCENT if result.model == tuned else MUTED)
                y += 1
            y += 0.2
        axes.set_xlim(-0.012, 1.012)
        axes.set_ylim(y - 0.35, -0.6)
        axes.set_yticks([])
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.grid(axis="x")
        axes.spines["bottom"].set_visible(False)
    return drawn()


def _interval(axes: Any, y: float, result: EvalResult, grader: str, colour: str) -> None:
    interval = result.summaries[grader]
    shown = percent if result.answers[0].grades[grader].passed is not None else score
    strong = "bold" if colour == ACCENT else "normal"
    _beside(axes, LEFT, y, result.model, color=colour if colour == ACCENT else INK, weight=strong)
    axes.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2.4, clip_on=False)
    axes.plot([interval.value], [y], "o", color=colour, markersize=7, markeredgecolor=PAPER, clip_on=False)
    _beside(axes, 1.19, y, shown(interval.value), ha="right", weight=strong)
    _beside(axes, 1.225, y, f"{shown(interval.low)} to {shown(interval.high)}", color=MUTED, size=8.4)


def _beside(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Writes at a share of the axes' width, on the row of `y`."""
    short = text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"
    axes.text(x, y, short, va="center", transform=axes.get_yaxis_transform(), parse_math=False, **style)


def loss_curves(metrics: Sequence[Metric], best_step: int | None) -> Markup | None:
    """Training loss, faint as measured and smoothed on top, and the held-out loss with the best step marked."""
    train = [metric for metric in metrics if metric.split == "train"]
    held_out = [metric for metric in metrics if metric.split == "eval"]
    if len(train) < 2:
        return None
    with _figure("loss", WIDTH_INCHES, 2.9) as (figure, drawn):
        axes = figure.add_axes((0.055, 0.15, 0.935, 0.81))
        steps, losses = [metric.step for metric in train], [metric.loss for metric in train]
        if len(train) >= SMOOTH_FROM_POINTS:
            axes.plot(steps, losses, color=MUTED, alpha=0.3, linewidth=0.9)
            losses = smoothed(losses)
        axes.plot(steps, losses, color=MUTED, label="training")
        if held_out:
            axes.plot(
                [metric.step for metric in held_out], [metric.loss for metric in held_out], "o-",
                color=ACCENT, markersize=4, label="held out",
            )  # fmt: skip
        best = next((metric for metric in held_out if metric.step == best_step), None)
        if best is not None:
            axes.axvline(best.step, color=ACCENT, linewidth=0.8, linestyle=(0, (3, 3)))
            axes.annotate(
                f"best: step {best.step}, {best.loss:.3f}", (best.step, 1), xycoords=("data", "axes fraction"),
                xytext=(-5 if best.step > steps[-1] / 2 else 5, -4), textcoords="offset points",
                ha="right" if best.step > steps[-1] / 2 else "left", va="top", color=ACCENT, size=8.4,
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.legend(loc="upper center", ncols=2, fontsize=8.4)
    return drawn()


def small_curve(metrics: Sequence[Metric], field: str) -> Markup | None:
    """`learning_rate` or `grad_norm` over the steps."""
    values = [
        (metric.step, value)
        for metric in metrics
        if metric.split == "train" and (value := getattr(metric, field)) is not None
    ]
    if len(values) < 2:
        return None
    with _figure(field, WIDTH_INCHES / 2, 1.75) as (figure, drawn):
        axes = figure.add_axes((0.13, 0.22, 0.86, 0.72))
        axes.plot(*zip(*values, strict=True), color=MUTED)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.locator_params(axis="y", nbins=4)
        if field == "learning_rate":
            axes.yaxis.set_major_formatter("{x:g}")
    return drawn()


def row_lengths(lengths: Mapping[str, Any]) -> Markup | None:
    """How many rows have a prompt, and an answer, of so many words; the bins double."""
    if not lengths or not all(len(side["rows"]) for side in lengths.values()):
        return None
    with _figure("lengths", WIDTH_INCHES / 2, 1.9) as (figure, drawn):
        axes = figure.add_axes((0.13, 0.22, 0.86, 0.72))
        longest = max(lengths.values(), key=lambda side: len(side["edges"]))["edges"]
        for shift, (name, colour) in enumerate((("prompt", MUTED), ("answer", ACCENT))):
            counts = lengths[name]["rows"]
            axes.bar([i + 0.4 * shift for i in range(len(counts))], counts, 0.38, color=colour, label=name)
        marks = range(0, len(longest) - 1, 2)
        axes.set_xticks([i + 0.2 for i in marks], [f"{longest[i]}+" for i in marks])
        axes.set_xlabel("words")
        axes.grid(axis="y")
        axes.legend(fontsize=8.4)
    return drawn()


def label_balance(counts: Mapping[str, int] | None) -> Markup | None:
    """How often each label is the answer, the most frequent first."""
    if not counts:
        return None
    shown = list(counts.items())[:LABELS_SHOWN]
    with _figure("labels", WIDTH_INCHES / 2, 0.2 * len(shown) + 0.4) as (figure, drawn):
        height = figure.get_figheight()
        axes = figure.add_axes((0.34, 0.2 / height, 0.56, 1 - 0.25 / height))
        axes.barh(range(len(shown)), [count for _, count in shown], 0.62, color=ACCENT)
        for place, (name, count) in enumerate(shown):
            _beside(axes, -0.58, place, name or "(empty)", size=8.4)
            _beside(axes, 1.02, place, f"{count:,}", color=MUTED, size=8.4)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_axis_off()
    return drawn()


def topic_map(points: Sequence[Mapping[str, Any]], topics: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The rows in the plane of their vectors' main axes; the largest topic in colour, each named at its middle."""
    if not points:
        return None
    with _figure("topics", WIDTH_INCHES, 3.4) as (figure, drawn):
        axes = figure.add_axes((0, 0, 1, 1))
        for colour, wanted in ((MUTED, False), (ACCENT, True)):
            some = [point for point in points if (point["topic"] == 0) == wanted]
            axes.scatter([p["x"] for p in some], [p["y"] for p in some], s=5, color=colour, alpha=0.45, linewidths=0)
        covered: list[Bbox] = []
        for number, topic in enumerate(topics[:TOPICS_NAMED]):
            own = [(point["x"], point["y"]) for point in points if point["topic"] == number]
            if not own:
                continue
            x, y = np.median(own, axis=0)
            name = axes.text(x, y, topic["name"], size=8.4, ha="center", va="center", weight="bold", parse_math=False)
            place = name.get_window_extent()
            if place.count_overlaps(covered):
                name.remove()  # the larger topic keeps its name
            else:
                covered.append(place)
        axes.set_axis_off()
    return drawn()


def forgetting(metrics: Sequence[Metric], retention: RetentionResult | None) -> Markup | None:
    """KL from the base over training on a few anchors, on all of them afterwards, and the budget as a line."""
    watched = [metric for metric in metrics if metric.split == "anchors"]
    if len(watched) < 2 or retention is None:
        return None
    with _figure("forgetting", WIDTH_INCHES, 2.3) as (figure, drawn):
        axes = figure.add_axes((0.055, 0.18, 0.935, 0.77))
        steps, values = [metric.step for metric in watched], [metric.loss for metric in watched]
        lows = [value if metric.low is None else metric.low for metric, value in zip(watched, values, strict=True)]
        highs = [value if metric.high is None else metric.high for metric, value in zip(watched, values, strict=True)]
        axes.fill_between(steps, lows, highs, color=ACCENT, alpha=0.12, linewidth=0)
        axes.plot(steps, values, "o-", color=ACCENT, markersize=4)
        top = max(*highs, retention.budget) * 1.12
        axes.axhline(retention.budget, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        over = values[-1] > retention.budget  # the label stands at the end, on the side where the curve is not
        axes.annotate(f"budget {retention.budget:g}", (1, retention.budget), xycoords=("axes fraction", "data"),
                      xytext=(-3, -3 if over else 3), textcoords="offset points", size=8.4, color=INK, ha="right",
                      va="top" if over else "bottom")  # fmt: skip
        axes.set_ylim(0, top)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.locator_params(axis="y", nbins=5)
    return drawn()


def trade_off(scaled: ScaleResult | None, retention: RetentionResult | None) -> Markup | None:
    """Task loss against forgetting, one point for each scale between the base and the tuned model."""
    if scaled is None or retention is None or len(scaled.points) < 2:
        return None
    with _figure("trade-off", WIDTH_INCHES, 2.9) as (figure, drawn):
        axes = figure.add_axes((0.075, 0.15, 0.915, 0.8))
        points = scaled.points
        axes.plot(
            [one.divergence.value for one in points], [one.task_loss.value for one in points], color=LINE, zorder=1
        )
        for one in points:
            chosen = one.scale == scaled.proposed
            colour = ACCENT if chosen else MUTED
            x, y = one.divergence, one.task_loss
            axes.plot([x.low, x.high], [y.value, y.value], color=colour, linewidth=1, alpha=0.5)
            axes.plot([x.value, x.value], [y.low, y.high], color=colour, linewidth=1, alpha=0.5)
            axes.plot([x.value], [y.value], "o", color=colour, markersize=7, markeredgecolor=PAPER)
            axes.annotate(f"{one.scale:g}", (x.value, y.value), xytext=(6, 6), textcoords="offset points", size=8.4,
                          color=colour, weight="bold" if chosen else "normal")  # fmt: skip
        axes.axvline(retention.budget, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate("budget", (retention.budget, 1), xycoords=("data", "axes fraction"), xytext=(4, -9),
                      textcoords="offset points", size=8.4, color=INK)  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("forgetting: nats per token on general prompts")
        axes.set_ylabel("held-out loss")
        axes.grid(axis="both")
    return drawn()


def parallel(columns: Mapping[str, Sequence[float | str]], best: int) -> Markup:
    """Each row as a line through its values, one upright axis a column, the last one deciding; `best` stands out.

    Numbers lie by size (by order of magnitude where they span a tenfold), words by the order of their appearance.
    """
    places = [_places(values) for values in columns.values()]
    with _figure("parallel", WIDTH_INCHES, 3.2) as (figure, drawn):
        axes = figure.add_axes((0.06, 0.1, 0.88, 0.74))
        at = range(len(columns))
        order = sorted(range(len(places[0])), key=lambda row: row == best)
        for row in order:
            chosen = row == best
            axes.plot(at, [heights[row] for heights in places], color=ACCENT if chosen else MUTED,
                      alpha=1.0 if chosen else 0.35, linewidth=2.4 if chosen else 1.1)  # fmt: skip
        for x, (name, values) in zip(at, columns.items(), strict=True):
            axes.axvline(x, color=LINE, linewidth=0.8)
            axes.text(x, 1.1, name, ha="center", va="bottom", weight="bold", parse_math=False)
            for y, value in _apart(list(zip(places[x], values, strict=True)), best):
                shown = f"{value:.3g}" if isinstance(value, float) else str(value)
                axes.text(x + 0.02, y, shown, va="center", color=MUTED, size=8.4, parse_math=False)
        axes.set_ylim(-0.05, 1.05)
        axes.set_axis_off()
    return drawn()


def _apart(labels: list[tuple[float, float | str]], best: int) -> list[tuple[float, float | str]]:
    """The labels that have room: the best row's, the lowest and the highest, then the others."""
    kept: list[tuple[float, float | str]] = []
    for y, value in [labels[best], min(labels, key=_height), max(labels, key=_height), *labels]:
        if all(abs(y - other) >= LABEL_ROOM for other, _ in kept):
            kept.append((y, value))
    return kept


def _height(label: tuple[float, float | str]) -> float:
    return label[0]


def _places(values: Sequence[float | str]) -> list[float]:
    """Heights between 0 and 1."""
    if any(isinstance(value, str) for value in values):
        words = list(dict.fromkeys(map(str, values)))
        heights = [float(words.index(str(value))) for value in values]
    else:
        numbers = [float(value) for value in values]
        wide = min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
        heights = [float(np.log(number)) if wide else number for number in numbers]
    low, high = min(heights), max(heights)
    return [(height - low) / (high - low) if high > low else 0.5 for height in heights]


def smoothed(values: Sequence[float]) -> list[float]:
    """A centred mean over a twentieth of the points: it does not lag behind as an exponential one does."""
    window = np.ones(2 * max(2, len(values) // 40) + 1)
    sums, counts = np.convolve(values, window, "same"), np.convolve(np.ones(len(values)), window, "same")
    return list(sums / counts)


@contextmanager
def _figure(name: str, width_inches: float, height_inches: float) -> Iterator[tuple[Figure, Callable[[], Markup]]]:
    """A figure to draw on, and a function that afterwards gives its SVG; `name` keeps ids apart within a page."""
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width_inches, height_inches))
        FigureCanvasSVG(figure)
        drawn: list[Markup] = []
        yield figure, lambda: drawn[0]
        drawn.append(_svg(figure))


def _svg(figure: Figure) -> Markup:
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    # matplotlib escapes the text it writes, so names from the data cannot become markup.
    return Markup(text)
