"""What must be refused, and what must not get out."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import openai as sdk
import pytest
from openai import OpenAI

from residency.server.api.app import build
from residency.server.api.server import Server
from residency.server.database.tables import Key
from residency.server.keys import PREFIX, revoke_key
from residency.server.settings import Settings
from tests.unit.server.api.conftest import new_key
from tests.unit.server.serving import client, raw, served

PATHS = ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/server.db", "/etc/passwd",
         "file-a%2f../../server.db", "file-a%00", "file-a%0d%0ax-injected:1", "~root"]  # fmt: skip


@pytest.fixture
def other(url: str, server: Server) -> Iterator[OpenAI]:
    """A client of another project."""
    with client(url, new_key(server)) as made:
        yield made


@pytest.mark.parametrize("key", [None, "sk-wrong", f"{PREFIX}{'x' * 43}", "a b", "\u00e9"])
def test_a_forged_or_missing_key_is_refused(url: str, server: Server, key: str | None) -> None:
    new_key(server)
    headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}
    answer = httpx.get(f"{url}/v1/files", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert not key or len(key) < 8 or key not in answer.text


def test_a_revoked_key_is_refused_within_a_second(openai: OpenAI, server: Server, key: str) -> None:
    openai.files.list()
    with server.database.write() as session:
        newest = session.query(Key).order_by(Key.seq.desc()).first()
        assert newest is not None
        revoke_key(session, newest.id)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:  # using it does not keep it
        with suppress(sdk.AuthenticationError):
            openai.files.list()
    with pytest.raises(sdk.AuthenticationError):
        openai.files.list()


def test_keys_are_not_stored(server: Server, key: str) -> None:
    stored = b"".join(path.read_bytes() for path in server.settings.home.glob("server.db*"))
    assert key.encode() not in stored


def test_the_header_of_azures_clients_is_taken_too(url: str, key: str) -> None:
    assert httpx.get(f"{url}/v1/files", headers={"api-key": key}).status_code == 200


def test_without_any_key_only_this_machine_is_served(tmp_path: Path) -> None:
    for loopback, status in ((True, 200), (False, 401)):
        made = build(Settings(home=tmp_path / str(loopback), loopback=loopback))
        with served(made) as address:
            assert httpx.get(f"{address}/v1/files").status_code == status


@pytest.mark.parametrize(
    ("scope", "allowed"), [("read", {"list"}), ("train", {"upload"}), ("infer", set()), ("admin", {"list", "upload"})]
)
def test_a_key_does_what_its_scopes_allow(url: str, server: Server, scope: str, allowed: set[str]) -> None:
    with client(url, new_key(server, scope)) as made:
        calls = {"list": made.files.list, "upload": lambda: made.files.create(file=b"x", purpose="user_data")}
        for name, call in calls.items():
            if name in allowed:
                call()
            else:
                with pytest.raises(sdk.PermissionDeniedError, match="lacks the scope"):
                    call()


def test_nothing_of_another_project_can_be_seen_used_or_deleted(openai: OpenAI, other: OpenAI, rows: bytes) -> None:
    file = openai.files.create(file=rows, purpose="fine-tune").id
    job = openai.fine_tuning.jobs.create(model="smollm2-135m", training_file=file).id
    upload = openai.uploads.create(bytes=1, filename="a", mime_type="a", purpose="user_data").id
    measured = openai.evals.create(data_source_config={"type": "custom", "item_schema": {}}, testing_criteria=[]).id
    batch = openai.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h").id
    refused = [
        lambda: other.files.retrieve(file), lambda: other.files.content(file), lambda: other.files.delete(file),
        lambda: other.fine_tuning.jobs.retrieve(job), lambda: other.fine_tuning.jobs.cancel(job),
        lambda: other.fine_tuning.jobs.list_events(job), lambda: other.fine_tuning.jobs.checkpoints.list(job),
        lambda: other.uploads.parts.create(upload, data=b"x"), lambda: other.uploads.cancel(upload),
        lambda: other.evals.retrieve(measured), lambda: other.evals.delete(measured),
        lambda: other.evals.runs.list(measured),
        lambda: other.batches.retrieve(batch), lambda: other.batches.cancel(batch),
        lambda: other.fine_tuning.jobs.create(model="smollm2-135m", training_file=file),
        lambda: other.batches.create(input_file_id=file, endpoint="/v1/completions", completion_window="24h"),
    ]  # fmt: skip
    for call in refused:
        with pytest.raises(sdk.NotFoundError):
            call()  # type: ignore[no-untyped-call]
    assert other.files.list().data == []
    assert other.fine_tuning.jobs.list().data == []
    assert other.evals.list().data == []
    assert other.batches.list().data == []
    assert openai.fine_tuning.jobs.retrieve(job).status == "validating_files"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("route", ["/v1/files/{}", "/v1/files/{}/content", "/v1/fine_tuning/jobs/{}", "/v1/models/{}"])
def test_a_path_instead_of_an_id_reaches_nothing(http: httpx.Client, route: str, path: str) -> None:
    answer = http.get(route.format(path))
    assert answer.status_code in (400, 404)
    assert set(answer.json()) == {"error"}
    assert "x-injected" not in answer.headers
    assert "root:" not in answer.text


@pytest.mark.parametrize("name", ["../../../evil.jsonl", "/etc/cron.d/evil.jsonl", "a\\b.jsonl", "con.jsonl"])
def test_a_file_name_is_never_a_path(openai: OpenAI, server: Server, tmp_path: Path, name: str, rows: bytes) -> None:
    file = openai.files.create(file=(name, rows), purpose="fine-tune")
    stored = {path.name for path in Path(server.settings.files_url).iterdir()}
    assert file.id in stored
    assert all("evil" not in found for found in stored)


def test_a_file_name_cannot_inject_a_header(http: httpx.Client) -> None:
    form = (
        b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="a%0d%0aset-cookie: b"\r\n\r\nx\r\n--x--\r\n'
    )
    answer = http.post("/v1/files", content=form, headers={"content-type": "multipart/form-data; boundary=x"})
    assert "set-cookie" not in answer.headers
    if answer.status_code == 200:
        assert "set-cookie" not in http.get(f"/v1/files/{answer.json()['id']}/content").headers


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    app = build(Settings(home=tmp_path, most_file_bytes=1000))
    with served(app) as address, client(address) as made:
        with pytest.raises(sdk.APIStatusError) as caught:
            made.files.create(file=b"x" * 1001, purpose="user_data")
        assert caught.value.status_code == 413
        assert made.files.list().data == []
    assert list((tmp_path / "files").iterdir()) == []


def test_a_body_that_is_too_large_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", content=b'{"a": "' + b"x" * (33 * 2**20),
                       headers={"content-type": "application/json"})  # fmt: skip
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"null", b'"a"', b"\xff", b'{"model": NaN}', b'{"model": "\\ud800"}', b'{"model": "\\u0000"}',
     b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"seed": 1e999}', b""],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs", "/v1/chat/completions", "/v1/evals", "/v1/uploads"])
def test_a_body_that_is_no_request_is_refused(http: httpx.Client, path: str, body: bytes) -> None:
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("form", [b"", b"--x--", b"no form", b'--x\r\ncontent-disposition: form-data; name="file"\r\n'])
def test_a_form_that_is_none_is_refused(http: httpx.Client, form: bytes) -> None:
    answer = http.post("/v1/files", content=form, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 400
    assert "error" in answer.json()


def test_other_web_pages_are_kept_off(url: str, http: httpx.Client) -> None:
    assert http.get("/v1/files", headers={"origin": "http://evil.example"}).status_code == 403
    assert http.get("/v1/files", headers={"host": "evil.example"}).status_code == 403
    assert http.get("/v1/files", headers={"origin": url}).status_code == 200


def test_every_answer_has_the_security_headers(http: httpx.Client) -> None:
    for path in ("/v1/files", "/nothing", "/v1/files/x", "/healthz", "/openapi.json"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-request-id"].startswith("req_")


def test_a_request_line_that_is_no_http_ends_no_server(url: str, http: httpx.Client) -> None:
    port = int(url.rpartition(":")[2])
    for garbage in (
        b"\x00\xff\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(garbage)
    assert http.get("/healthz").status_code == 200


GRADER = {"type": "python", "name": "g", "source": "def grade(sample, item):\n    return 1.0"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 80))", "network"),
        ("open('/tmp/residency-escape', 'w').write('x')", "files"),
        ("import os; os.fork()", "processes"),
        ("import os; os.system('true')", "processes"),
        ("x = bytearray(64 * 2**30)", "MemoryError"),
    ],
)
def test_a_grader_that_reaches_out_gets_nothing(openai: OpenAI, body: str, reason: str) -> None:
    source = f"def grade(sample, item):\n    {body}\n    return 1.0"
    graded = openai.fine_tuning.alpha.graders.run(grader={**GRADER, "source": source}, model_sample="a")  # type: ignore[typeddict-item]
    assert graded.reward == 0
    assert graded.metadata.errors.python_grader_runtime_error
    assert reason in (graded.metadata.errors.python_grader_runtime_error_details or "")
    assert not Path("/tmp/residency-escape").exists()


def test_python_graders_are_off_where_the_operator_did_not_switch_them_on(tmp_path: Path) -> None:
    app = build(Settings(home=tmp_path, python_graders=False))
    with served(app) as address, client(address) as made:
        with pytest.raises(sdk.BadRequestError, match="switched off"):
            made.fine_tuning.alpha.graders.run(grader=GRADER, model_sample="a")  # type: ignore[arg-type]
        multi = {"type": "multi", "name": "m", "graders": {"a": GRADER}, "calculate_output": "a"}
        with pytest.raises(sdk.BadRequestError, match="switched off"):
            made.fine_tuning.alpha.graders.validate(grader=multi)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "template", ["{{ item.__class__ }}", "{{ ''.__class__ }}", "{{ 7*7 }}", "{% import os %}", "{{ config }}"]
)
def test_a_template_is_never_executed(openai: OpenAI, template: str) -> None:
    grader = {"type": "string_check", "name": "g", "operation": "eq", "input": template, "reference": "49"}
    try:
        graded = openai.fine_tuning.alpha.graders.run(grader=grader, model_sample="a", item={})  # type: ignore[arg-type]
    except sdk.BadRequestError:
        return
    assert graded.reward == 0


def test_a_client_does_not_choose_whom_the_server_asks(openai: OpenAI) -> None:
    judge = {"type": "score_model", "name": "j", "model": "m", "input": [{"role": "user", "content": "?"}],
             "base_url": "http://169.254.169.254/"}  # fmt: skip
    with pytest.raises(sdk.BadRequestError, match="base_url"):
        openai.fine_tuning.alpha.graders.run(grader=judge, model_sample="a")  # type: ignore[arg-type]


def test_prompts_keys_and_contents_stay_out_of_the_log(
    openai: OpenAI, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "the patient's name"
    with caplog.at_level(logging.DEBUG, logger="residency"), pytest.raises(sdk.InternalServerError):
        openai.chat.completions.create(model="smollm2-135m", messages=[{"role": "user", "content": secret}])
    with caplog.at_level(logging.DEBUG, logger="residency"), pytest.raises(sdk.BadRequestError):
        openai.fine_tuning.jobs.create(model="smollm2-135m", training_file="x", suffix=f"{secret}!")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("residency")]
    assert not any(secret in message or key in message for message in ours)


def test_a_key_may_ask_so_often_and_no_more(tmp_path: Path) -> None:
    app = build(Settings(home=tmp_path, requests_per_minute=3))
    with served(app) as address, raw(address) as http:
        answers = [http.get("/v1/files") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert json.loads(answers[-1].text)["error"]["code"] == "rate_limit_exceeded"
