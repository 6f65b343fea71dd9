"""The live view draws what a folder holds, and nothing where nobody watches."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console

from residency import progress
from residency.cli.live import Curve, View, live_view, sparkline
from residency.records import Event, Metric, RunFolder, TrialRecord


def measured(folder: Path, step: int, loss: float, split: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    metric = {"step": step, "epoch": 0.1, "split": split, "loss": loss, "tokens": 10, "seconds": 1.0}
    RunFolder(folder).append("metrics.jsonl", Metric.model_validate(metric | {"tokens_per_second": 1234.0}))


def drawn(view: View, width: int = 140) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(view)
    return console.export_text()


def test_a_curve_of_many_values_has_one_block_for_each_part_of_them() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert len(sparkline([float(value) for value in range(1000)])) == 32


def test_a_metrics_file_is_read_on_as_it_grows_and_anew_where_a_resumed_run_has_cut_it(tmp_path: Path) -> None:
    measured(tmp_path, 1, 3.0)
    curve = Curve(tmp_path / "metrics.jsonl")
    curve.read_on()
    with curve.file.open("ab") as file:
        file.write(b'{"step": 2, "spl')  # a line that is being written
    curve.read_on()
    assert curve.losses == [3.0]
    measured(tmp_path, 2, 2.0)
    measured(tmp_path, 2, 2.5, "eval")
    measured(tmp_path, 3, 0.1, "replay")
    measured(tmp_path, 3, 0.2, "anchors")
    curve.read_on()
    assert (curve.losses, curve.held_out, curve.step) == ([3.0, 2.0], [2.5], 2)
    RunFolder(tmp_path).keep_metrics(1)
    curve.read_on()
    assert (curve.losses, curve.held_out) == ([3.0], [])


def test_candidates_are_shown_by_their_rate_and_with_why_they_were_given_up(tmp_path: Path) -> None:
    view = View()
    measured(tmp_path / "search" / "candidate-1", 8, 2.0)
    measured(tmp_path / "search" / "candidate-2", 8, 1.0)
    view.hear(Event(kind="run", message="", data={"path": str(tmp_path)}))
    view.hear(Event(kind="range_probe", message="", data={"rates": [1e-4, 2e-4]}))
    losses = {"candidate-1": 2.1, "candidate-2": 1.1}
    view.hear(Event(kind="search_cut", message="", data={"kept": ["candidate-2"], "losses": losses}))
    text = drawn(view)
    assert "rate 0.0001" in text
    assert "given up: held-out loss 2.1000" in text
    assert "2.100" in next(line for line in text.splitlines() if "rate 0.0001" in line).partition("given up")[0]
    assert text.index("rate 0.0002") < text.index("rate 0.0001")
    assert "1,234" in text
    view.hear(Event(kind="search", message="", data={"learning_rate": 2e-4}))
    assert "chosen" in drawn(view)


def test_in_a_narrow_terminal_the_curves_are_short_and_every_number_is_whole(tmp_path: Path) -> None:
    view = View(tmp_path)
    for step in range(1, 41):
        measured(tmp_path / "search" / "candidate-1", step, 50.0 - step)
    view.hear(Event(kind="range_probe", message="", data={"rates": [0.00022]}))
    view.hear(Event(kind="search_cut", message="", data={"kept": ["candidate-2"], "losses": {"candidate-1": 11.2345}}))
    wide, narrow = drawn(view).splitlines(), drawn(view, 80).splitlines()
    assert narrow[1].split() == [
        "rate",
        "0.00022",
        "█▇▆▅▄▃▂▁",
        "10.000",
        "11.235",
        "40",
        "given",
        "up:",
        "held-out",
        "lo…",
    ]
    assert len(wide[1].split()[2]) == 32
    assert wide[1].rstrip().endswith("given up: held-out loss 11.2345")
    assert all(len(line) <= 80 for line in narrow)


def test_what_training_has_made_the_model_forget_stands_beside_the_memory(tmp_path: Path) -> None:
    view = View(tmp_path)
    measured(tmp_path, 1, 3.0)
    assert "forgetting" not in drawn(view)
    measured(tmp_path, 1, 0.0123, "anchors")
    assert drawn(view).splitlines()[-1].endswith("forgetting 0.012 nats per token")


def test_a_search_that_goes_on_shows_who_is_left(tmp_path: Path) -> None:
    view = View(tmp_path)
    for number in (1, 2):
        measured(tmp_path / "search" / f"candidate-{number}", 8, 2.0)
    view.hear(Event(kind="search_resumed", message="", data={"rates": [1e-4, 2e-4], "kept": ["candidate-2"]}))
    given_up = next(line for line in drawn(view).splitlines() if "given up" in line)
    assert given_up.startswith("rate 0.0001")


def test_candidates_that_take_turns_show_who_is_the_best_so_far(tmp_path: Path) -> None:
    view = View(tmp_path)
    for number in (1, 2, 3):
        measured(tmp_path / "search" / f"candidate-{number}", 8, 2.0)
    before = {"candidate-1": "held-out loss 2.5000 after 8 steps", "candidate-2": "the best so far"}
    view.hear(Event(kind="search_resumed", message="", data={"rates": [1e-4, 2e-4, 4e-4], "fates": before}))
    text = drawn(view)
    assert "held-out loss 2.5000 after 8 steps" in text
    assert "the best so far" in next(line for line in text.splitlines() if "rate 0.0002" in line)
    view.hear(Event(kind="search_best", message="", data={"learning_rate": 4e-4}))
    lines = {line.split()[1]: line for line in drawn(view).splitlines() if line.startswith("rate")}
    assert "0.0004 did better" in lines["0.0002"]
    assert "the best so far" in lines["0.0004"]


def test_a_sweep_that_goes_on_shows_which_trials_ended_before(tmp_path: Path) -> None:
    view = View(tmp_path)
    for number in range(3):
        measured(tmp_path / "trials" / str(number), 8, 2.0)
    pruned = {"number": 0, "values": {}, "state": "pruned", "loss": 2.0, "steps": 8, "total_steps": 40, "tokens": 1,
              "seconds": 1.0, "why": "pruned at 20 %"}  # fmt: skip
    RunFolder(tmp_path / "trials" / "0").write("trial.json", TrialRecord.model_validate(pruned))
    view.hear(Event(kind="trial_again", message="", data={"number": 1}))
    lines = {line.split()[1]: line for line in drawn(view).splitlines() if line.startswith("trial")}
    assert "pruned at 20 %" in lines["0"]
    assert "interrupted" in lines["1"]
    assert "1,234" in lines["2"]


def test_a_trial_that_ends_says_why_beside_its_held_out_loss(tmp_path: Path) -> None:
    view = View(tmp_path)
    for number in range(2):
        measured(tmp_path / "trials" / str(number), 8, 2.0)
        measured(tmp_path / "trials" / str(number), 8, 1.5, "eval")
    view.hear(Event(kind="trial", message="", data={"number": 0, "state": "pruned", "why": "pruned at 20 %"}))
    view.hear(Event(kind="trial", message="", data={"number": 1, "state": "finished", "why": None}))
    lines = [" ".join(line.split()) for line in drawn(view, 80).splitlines() if line.startswith("trial")]
    assert [line.partition("1.500 8 ")[2] for line in lines] == ["pruned at 20 %", "finished"]


def test_where_nobody_watches_the_listener_is_the_one_given() -> None:
    heard: list[Event] = []
    assert not progress.enabled
    with live_view(heard.append) as listener:
        listener(Event(kind="run", message="x", data={"path": "x"}))
    assert [event.message for event in heard] == ["x"]
