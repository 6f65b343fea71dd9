"""Graders that ask another model, at any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import math
import os
import time
from typing import Any, NamedTuple

import httpx

from residency.config.graders import LabelModel, ModelMessage, ScoreModel
from residency.errors import GraderError
from residency.graders.template import render

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
TIMEOUT = httpx.Timeout(120.0, connect=5.0)


class Verdict(NamedTuple):
    score: float
    error: str | None


class JudgeFailed(Exception):
    """One answer could not be judged; the others may be."""


def endpoint(grader: ScoreModel | LabelModel) -> str:
    """The base URL. Raises GraderError where none is named: nothing is sent anywhere unless the user says where to."""
    url = grader.base_url or os.environ.get("OPENAI_BASE_URL")
    if not url:
        raise GraderError(
            f"no endpoint for the judging model `{grader.model}`",
            code="no_judge_endpoint",
            hint="set OPENAI_BASE_URL (and OPENAI_API_KEY where it needs one), or `base_url` in the grader",
        )
    return url.rstrip("/")


def open_client(grader: ScoreModel | LabelModel) -> httpx.Client:
    """A connection pool for one grader; safe to share between threads."""
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=endpoint(grader), headers=headers, timeout=TIMEOUT)


def judge_score(client: httpx.Client, grader: ScoreModel, item: dict[str, Any], sample: dict[str, Any]) -> Verdict:
    """The judge's number, clipped to the grader's range; a judge that gives none scores 0 with the reason."""
    low, high = grader.range
    schema = {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, "result": {"type": "number"}},
        "required": ["reasoning", "result"],
        "additionalProperties": False,
    }
    wanted = f'{{"reasoning": "...", "result": <a number from {low:g} to {high:g}>}}'
    try:
        result = _result(_ask(client, grader, _messages(grader.input, item, sample, wanted), schema))
        number = float(result)
        if isinstance(result, bool) or not math.isfinite(number):
            raise ValueError
    except JudgeFailed as failed:
        return Verdict(0.0, str(failed))
    except (TypeError, ValueError):
        return Verdict(0.0, f"the judge's result is not a number: {str(result)[:200]!r}")
    return Verdict(min(max(number, low), high), None)


def judge_label(client: httpx.Client, grader: LabelModel, item: dict[str, Any], sample: dict[str, Any]) -> Verdict:
    """1 where the judge chose a passing label, else 0; a judge that chose none of the labels is an error."""
    schema = {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, "result": {"type": "string", "enum": grader.labels}},
        "required": ["reasoning", "result"],
        "additionalProperties": False,
    }
    wanted = f'{{"reasoning": "...", "result": <one of {json.dumps(grader.labels, ensure_ascii=False)}>}}'
    try:
        label = _result(_ask(client, grader, _messages(grader.input, item, sample, wanted), schema))
    except JudgeFailed as failed:
        return Verdict(0.0, str(failed))
    if label not in grader.labels:
        return Verdict(0.0, f"the judge's result is none of the labels: {str(label)[:200]!r}")
    return Verdict(float(label in grader.passing_labels), None)


def _messages(
    conversation: list[ModelMessage], item: dict[str, Any], sample: dict[str, Any], wanted: str
) -> list[dict[str, str]]:
    """The rendered conversation, its first system message saying what form the answer takes."""
    messages = [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": render(message.content, item, sample),
        }
        for message in conversation
    ]
    if not messages or messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": ""})
    messages[0]["content"] = f"{messages[0]['content']}\n\nAnswer with JSON only: {wanted}".strip()
    return messages


def _ask(
    client: httpx.Client,
    grader: ScoreModel | LabelModel,
    messages: list[dict[str, str]],
    schema: dict[str, Any],
) -> str:
    settings = dict(grader.sampling_params) if isinstance(grader, ScoreModel) else {}
    if "max_completions_tokens" in settings:  # OpenAI's grader schema spells it so, its chat endpoint does not
        settings["max_completion_tokens"] = settings.pop("max_completions_tokens")
    body = {
        "model": grader.model,
        "messages": messages,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": schema},
        },
        **settings,
    }
    response = _post(client, body)
    try:
        message = response.json()["choices"][0]["message"]
    except (ValueError, LookupError, TypeError):
        raise JudgeFailed(f"the endpoint sent no chat completion: {response.text[:200]!r}") from None
    if message.get("refusal"):
        raise JudgeFailed(f"the judge refused: {message['refusal'][:200]}")
    return str(message.get("content") or "")


def _post(client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    """Tries again where it may help.

    Raises GraderError where no row could be judged, JudgeFailed where this one could not.
    """
    for attempt in range(1, ATTEMPTS + 1):
        pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
        try:
            response = client.post("/chat/completions", json=body)
        except httpx.ConnectError as error:
            if attempt == ATTEMPTS:
                raise GraderError(
                    f"cannot reach the judge at {client.base_url}: {error}", code="judge_unreachable",
                    hint="check OPENAI_BASE_URL, or `base_url` in the grader",
                ) from error  # fmt: skip
        except httpx.TransportError as error:
            if attempt == ATTEMPTS:
                raise JudgeFailed(f"no answer from the judge: {type(error).__name__}") from error
        else:
            if response.is_success:
                return response
            if response.status_code not in (408, 409, 429) and response.status_code < 500:
                raise GraderError(
                    f"the judge's endpoint refused with HTTP {response.status_code}: {response.text[:300]}",
                    code="judge_refused",
                    hint=f"check the model name, OPENAI_API_KEY and the settings for {client.base_url}",
                )
            if attempt == ATTEMPTS:
                raise JudgeFailed(f"the judge's endpoint answered HTTP {response.status_code}, {ATTEMPTS} times")
            pause = _retry_after(response, pause)
        time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
    raise AssertionError("the last attempt returns or raises")


def _retry_after(response: httpx.Response, pause: float) -> float:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return pause


def _result(text: str) -> Any:
    """The `result` of the judge's JSON; plain text is its own result, for endpoints without structured output."""
    stripped = text.strip().removeprefix("```json").removesuffix("```").strip()
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return stripped
    return value.get("result") if isinstance(value, dict) else value
