"""The `{{ item.x }}` and `{{ sample.output_text }}` of a grader: names and paths are looked up, nothing is executed."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from residency.errors import GraderError

SAMPLE_FIELDS = ("output_text", "output_json", "output_tools", "choices")

PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
STEP = r"""\.[\w-]+|\[\d+\]|\["[^"]*"\]|\['[^']*'\]"""
PATH = re.compile(rf"\s*([A-Za-z_]\w*)((?:{STEP})*)\s*", re.DOTALL)


class AnswerLacks(Exception):
    """The model's answer has no such part: the answer's fault, not the grader's."""


class Path(NamedTuple):
    root: str
    steps: list[str]
    text: str
    """As the user wrote it."""


def make_sample(output_text: str, output_tools: list[Any] | None = None) -> dict[str, Any]:
    """What templates and Python graders know as `sample`; `output_json` is there only where the answer is JSON."""
    message = {"role": "assistant", "content": output_text, "tool_calls": output_tools or []}
    sample = {"output_text": output_text, "output_tools": output_tools or [], "choices": [{"message": message}]}
    try:
        return {**sample, "output_json": json.loads(output_text)}
    except (ValueError, RecursionError):
        return sample


def check_template(template: str) -> None:
    """Raises GraderError where a placeholder is not a path below `item` or `sample`."""
    for path in _paths(template):
        if path.root not in ("item", "sample"):
            raise GraderError(
                f"unknown name `{path.root}` in {{{{ {path.text} }}}}",
                hint="a template knows `item` (the row) and `sample` (the model's answer)",
            )
        if path.root == "sample" and path.steps and path.steps[0] not in SAMPLE_FIELDS:
            raise GraderError(
                f"the answer has no field `{path.steps[0]}` in {{{{ {path.text} }}}}",
                hint=f"`sample` has {', '.join(SAMPLE_FIELDS)}",
            )


def render(template: str, item: dict[str, Any], sample: dict[str, Any]) -> str:
    """Puts the values in; what is not a string goes in as JSON.

    Raises GraderError where the row has no such field, AnswerLacks where the answer has no such part.
    """
    check_template(template)
    roots = {"item": item, "sample": sample}

    def value(match: re.Match[str]) -> str:
        path = _parse(match[1])
        found = _look_up(path, roots[path.root])
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    return PLACEHOLDER.sub(value, template)


def _paths(template: str) -> list[Path]:
    if "{{" in PLACEHOLDER.sub("", template):
        raise GraderError(f"a placeholder is not closed in {template!r}", hint="write {{ item.name }}")
    return [_parse(inner) for inner in PLACEHOLDER.findall(template)]


def _parse(inner: str) -> Path:
    match = PATH.fullmatch(inner)
    if match is None:
        raise GraderError(
            f"{{{{{inner}}}}} is not a path",
            hint="write {{ item.name }}, {{ sample.output_text }} or {{ item.list[0].name }}; there are no expressions",
        )
    return Path(match[1], [_name(step) for step in re.findall(STEP, match[2])], inner.strip())


def _name(step: str) -> str:
    return step[1:] if step[0] == "." else step[1:-1].strip("\"'")


def _look_up(path: Path, value: Any) -> Any:
    walked = path.root
    for step in path.steps:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif path.root == "sample":
            raise AnswerLacks(f"the answer has no {path.text}")
        else:
            raise GraderError(f"the row has no `{path.text}`", code="missing_field", hint=_contents(walked, value))
        walked += f".{step}"
    return value


def _contents(walked: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"`{walked}` has the fields {', '.join(map(str, value)) or '(none)'}"
    if isinstance(value, list):
        return f"`{walked}` is a list of {len(value)}"
    return f"`{walked}` is {json.dumps(value, ensure_ascii=False)[:80]} and has no parts"
