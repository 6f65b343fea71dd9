"""What a client gets over HTTP, in OpenAI's words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import typer
from starlette.testclient import TestClient
from typer.testing import CliRunner

from residency.inference.__main__ import serve
from residency.inference.batch import Limits
from residency.inference.host import Host, Settings
from residency.inference.start import app_for
from tests.unit.inference.small import alone, by_transformers, make_model, make_tokenizer

TOKENIZER = make_tokenizer()
ASK = [{"role": "user", "content": "turn on the light"}]
END = TOKENIZER.eos_token_id


def settings(**changes: Any) -> Settings:
    return Settings(torch.float32, torch.device("cpu"), **({"limits": Limits(cache_tokens=4000)} | changes))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(app_for(Host(settings(), lambda: None))) as client:
        yield client


@pytest.fixture
def asked(client: TestClient, model_folder: Path) -> Any:
    """Sends a chat request; returns the answer's body."""

    def ask(path: str = "/chat/completions", adapter: Path | None = None, **body: Any) -> dict[str, Any]:
        default = {"messages": ASK} if path == "/chat/completions" else {}
        served = {"base": str(model_folder), "adapter": str(adapter) if adapter else None}
        return client.post(path, json={"model": served, "temperature": 0, **default, **body}).json()  # type: ignore[no-any-return]

    return ask


@pytest.fixture
def streamed(client: TestClient, model_folder: Path) -> Any:
    def ask(path: str = "/chat/completions", **body: Any) -> list[dict[str, Any]]:
        default = {"messages": ASK} if path == "/chat/completions" else {}
        served = {"base": str(model_folder)}
        answer = client.post(path, json={"model": served, "temperature": 0, "stream": True, **default, **body})
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    return ask


def prompt() -> list[int]:
    return list(TOKENIZER.apply_chat_template(ASK, add_generation_prompt=True)["input_ids"])


def expected(model_folder: Path, adapter: Path | None = None, new_tokens: int = 20) -> list[int]:
    return by_transformers(model_folder, adapter, prompt(), new_tokens, [END])


def test_an_answer_is_what_the_model_says_and_is_counted(asked: Any, model_folder: Path, adapters: list[Path]) -> None:
    for adapter in (None, *adapters):
        answer = asked(adapter=adapter, max_tokens=20)
        ids = expected(model_folder, adapter)
        [choice] = answer["choices"]
        assert choice["message"]["content"] == TOKENIZER.decode(ids, skip_special_tokens=True)
        assert choice["finish_reason"] == ("stop" if len(ids) < 20 else "length")
        assert answer["usage"] == {"prompt_tokens": len(prompt()), "completion_tokens": len(ids),
                                   "total_tokens": len(prompt()) + len(ids)}  # fmt: skip


@pytest.mark.parametrize("body", [{}, {"stop": ["e", "on"]}, {"logprobs": True, "top_logprobs": 2}], ids=str)
def test_streamed_pieces_joined_are_the_whole_answer(asked: Any, streamed: Any, body: dict[str, Any]) -> None:
    settings = {"max_tokens": 40, "n": 3, "temperature": 1.2, "seed": 5, **body}
    whole = asked(**settings)
    chunks = streamed(**settings, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    for index, choice in enumerate(whole["choices"]):
        own = [chunk["choices"][0] for chunk in chunks[:-1] if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(one["delta"].get("content") or "" for one in own) == choice["message"]["content"]
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == [choice["finish_reason"]]
        if "logprobs" in body:
            told = [token for one in own if one["logprobs"] for token in one["logprobs"]["content"]]
            assert told == choice["logprobs"]["content"]


def test_choices_differ_and_a_seed_brings_them_back(asked: Any) -> None:
    first, again = (asked(n=4, temperature=1.0, seed=11, max_tokens=10) for _ in range(2))
    other = asked(n=4, temperature=1.0, seed=12, max_tokens=10)
    texts = [[choice["message"]["content"] for choice in answer["choices"]] for answer in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 4


def test_logprobs_are_the_models_own(asked: Any, model_folder: Path) -> None:
    answer = asked(max_tokens=6, logprobs=True, top_logprobs=3, logit_bias={"5": -100})
    content = answer["choices"][0]["logprobs"]["content"]
    ids = expected(model_folder, new_tokens=6)
    with torch.no_grad():
        logits = alone(model_folder, None)(torch.tensor([prompt() + ids])).logits[0, len(prompt()) - 1 : -1]
    logprobs = logits.log_softmax(-1)
    assert len(content) == len(ids)
    for token, id, line in zip(content, ids, logprobs, strict=True):
        assert token["logprob"] == pytest.approx(float(line[id]), abs=1e-4)
        likely = [one["logprob"] for one in token["top_logprobs"]]
        assert likely == pytest.approx(line.topk(3).values.tolist(), abs=1e-4)
        assert bytes(token["bytes"]).decode(errors="replace") == TOKENIZER.decode([id])


def test_bias_and_penalties_change_what_is_chosen(asked: Any, model_folder: Path) -> None:
    first = expected(model_folder)[0]
    forced = asked(max_tokens=5, logit_bias={str(TOKENIZER.convert_tokens_to_ids("x")): 100})
    assert forced["choices"][0]["message"]["content"] == "xxxxx"
    banned = asked(max_tokens=1, logprobs=True, logit_bias={str(first): -100})["choices"][0]
    assert banned["logprobs"]["content"][0]["token"] != TOKENIZER.decode([first])
    tempted = {"logit_bias": {str(TOKENIZER.convert_tokens_to_ids(one)): bias for one, bias in (("x", 50), ("y", 49))}}
    assert asked(max_tokens=2, presence_penalty=2, **tempted)["choices"][0]["message"]["content"] == "xy"
    frequent = asked(max_tokens=8, frequency_penalty=2, **tempted)["choices"][0]["message"]["content"]
    assert set(frequent) == {"x", "y"}
    assert 3 <= frequent.count("x") <= 5


SCHEMA = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "maxLength": 8},
        "level": {"type": "integer", "minimum": 0, "maximum": 100},
        "mode": {"enum": ["on", "off"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["room", "level", "mode", "tags"],
    "additionalProperties": False,
}


def test_a_json_schema_is_always_followed(asked: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "state", "strict": True, "schema": SCHEMA}}
    answer = asked(n=12, temperature=1.5, seed=1, max_tokens=400, response_format=wanted)
    finished = [choice for choice in answer["choices"] if choice["finish_reason"] == "stop"]
    assert len(finished) >= 6
    for choice in finished:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


def test_a_json_object_is_one(asked: Any) -> None:
    answer = asked(n=6, temperature=1.0, seed=2, max_tokens=300, response_format={"type": "json_object"})
    finished = [choice for choice in answer["choices"] if choice["finish_reason"] == "stop"]
    assert finished
    assert all(isinstance(json.loads(choice["message"]["content"]), dict) for choice in finished)


LIGHT = {"type": "function", "function": {"name": "light", "parameters": {
    "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False,
}}}  # fmt: skip
HEAT = {"type": "function", "function": {"name": "heat", "parameters": {"type": "object", "properties": {}}}}


def test_a_required_tool_is_called_with_arguments_of_its_schema(asked: Any, streamed: Any) -> None:
    body = {"tools": [LIGHT, HEAT], "tool_choice": {"type": "function", "function": {"name": "light"}},
            "temperature": 1.0, "seed": 3, "max_tokens": 200, "parallel_tool_calls": False}  # fmt: skip
    [choice] = asked(**body)["choices"]
    assert choice["finish_reason"] == "stop"  # as at OpenAI where the client names the function
    assert choice["message"]["content"] is None
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "light"
    jsonschema.validate(json.loads(call["function"]["arguments"]), LIGHT["function"]["parameters"])
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(**body)]
    [calls] = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["function"] == call["function"]
    assert calls[0]["index"] == 0
    assert not any(delta.get("content") for delta in deltas)


def test_any_required_tool_ends_with_tool_calls(asked: Any) -> None:
    body = {"tools": [LIGHT], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200}
    assert asked(**body)["choices"][0]["finish_reason"] == "tool_calls"
    older = asked(functions=[LIGHT["function"]], function_call={"name": "light"}, parallel_tool_calls=False,
                  max_tokens=200)["choices"][0]  # fmt: skip
    assert older["message"]["function_call"]["name"] == "light"


def test_completions_continue_a_text_and_score_it(asked: Any, streamed: Any, model_folder: Path) -> None:
    ids = TOKENIZER.encode("turn on")
    answer = asked("/completions", prompt=["turn on", "the"], n=2, max_tokens=5)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["choices"][0]["text"] == TOKENIZER.decode(by_transformers(model_folder, None, ids, 5, [END]))
    assert answer["usage"]["prompt_tokens"] == len(ids) + len(TOKENIZER.encode("the"))

    scored = asked("/completions", prompt="turn on", max_tokens=0, echo=True, logprobs=1)["choices"][0]
    with torch.no_grad():
        logprobs = alone(model_folder, None)(torch.tensor([ids])).logits[0].log_softmax(-1)
    own = [float(line[id]) for line, id in zip(logprobs[:-1], ids[1:], strict=True)]
    assert scored["text"] == "turn on"
    assert scored["logprobs"]["token_logprobs"][0] is None
    assert scored["logprobs"]["token_logprobs"][1:] == pytest.approx(own, abs=1e-4)
    assert "".join(scored["logprobs"]["tokens"]) == "turn on"

    body = {"prompt": ids, "max_tokens": 8, "echo": True, "logprobs": 2}
    whole = asked("/completions", **body)["choices"][0]
    chunks = [chunk["choices"][0] for chunk in streamed("/completions", **body)]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    for column, values in whole["logprobs"].items():
        assert [value for chunk in chunks for value in chunk["logprobs"][column]] == values
    assert whole["logprobs"]["text_offset"] == sorted(whole["logprobs"]["text_offset"])


def test_the_best_of_several_is_the_likeliest(asked: Any) -> None:
    body = {"prompt": "turn", "max_tokens": 6, "temperature": 1.0, "seed": 4, "logprobs": 0}
    several = asked("/completions", n=6, **body)["choices"]
    [best] = asked("/completions", best_of=6, **body)["choices"]
    likely = max(several, key=lambda one: sum(one["logprobs"]["token_logprobs"]) / len(one["logprobs"]["tokens"]))
    assert best["text"] == likely["text"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"messages": [{"role": "user", "content": "turn on " * 600}]}, "context_length_exceeded", "messages"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "invalid_value", "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": 3}]}, "invalid_value", "messages[0].content"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"logit_bias": {"99999": 1}}, "invalid_value", "logit_bias"),
        ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"stop": list("abcde")}, None, "stop"),
        ({"response_format": {"type": "json_schema"}}, "missing_required_parameter", "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "thing"}}}},
         None, "response_format 'x'"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": []}}}},
         None, "response_format 'x'"),
        ({"tools": [LIGHT], "tool_choice": {"type": "function", "function": {"name": "x"}}}, None, "tool_choice"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_wrong_is_named_as_openai_does(
    asked: Any, body: dict[str, Any], code: str | None, param: str | None
) -> None:
    error = asked(**body)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert code is None or error["code"] == code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"model": {"base": "x"}, "messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
    ids=["empty", "a list", "broken", "deep", "half a character"],
)
def test_a_body_that_is_no_json_object_of_whole_characters_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


def test_null_means_the_default_and_unknown_fields_are_ignored(asked: Any) -> None:
    body = {"n": None, "top_p": None, "stop": None, "tools": None, "store": True, "metadata": {"a": "b"}, "user": "me"}
    assert "choices" in asked(max_tokens=1, **body)


def test_a_call_whose_arguments_are_nested_without_end_is_refused_by_name(asked: Any) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "light", "arguments": "[" * 5000}}
    refused = asked(messages=[*ASK, {"role": "assistant", "tool_calls": [call]}])["error"]
    assert refused["param"] == "messages[1].tool_calls[0].function.arguments"
    assert "expected a JSON object as text" in refused["message"]


def test_an_answer_of_the_model_can_be_sent_back(asked: Any) -> None:
    call = asked(tools=[LIGHT], tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    message = call["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "done"}
    assert "choices" in asked(messages=[*ASK, message, result], tools=[LIGHT], max_tokens=2)


def test_an_adapter_that_is_gone_is_a_model_that_is_not_found(
    client: TestClient, model_folder: Path, adapters: list[Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters[0], tmp_path / "adapter"))
    body = {"model": {"base": str(model_folder), "adapter": str(folder)}, "messages": ASK, "max_tokens": 1}
    assert client.post("/chat/completions", json=body).status_code == 200
    shutil.rmtree(folder)
    answer = client.post("/chat/completions", json=body)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_a_full_queue_says_when_to_come_back(model_folder: Path) -> None:
    crowded = settings(max_waiting=1, limits=Limits(rows=1, cache_tokens=4000))
    with TestClient(app_for(Host(crowded, lambda: None))) as client:
        body = {"model": {"base": str(model_folder)}, "messages": ASK, "n": 4, "max_tokens": 40, "stream": True}
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.post("/chat/completions", json=body), range(4)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 1 <= len(refused) < 4
    for answer in refused:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_bases_take_turns_where_only_one_fits(model_folder: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", hidden_size=32)
    with TestClient(app_for(Host(settings(), lambda: None))) as client:
        for base in (model_folder, other, model_folder):
            body = {"model": {"base": str(base)}, "messages": ASK, "temperature": 0, "max_tokens": 5}
            text = client.post("/chat/completions", json=body).json()["choices"][0]["message"]["content"]
            assert text == TOKENIZER.decode(expected(base, new_tokens=5), skip_special_tokens=True)
            assert [one["base"] for one in client.get("/health").json()["bases"]] == [str(base)]
        assert client.post("/unload", json={}).json() == {"unloaded": 1}
        assert client.get("/health").json()["bases"] == []


def test_a_base_that_is_not_there_is_named_by_the_exit_code(tmp_path: Path) -> None:
    program = typer.Typer(pretty_exceptions_enable=False)
    program.command()(serve)
    ended = CliRunner().invoke(program, [str(tmp_path / "socket"), "--model", str(tmp_path / "missing")])
    assert ended.exit_code == 4
    assert "there is no model folder" in ended.output
