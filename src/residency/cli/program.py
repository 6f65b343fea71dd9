"""All commands under one name, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from typing import Annotated

import typer

from residency import progress
from residency.cli import (
    advise,
    chat,
    check,
    compare,
    convert,
    estimate,
    evaluate,
    export,
    importing,
    keys,
    models,
    report,
    runs,
    select,
    serve,
    sweep,
    train,
)
from residency.cli.output import print_answer, print_error, print_line
from residency.errors import ConfigError, Interrupted, ResidencyError

EXIT_CODES = {
    0: "done",
    1: "a bug of ours",
    2: "the run file or the arguments are wrong",
    3: "rows of the data cannot be used",
    4: "a model, tokenizer or chat template cannot be found or used",
    5: "memory, disk or permission ran out",
    6: "training failed: the loss became NaN or exploded",
    7: "a run folder is missing, damaged or in use",
    8: "a grader is wrong or could not answer",
    9: "the result may not be shipped (train --gate)",
    10: "the server refused a request",
    130: "interrupted; a checkpoint was left if training had begun",
}

app = typer.Typer(
    name="residency",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="**Exit codes**\n\n" + "\n".join(f"- {code}: {meaning}" for code, meaning in EXIT_CODES.items()),
    rich_markup_mode="markdown",
)
advise.add_to(app)
train.add_to(app)
sweep.add_to(app)
evaluate.add_to(app)
compare.add_to(app)
chat.add_to(app)
check.add_to(app)
convert.add_to(app)
select.add_to(app)
estimate.add_to(app)
runs.add_to(app)
report.add_to(app)
models.add_to(app)
export.add_to(app)
importing.add_to(app)
serve.add_to(app)
keys.add_to(app)


def show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print_line(f"residency {version('residency')}")
        raise typer.Exit


@app.callback()
def residency(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; it may stand anywhere.")] = False,
) -> None:
    """Fine-tunes language models into specialists, and proves it.

    Start with `residency train run.yaml`, where run.yaml needs two keys: `model: {id: smollm2-135m}` and
    `data: {train: train.jsonl}`.
    """


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (`EXIT_CODES`). Called before anything has imported torch."""
    # Threads that wait for a core spin otherwise: 10 times slower where another process is busy on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    given = sys.argv[1:] if arguments is None else arguments
    debug, as_json = "--debug" in given, "--json" in given
    if not debug:
        quiet_libraries()
    progress.enabled = sys.stderr.isatty() and not as_json
    command = typer.main.get_command(app)
    try:
        code = command(args=[word for word in given if word != "--debug"], prog_name="residency",
                       standalone_mode=not as_json)  # fmt: skip
        return ended(code, as_json)
    except SystemExit as finished:
        return ended(finished.code, as_json)
    except typer.TyperException as error:  # typer's own box is for people
        message = " ".join(error.format_message().split())
        return failed(ConfigError(message, hint="the command's --help shows what it takes"), as_json)
    except ResidencyError as error:
        if debug:
            traceback.print_exc()
        return failed(error, as_json)
    except Exception as error:  # whatever is no error of the user's is ours
        if debug:
            traceback.print_exc()
        return failed(bug(error), as_json)


def ended(code: object, as_json: bool) -> int:
    if code == Interrupted.exit_code:  # typer's answer to Ctrl-C says nothing
        return failed(Interrupted("interrupted"), as_json)
    return code if isinstance(code, int) else 0


def quiet_libraries() -> None:
    """Their notices are for developers, and --debug shows them; what a user must know, we say ourselves."""
    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("ignore")


def failed(error: ResidencyError, as_json: bool) -> int:
    if as_json:
        print_answer({"error": error.as_record()})
    else:
        print_error(str(error))
    return error.exit_code


def bug(error: Exception) -> ResidencyError:
    message = " ".join(str(error).split()) or "no message"
    return ResidencyError(
        f"a bug of ours: {type(error).__name__}: {message}",
        hint="run again with --debug and send us what it prints",
    )
