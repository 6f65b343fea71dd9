"""Asks a model behind any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx

from residency.advisor.notebook import Ask, Question, read_messages
from residency.errors import ConfigError, ModelError
from residency.evals.run import Completion

KEY_VARIABLE = "OPENAI_API_KEY"
LIMIT, NEWER_LIMIT, TEMPERATURE = "max_tokens", "max_completion_tokens", "temperature"
ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
REQUESTS_AT_ONCE = 8
TIMEOUT = httpx.Timeout(120.0, connect=5.0)
AGAIN = "what was answered is kept: the same command goes on from here"


def endpoint(
    url: str, model: str, max_new_tokens: int, say: Callable[[str, str], None] = lambda kind, sentence: None
) -> Ask:
    """Asks `model` at `url`, several questions at a time; the key is read from OPENAI_API_KEY.

    `say` hears where the model takes no temperature.
    Raises ConfigError for an address that cannot be one. What is returned raises ModelError where the endpoint cannot
    be reached, refuses, or still fails after several attempts.
    """
    if httpx.URL(url).scheme not in ("http", "https"):
        raise ConfigError(f"--model-url: {url} is no http address", param="--model-url",
                          hint="for example --model-url https://api.openai.com/v1")  # fmt: skip
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    refused: set[str] = set()

    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Completion]]:
        with (
            httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT) as client,
            ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool,
        ):
            going = {
                pool.submit(_complete, client, _body(question, model, max_new_tokens), refused): position
                for position, question in enumerate(questions)
            }
            try:
                for done in as_completed(going):
                    yield going[done], done.result()
                if TEMPERATURE in refused:
                    say("endpoint", f"{model} takes no temperature: it answers at its own, one try and each of eight")
            finally:  # after an error or Ctrl-C nothing more is sent
                pool.shutdown(wait=False, cancel_futures=True)

    return ask


def _body(question: Question, model: str, max_new_tokens: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model, "messages": read_messages(question.messages), TEMPERATURE: question.temperature,
        LIMIT: max_new_tokens,
    }  # fmt: skip
    if question.tools:
        body["tools"] = list(question.tools)
    if question.temperature:
        body["seed"] = question.sample
    return body


def _complete(client: httpx.Client, body: dict[str, Any], refused: set[str]) -> Completion:
    response = _post(client, body, refused)
    try:
        found = response.json()
        choice = found["choices"][0]
        text = choice["message"].get("content") or ""
        tokens = (found.get("usage") or {}).get("completion_tokens") or 0
        finished = choice.get("finish_reason") != "length"
        return Completion(str(text), finished, int(tokens), own_temperature=TEMPERATURE not in body)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ModelError(
            f"{client.base_url} sent no chat completion: {response.text[:200]!r}", code="endpoint_answer",
            hint="check that the address is an OpenAI-style one, ending in /v1",
        ) from None  # fmt: skip


def _post(client: httpx.Client, body: dict[str, Any], refused: set[str]) -> httpx.Response:
    """Tries again, with longer and longer pauses, where that may help. What the model does not take is left out, and
    noted in `refused` for the questions after it."""
    problem, pause = "", 0.0
    for attempt in range(ATTEMPTS):
        time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
        _leave_out(body, refused)
        pause = FIRST_PAUSE_SECONDS * 2**attempt
        try:
            response = client.post("/chat/completions", json=body)
        except httpx.TransportError as error:
            problem = f"cannot reach {client.base_url}: {error or type(error).__name__}"
            continue
        if response.is_success:
            return response
        if field := _refused_field(response, body):
            refused.add(field)
            continue
        problem = f"{client.base_url} answers HTTP {response.status_code}: {response.text[:300]}"
        if response.status_code not in (408, 409, 429) and response.status_code < 500:
            raise ModelError(problem, code="endpoint_refused", param="--model-url",
                             hint=f"check the model's name, the address and {KEY_VARIABLE}")  # fmt: skip
        pause = _retry_after(response, pause)
    raise ModelError(f"{problem} ({ATTEMPTS} attempts)", code="endpoint_unreachable", param="--model-url",
                     hint=f"check --model-url; {AGAIN}")  # fmt: skip


def _refused_field(response: httpx.Response, body: dict[str, Any]) -> str | None:
    """Newer OpenAI models want another name for the limit, and those that reason answer at one temperature only."""
    if LIMIT in body and NEWER_LIMIT in response.text:
        return LIMIT
    if TEMPERATURE in body and response.status_code == 400 and TEMPERATURE in response.text:
        return TEMPERATURE
    return None


def _leave_out(body: dict[str, Any], refused: set[str]) -> None:
    if LIMIT in refused and LIMIT in body:
        body[NEWER_LIMIT] = body.pop(LIMIT)
    if TEMPERATURE in refused:
        body.pop(TEMPERATURE, None)


def _retry_after(response: httpx.Response, pause: float) -> float:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return pause
