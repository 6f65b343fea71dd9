"""`residency advise`: should this be fine-tuned at all?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from residency import durable
from residency.cli.options import AsJson, Overrides
from residency.cli.output import listener, print_answer, print_line, stdout
from residency.cli.train import sigterm_as_ctrl_c
from residency.config.task import Task, load_task
from residency.errors import ConfigError, Interrupted
from residency.records import RunFolder
from residency.run_folders import claim

EPILOG = """
Examples

    residency advise task.yaml

    residency advise examples.jsonl --model Qwen/Qwen3-0.6B --set target=0.95

    residency advise task.yaml --model-url https://api.openai.com/v1 --model-name gpt-5-mini

    residency advise task.yaml --pilots
"""
ADVICE = Path("advice")


def add_to(app: typer.Typer) -> None:
    app.command("advise", epilog=EPILOG)(advise)


def advise(
    source: Annotated[
        str, typer.Argument(metavar="TASK_YAML_OR_EXAMPLES", help="A task file, or a file of solved examples.")
    ],
    model: Annotated[str | None, typer.Option("--model", help="The model to measure and, if advised, train.")] = None,
    model_url: Annotated[
        str | None,
        typer.Option("--model-url", help="Measure a model behind this OpenAI-style address (key: OPENAI_API_KEY)."),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Its name there; default: the task's model.")
    ] = None,
    pilots: Annotated[
        bool, typer.Option("--pilots", help="Also train nested subsets, and say what more rows would bring.")
    ] = False,
    times: Annotated[
        float | None,
        typer.Option("--times", help="With --pilots: how many times the rows to look ahead (2; 4 at most)."),
    ] = None,
    overrides: Overrides = None,
    folder: Annotated[Path, typer.Option("--folder", help="Where advice is kept, one folder for each task.")] = ADVICE,
    as_json: AsJson = False,
) -> None:
    """Measure the untuned model with its best prompt, and say what the task needs.

    One of: the prompt is enough, retrieval, fine-tune, reinforcement, rethink, pilot first. With the numbers, what
    would change the advice, and the run file where a run is proposed. Ctrl-C loses nothing: the same command goes on.
    """
    if model_name and not model_url:
        raise ConfigError("--model-name: names a model at --model-url, and there is none", param="--model-name",
                          hint="add --model-url, or name the model with --model")  # fmt: skip
    refuse_times(times, pilots)
    task = load_task(source, overrides or (), model)
    record = RunFolder(folder / task.name, listener(as_json))
    with durable.disk_errors(record.path):
        record.path.mkdir(parents=True, exist_ok=True)
    try:
        with sigterm_as_ctrl_c(), claim(record.path):
            give(task, record, (model_url, model_name or task.model.id), pilots, times or 2.0, as_json)
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint="nothing is lost: the same command goes on") from None


def refuse_times(times: float | None, pilots: bool) -> None:
    """Before anything is measured: pilots take long."""
    if times is None:
        return
    from residency.advisor.scaling import FURTHEST

    if not pilots:
        raise ConfigError("--times: is for --pilots", param="--times", hint="add --pilots, or leave --times out")
    if not 1 < times <= FURTHEST:
        raise ConfigError(f"--times {times:g}: the law is drawn to more than 1 and at most {FURTHEST:g} times the rows",
                          param="--times", hint="for example --times 2")  # fmt: skip


def give(
    task: Task, record: RunFolder, hosted: tuple[str | None, str], pilots: bool, times: float, as_json: bool
) -> None:
    from rich.markdown import Markdown

    from residency.advisor.advice import Hosted
    from residency.advisor.advice import advise as measure
    from residency.advisor.page import page
    from residency.advisor.scaling import sentence

    url, name = hosted
    found = measure(task, record, Hosted(url, name) if url else None)
    text, forecast = page(found), None
    if pilots and found.proposal is None:
        record.say("no_pilots", "no run is proposed, so no pilots are trained", level="warning")
    elif pilots:
        from residency.advisor.pilots import run_pilots

        assert found.proposal is not None
        untuned = 0.0 if url else sum(found.evidence.passed) / len(found.evidence.passed)  # a hosted one is another
        forecast = run_pilots(Path(found.proposal.run_file), record, times=times, untuned=untuned)
        text += f"\n## How many examples\n\n{sentence(forecast)}\n"
    durable.write_text(record / "advice.md", text)
    if as_json:
        print_answer({
            "advice": found.model_dump(mode="json"),
            "forecast": forecast.model_dump(mode="json") if forecast else None,
            "page": str(record / "advice.md"),
        })  # fmt: skip
        return
    stdout.print(Markdown(text))
    print_line(f"\npage: {record / 'advice.md'}")
