"""Judging models, against a real HTTP server."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from residency.config.graders import LabelModel, ModelMessage, Multi, ScoreModel, StringCheck
from residency.errors import GraderError
from residency.graders.score import grade, grade_all

Reply = Callable[[dict[str, Any]], tuple[int, Any]]
ASK = [
    ModelMessage(role="developer", content="Rate it."),
    ModelMessage(role="user", content="{{ sample.output_text }}"),
]


class Judge(ThreadingHTTPServer):
    """Answers with what `reply` makes of a request's body, and remembers the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Reply = lambda body: (200, says('{"result": 1}'))
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        status, reply = self.server.reply(body)
        data = json.dumps(reply).encode()
        self.send_response(status if self.path == "/v1/chat/completions" else 404)
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    with Judge() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        yield server
        server.shutdown()
        thread.join()


def says(content: str | None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content, **more}}]}


def score_model(**settings: Any) -> ScoreModel:
    return ScoreModel(model="judge-1", input=ASK, **settings)


def label_model() -> LabelModel:
    return LabelModel(model="judge-1", input=ASK, labels=["good", "fair", "bad"], passing_labels=["good", "fair"])


def test_a_score_is_asked_for_in_openais_form(judge: Judge) -> None:
    judge.reply = lambda body: (200, says('{"reasoning": "fine", "result": 0.7}'))
    grader = score_model(pass_threshold=0.5, sampling_params={"temperature": 0, "max_completions_tokens": 64})
    graded = grade(grader, {}, "hello")
    assert (graded.score, graded.passed, graded.error) == (0.7, True, None)
    body = judge.requests[0]
    assert body["model"] == "judge-1"
    assert body["messages"][1] == {"role": "user", "content": "hello"}
    assert body["messages"][0]["role"] == "system"
    assert body["messages"][0]["content"].startswith("Rate it.")
    assert body["response_format"]["type"] == "json_schema"
    assert (body["temperature"], body["max_completion_tokens"]) == (0, 64)
    assert judge.headers[0]["Authorization"] == "Bearer sk-test"


@pytest.mark.parametrize(("result", "score"), [(9, 5.0), (-3, 1.0), (2.5, 2.5), ("4", 4.0)])
def test_a_score_is_clipped_to_its_range(judge: Judge, result: object, score: float) -> None:
    judge.reply = lambda body: (200, says(json.dumps({"result": result})))
    assert grade(score_model(range=(1.0, 5.0)), {}, "x").score == score


@pytest.mark.parametrize("content", ["0.25", '```json\n{"result": 0.25}\n```', ' {"result": 0.25} '])
def test_endpoints_without_structured_output_are_understood(judge: Judge, content: str) -> None:
    judge.reply = lambda body: (200, says(content))
    assert grade(score_model(), {}, "x").score == 0.25


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (says("I like it"), "not a number"),
        (says('{"result": null}'), "not a number"),
        (says('{"result": true}'), "not a number"),
        (says(None, refusal="I will not"), "refused"),
        ({"choices": []}, "no chat completion"),
        (["?"], "no chat completion"),
    ],
)
def test_a_verdict_that_is_none_scores_0_with_the_reason(judge: Judge, reply: Any, reason: str) -> None:
    judge.reply = lambda body: (200, reply)
    graded = grade(score_model(pass_threshold=0.5), {}, "x")
    assert (graded.score, graded.passed) == (0.0, False)
    assert reason in (graded.error or "")


@pytest.mark.parametrize(("label", "passed"), [("good", True), ("fair", True), ("bad", False)])
def test_a_label_passes_or_fails(judge: Judge, label: str, passed: bool) -> None:
    judge.reply = lambda body: (200, says(json.dumps({"result": label})))
    graded = grade(label_model(), {}, "x")
    assert (graded.score, graded.passed, graded.error) == (float(passed), passed, None)
    assert judge.requests[0]["response_format"]["json_schema"]["schema"]["properties"]["result"]["enum"] == [
        "good", "fair", "bad",
    ]  # fmt: skip


def test_a_label_that_is_none_of_them_fails_with_the_reason(judge: Judge) -> None:
    judge.reply = lambda body: (200, says('{"result": "superb"}'))
    assert "none of the labels" in (grade(label_model(), {}, "x").error or "")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_tried_again(judge: Judge, status: int) -> None:
    judge.reply = lambda body: (200, says('{"result": 1}')) if len(judge.requests) > 2 else (status, {})
    assert grade(score_model(), {}, "x").score == 1
    assert len(judge.requests) == 3


def test_an_endpoint_that_stays_broken_costs_this_row_only(judge: Judge) -> None:
    judge.reply = lambda body: (500, {}) if body["messages"][1]["content"] == "b" else (200, says("1"))
    grades = grade_all([score_model()], [{}] * 3, ["a", "b", "c"])
    assert [each["score_model"].score for each in grades] == [1, 0, 1]
    assert "HTTP 500, 4 times" in (grades[1]["score_model"].error or "")


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_that_every_row_would_meet_ends_the_grading(judge: Judge, status: int) -> None:
    judge.reply = lambda body: (status, {"error": {"message": "no such model"}})
    with pytest.raises(GraderError, match="no such model"):
        grade_all([score_model()], [{}] * 3, ["a", "b", "c"])


def test_an_endpoint_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("residency.graders.judge.FIRST_PAUSE_SECONDS", 0.0)
    with pytest.raises(GraderError, match=r"127\.0\.0\.1:9"):
        grade(score_model(base_url="http://127.0.0.1:9/v1"), {}, "x")


def test_several_rows_are_judged_at_a_time_and_keep_their_order(judge: Judge) -> None:
    together = threading.Barrier(4, timeout=5)

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        together.wait()
        return 200, says(body["messages"][1]["content"])

    judge.reply = reply
    multi = Multi(graders={"j": score_model(range=(0.0, 10.0)), "s": StringCheck()}, calculate_output="j + s")
    grades = grade_all([multi], [{"reference": "3"}] * 8, [str(row) for row in range(8)])
    assert [each["multi"].score for each in grades] == [0, 1, 2, 4, 4, 5, 6, 7]
