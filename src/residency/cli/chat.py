"""`residency chat`: talk with a run or a model, line by line, from a terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from residency.cli.options import RUNS, AsJson, Runs
from residency.cli.output import print_answer, print_line, print_table, stdout, table
from residency.cli.speaker import Answered, Manner, Speaker, open_speakers
from residency.errors import ConfigError
from residency.progress import console

EPILOG = """
Examples

    residency chat smart-home --base

    residency chat Qwen/Qwen3-0.6B --system "Answer in one word." --temperature 0.7

    echo "turn off the lights" | residency chat smart-home --json

While you talk: `/reset` forgets the conversation, `/quit` or Ctrl-D ends it, Ctrl-C stops an answer.
"""


def add_to(app: typer.Typer) -> None:
    app.command("chat", epilog=EPILOG)(chat)


def chat(
    name: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run's name or folder, or a model.")],
    base: Annotated[bool, typer.Option("--base", help="Show the untuned answer beside the tuned one.")] = False,
    system: Annotated[
        str | None, typer.Option("--system", help="The system text; default: the one all training rows share.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 512,
    runs: Runs = RUNS,
    as_json: AsJson = False,
) -> None:
    """Talk with a tuned run, or with any model. Lines from a pipe are answered one by one.

    With --json, each answer is one JSON object on a line of its own.
    """
    sides, note = open_speakers(name, runs, Manner(system, temperature, max_new_tokens), with_base=base)
    if note:
        print_line(note, style="dim", console=console)
    for question in questions():
        if question == "/quit":
            return
        if question == "/reset":
            for side in sides:
                side.reset()
        else:
            answer(question, sides, as_json)


def questions() -> Iterator[str]:
    """Lines that are not blank, until Ctrl-D or the end of the pipe."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  # gives input() its line editing

        print_line("/reset forgets the conversation, /quit or Ctrl-D ends it", style="dim", console=console)
    while True:
        try:
            line = input("> ") if interactive else sys.stdin.readline()
            line.encode()
        except EOFError:
            print_line()
            return
        except KeyboardInterrupt:
            print_line()
            raise
        except UnicodeError:
            raise ConfigError("standard input is not UTF-8 text", hint="send UTF-8", param="stdin") from None
        if not line and not interactive:
            return
        if line.strip():
            yield line.strip()


def answer(question: str, sides: list[Speaker], as_json: bool) -> None:
    if as_json:
        records = [as_record(side.answer(question)) for side in sides]
        print_answer({"user": question, **records[0]} | ({"base": records[1]} if len(sides) > 1 else {}))
    elif len(sides) == 1:
        stream(sides[0], question)
    else:
        tuned, untuned = (side.answer(question) for side in sides)
        print_table(table(("untuned", "tuned"), [(shown(untuned), shown(tuned))]))
        print_line()


def stream(side: Speaker, question: str) -> None:
    for piece in side.pieces(question):
        stdout.out(piece, end="", highlight=False)
    print_line("" if side.last.finished else " [...]")


def shown(one: Answered) -> str:
    return one.text if one.finished else f"{one.text} [...]"


def as_record(one: Answered) -> dict[str, str | int | bool]:
    return {"answer": one.text, "finished": one.finished, "tokens": one.tokens}
