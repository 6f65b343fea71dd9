"""A hosted model: asked in OpenAI's form, again where that helps, and with one clear error where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from residency.advisor import endpoint as hosted
from residency.advisor.notebook import Notebook, Question
from residency.data.messages import Message
from residency.errors import ConfigError, ModelError
from tests.unit.advisor.conftest import Endpoint, says

QUESTIONS = [Question((Message(role="user", content=f"question {number}"),)) for number in range(20)]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted, "FIRST_PAUSE_SECONDS", 0.001)


def ask(url: str, questions: list[Question] = QUESTIONS) -> list[str]:
    answers = dict(hosted.endpoint(url, "some-model", 64)(questions))
    return [answers[position].text for position in range(len(questions))]


def echo(body: dict[str, Any]) -> tuple[int, Any]:
    return 200, says(body["messages"][-1]["content"].upper())


def test_each_question_gets_its_own_answer_and_the_key_comes_from_the_environment(endpoint: Endpoint) -> None:
    endpoint.reply = echo
    assert ask(endpoint.url) == [f"QUESTION {number}" for number in range(20)]
    assert endpoint.headers[0]["authorization"] == "Bearer sk-test"
    body = endpoint.requests[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some-model", 64, 0.0)


def test_the_samples_of_a_question_have_seeds_of_their_own(endpoint: Endpoint) -> None:
    same = Question(QUESTIONS[0].messages, temperature=0.8), Question(QUESTIONS[0].messages, (), 0.8, 1)
    ask(endpoint.url, list(same))
    assert sorted(body["seed"] for body in endpoint.requests) == [0, 1]


def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    refused: set[str] = set()

    def busy(body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][-1]["content"]
        if text in refused:
            return echo(body)
        refused.add(text)
        return 429, {"error": "slow down"}

    endpoint.reply = busy
    assert ask(endpoint.url)[:2] == ["QUESTION 0", "QUESTION 1"]
    assert len(endpoint.requests) == 40


def test_newer_models_that_want_another_name_for_the_limit_get_it(endpoint: Endpoint) -> None:
    endpoint.reply = lambda body: (400, {"error": "use max_completion_tokens"}) if "max_tokens" in body else echo(body)
    assert ask(endpoint.url)[0] == "QUESTION 0"
    assert endpoint.requests[-1]["max_completion_tokens"] == 64


def test_a_model_that_takes_no_temperature_is_asked_without_and_that_is_said(endpoint: Endpoint) -> None:
    no = "Unsupported value: 'temperature' does not support 0.0 with this model."
    endpoint.reply = lambda body: (400, {"error": {"message": no}}) if "temperature" in body else echo(body)
    said: list[str] = []
    ask_it = hosted.endpoint(endpoint.url, "some-model", 64, lambda kind, sentence: said.append(sentence))
    assert len(dict(ask_it(QUESTIONS))) == 20
    assert said == ["some-model takes no temperature: it answers at its own, one try and each of eight"]
    asked = len(endpoint.requests)
    dict(ask_it(QUESTIONS))
    assert len(endpoint.requests) - asked == 20  # it is not offered again


@pytest.mark.parametrize(("status", "code"), [(401, "endpoint_refused"), (500, "endpoint_unreachable")])
def test_an_endpoint_that_does_not_answer_is_one_clear_error(endpoint: Endpoint, status: int, code: str) -> None:
    endpoint.reply = lambda body: (status, {"error": "no"})
    with pytest.raises(ModelError, match=f"HTTP {status}") as caught:
        ask(endpoint.url)
    assert caught.value.code == code
    assert caught.value.hint


def test_an_address_where_nobody_listens_is_named(endpoint: Endpoint) -> None:
    with pytest.raises(ModelError, match=r"cannot reach http://127\.0\.0\.1:9"):
        ask("http://127.0.0.1:9/v1", QUESTIONS[:1])
    with pytest.raises(ConfigError, match="no http address"):
        ask("file:///etc", QUESTIONS[:1])


def test_an_answer_of_another_shape_is_refused(endpoint: Endpoint) -> None:
    endpoint.reply = lambda body: (200, {"text": "hello"})
    with pytest.raises(ModelError, match="sent no chat completion"):
        ask(endpoint.url, QUESTIONS[:1])


def test_what_was_answered_before_a_failure_is_not_asked_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda body: (401, {}) if body["messages"][-1]["content"] == "question 19" else echo(body)
    path, model = tmp_path / "answers.jsonl", {"model": "some-model"}
    with pytest.raises(ModelError):
        Notebook(path, model, hosted.endpoint(endpoint.url, "some-model", 64)).answers(QUESTIONS, lambda n=1: None)
    kept = len(path.read_text().splitlines())
    assert kept > 0
    endpoint.reply, before = echo, len(endpoint.requests)
    again = Notebook(path, model, hosted.endpoint(endpoint.url, "some-model", 64))
    assert [one.text for one in again.answers(QUESTIONS, lambda n=1: None)] == [f"QUESTION {n}" for n in range(20)]
    assert len(endpoint.requests) - before == 20 - kept
    other = Notebook(path, {"model": "another"}, hosted.endpoint(endpoint.url, "another", 64))
    other.answers(QUESTIONS[:1], lambda n=1: None)
    assert other.asked == 1
