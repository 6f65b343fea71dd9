"""Chats when the inference process is not there, or dies while it answers: clients are told to come back."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from residency.server.api.app import build
from residency.server.settings import Settings
from tests.unit.server.serving import raw, served

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\ncontent-type: "
CHUNK = json.dumps({"id": "x", "choices": [{"index": 0, "delta": {"content": "so"}}]}).encode()


@contextmanager
def inference(*answers: bytes) -> Iterator[str]:
    """Sends each of these to one request, and is gone in the middle of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for bytes_ in answers:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(bytes_)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def ask(tmp_path: Path, inference_url: str, *, stream: bool = False) -> httpx.Response:
    app = build(Settings(home=tmp_path / "home", inference=inference_url))
    body = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    with served(app) as url, raw(url) as http:
        return http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("broken", [HEAD + b"application/json\r\n\r\n{", b""])
def test_an_answer_that_breaks_off_can_be_asked_for_again(broken: bytes, tmp_path: Path) -> None:
    with inference(broken) as url:
        response = ask(tmp_path, url)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["code"] == "inference_unavailable"


def test_a_stream_that_breaks_off_ends_with_an_error(tmp_path: Path) -> None:
    with inference(HEAD + b"text/event-stream\r\n\r\ndata: " + CHUNK + b"\n\n") as url:
        events = ask(tmp_path, url, stream=True).text.strip().split("\n\n")
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"]["content"] == "so"
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "inference_unavailable"


def test_a_process_that_is_loading_says_when_to_come_back(tmp_path: Path) -> None:
    body = b'{"error": {"message": "it is loading", "code": "loading"}}'
    with inference(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)) as url:
        response = ask(tmp_path, url)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["message"] == "it is loading"
