"""What is printed is what was said: no markup read into it, no half of a character."""

from __future__ import annotations

import pytest
from rich.console import Console

from residency.cli.evaluate import one_line
from residency.cli.output import comparison_table, print_error, print_event, print_line, table
from residency.records import Comparison, Event, Interval


def printed(value: object, width: int = 120) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(value)
    return capture.get()


def comparison(p_value: float | None) -> Comparison:
    before, after, gain = (Interval(value=v, low=v - 0.1, high=v + 0.1, n=10) for v in (0.2, 0.8, 0.6))
    return Comparison(test="test", grader="json_match", before=before, after=after, gain=gain, p_value=p_value,
                      wins=[1], losses=[], baseline="base")  # fmt: skip


def test_shares_are_percentages_with_limits_and_a_p_value() -> None:
    text = printed(comparison_table([comparison(0.03)])).replace("\N{NO-BREAK SPACE}", " ")
    for part in ("20.0 %", "[10.0, 30.0]", "80.0 %", "[70.0, 90.0]", "+60.0", "[+50.0, +70.0]", "p = 0.03"):
        assert part in text


def test_mean_scores_are_no_percentages_and_have_no_p_value() -> None:
    text = printed(comparison_table([comparison(None)]))
    assert "0.800" in text
    assert "+0.600" in text
    assert "%" not in text
    assert "p =" not in text


def test_a_terminal_breaks_lines_between_words_and_never_a_path() -> None:
    path = "/a/long/way/to/" + "a-folder/" * 8
    text = f"the run is in {path} and a word after it, and some more\n  a row: what it says goes on below itself"

    def shown(*, terminal: bool) -> str:
        console = Console(width=40, force_terminal=terminal, no_color=True)
        with console.capture() as capture:
            print_line(text, console=console)
        return capture.get()

    assert shown(terminal=True).splitlines() == [
        "the run is in", path, "and a word after it, and some more",
        "  a row: what it says goes on below", "  itself",
    ]  # fmt: skip
    assert shown(terminal=False) == f"{text}\n"


def test_numbers_stay_whole_in_a_narrow_terminal() -> None:
    other = comparison(0.03).model_copy(update={"test": "unseen-wordings", "baseline": "base-6-shot"})
    lines = printed(comparison_table([comparison(0.03), other]), width=80).splitlines()
    assert [line.strip().split("  ")[0] for line in lines[1:]] == [
        "test", "json_match", "vs base", "unseen-wordings", "json_match", "vs base-6-shot"]  # fmt: skip
    assert sum("[+50.0, +70.0]" in line for line in lines) == 2


def test_brackets_in_data_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    assert "[red] [/x]" in printed(table(("a",), [("[red] [/x]",)]))
    print_event(Event(kind="k", message="messages[0] has [/b]"))
    print_error("messages[0] has [/b]\n  - a problem\nhint: [do] this")
    assert capsys.readouterr().err.splitlines() == [
        "messages[0] has [/b]",
        "error: messages[0] has [/b]",
        "  - a problem",
        "hint: [do] this",
    ]


def test_warnings_say_that_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_event(Event(level="warning", kind="k", message="3 rows were dropped"))
    assert capsys.readouterr().err == "warning: 3 rows were dropped\n"


def test_long_answers_are_shortened_to_one_line() -> None:
    assert one_line("a\n b") == "a b"
    assert one_line("x" * 200) == "x" * 97 + "..."
