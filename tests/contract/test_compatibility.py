"""docs/compatibility.md says of each endpoint and each field of the official client whether it works here.

Fields come from the client's own types, and what works from the server's own OpenAPI document: neither can grow
without the page. `python -m tests.contract.test_compatibility` writes it anew.
"""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import openai.types as sdk
from openai.types import evals as sdk_evals
from openai.types import fine_tuning as sdk_tuning
from openai.types.chat import completion_create_params as chat_params
from openai.types.fine_tuning import alpha as sdk_graders
from openai.types.fine_tuning import checkpoints as sdk_checkpoints
from openai.types.fine_tuning import jobs as sdk_jobs
from openai.types.uploads import part_create_params

from residency.server.api.app import build
from residency.server.settings import Settings
from tests.e2e.server.openai_schema import CONTRADICTIONS

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
JOBS, CHECKPOINTS, RUNS = (
    "/fine_tuning/jobs",
    "/fine_tuning/checkpoints/{checkpoint}/permissions",
    "/evals/{eval_id}/runs",
)
ITEMS = f"{RUNS}/{{run_id}}/output_items"
OPERATIONS: list[tuple[str, str, Any]] = [
    ("POST", "/files", sdk.FileCreateParams), ("GET", "/files", sdk.FileListParams), ("GET", "/files/{file_id}", None),
    ("DELETE", "/files/{file_id}", None), ("GET", "/files/{file_id}/content", None),
    ("POST", "/uploads", sdk.UploadCreateParams),
    ("POST", "/uploads/{upload_id}/parts", part_create_params.PartCreateParams),
    ("POST", "/uploads/{upload_id}/complete", sdk.UploadCompleteParams), ("POST", "/uploads/{upload_id}/cancel", None),
    ("POST", JOBS, sdk_tuning.JobCreateParams), ("GET", JOBS, sdk_tuning.JobListParams),
    ("GET", f"{JOBS}/{{job_id}}", None), ("POST", f"{JOBS}/{{job_id}}/cancel", None),
    ("POST", f"{JOBS}/{{job_id}}/pause", None), ("POST", f"{JOBS}/{{job_id}}/resume", None),
    ("GET", f"{JOBS}/{{job_id}}/events", sdk_tuning.JobListEventsParams),
    ("GET", f"{JOBS}/{{job_id}}/checkpoints", sdk_jobs.CheckpointListParams),
    ("POST", CHECKPOINTS, sdk_checkpoints.PermissionCreateParams),
    ("GET", CHECKPOINTS, sdk_checkpoints.PermissionListParams), ("DELETE", f"{CHECKPOINTS}/{{permission_id}}", None),
    ("POST", "/fine_tuning/alpha/graders/validate", sdk_graders.GraderValidateParams),
    ("POST", "/fine_tuning/alpha/graders/run", sdk_graders.GraderRunParams),
    ("GET", "/models", None), ("GET", "/models/{model}", None), ("DELETE", "/models/{model}", None),
    ("POST", "/chat/completions", chat_params.CompletionCreateParamsStreaming),
    ("GET", "/chat/completions", None), ("GET", "/chat/completions/{completion_id}", None),
    ("POST", "/chat/completions/{completion_id}", None), ("DELETE", "/chat/completions/{completion_id}", None),
    ("GET", "/chat/completions/{completion_id}/messages", None),
    ("POST", "/completions", sdk.completion_create_params.CompletionCreateParamsStreaming),
    ("POST", "/evals", sdk.EvalCreateParams), ("GET", "/evals", sdk.EvalListParams), ("GET", "/evals/{eval_id}", None),
    ("POST", "/evals/{eval_id}", sdk.EvalUpdateParams), ("DELETE", "/evals/{eval_id}", None),
    ("POST", RUNS, sdk_evals.RunCreateParams), ("GET", RUNS, sdk_evals.RunListParams),
    ("GET", f"{RUNS}/{{run_id}}", None), ("POST", f"{RUNS}/{{run_id}}/cancel", None),
    ("DELETE", f"{RUNS}/{{run_id}}", None), ("GET", ITEMS, None), ("GET", f"{ITEMS}/{{item_id}}", None),
    ("POST", "/batches", sdk.BatchCreateParams), ("GET", "/batches", sdk.BatchListParams),
    ("GET", "/batches/{batch_id}", None), ("POST", "/batches/{batch_id}/cancel", None),
]  # fmt: skip
DIFFERS = {
    (
        "POST",
        JOBS,
        "method",
    ): "`supervised`; `dpo` and `reinforcement` are refused with the release that has them",
    ("POST", JOBS, "model"): "a local name, a Hub id, an alias, or an earlier result",
    ("GET", JOBS, "metadata"): "as OpenAI's: `metadata[key]=value`, `metadata=null`",
    ("POST", "/evals", "data_source_config"): "`custom`; `logs` and `stored_completions` are refused",
    (
        "POST",
        "/evals",
        "testing_criteria",
    ): "judges are asked at the server's OPENAI_BASE_URL; without `pass_threshold` every score passes",
    ("POST", RUNS, "data_source"): "rows from `file_content` or `file_id`; `responses` is asked as a chat",
    ("GET", "/evals", "order_by"): "always by `created_at`",
    ("POST", "/batches", "endpoint"): "`/v1/chat/completions` and `/v1/completions`",
    ("GET", CHECKPOINTS, "project_id"): "needs the scope `admin`",
}
IGNORED = "ignored: nothing here does what it asks"


@cache
def document() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        app = build(Settings(home=Path(home)))
        found: dict[str, Any] = app.openapi()
        app.state.server.database.close()
    return found


def operation(method: str, path: str) -> dict[str, Any]:
    paths = document()["paths"]
    found: dict[str, Any] = paths[f"/v1{path}"][method.lower()]
    return found


def accepted(method: str, path: str) -> set[str]:
    """The fields our document names, in the query and the body."""
    found = operation(method, path)
    names = {one["name"].partition("[")[0] for one in found.get("parameters", ())}
    for content in found.get("requestBody", {}).get("content", {}).values():
        schema = document()["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        names |= {name.partition("[")[0] for name in schema["properties"]}
    return names


def fields(params: Any) -> list[str]:
    return sorted(params.__required_keys__ | params.__optional_keys__) if params else []


def verdict(method: str, path: str, field: str) -> str:
    if note := DIFFERS.get((method, path, field)):
        return f"differs | {note}"
    return "works | " if field in accepted(method, path) else f"not there | {IGNORED}"


def page() -> str:
    lines = [
        "# What of OpenAI's API is here",
        "",
        "Made by `python -m tests.contract.test_compatibility` from the official client's types and the server's",
        "OpenAPI document. The client's own tests are run against the server by `make proofs`. Everything that is",
        "not named below, such as the Responses, Assistants and Vector Store APIs, is not there and answers 404 with",
        "`unknown_url`.",
        "",
        "Answers carry a further field `residency` where there is more to say than OpenAI has fields for.",
    ]
    for method, path, params in OPERATIONS:
        lines += [
            "",
            f"## {method} /v1{path}",
            "",
            operation(method, path).get("description", "").strip().split("\n")[0],
        ]
        if named := fields(params):
            lines += ["", "| field | | |", "|---|---|---|"]
            lines += [f"| `{field}` | {verdict(method, path, field)} |" for field in named]
    lines += ["", *contradictions()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def contradictions() -> list[str]:
    """Where no answer could please OpenAI's published schema and OpenAI's own examples."""
    lines = [
        "## Where answers are not as OpenAI's schema has them",
        "",
        "`make proofs` holds the answers of every endpoint, errors and streams included, to the OpenAPI document that",
        "OpenAI published on 31 May 2026. They differ only where it contradicts itself or asks for what is not there:",
        "",
        "| field | is | because |",
        "|---|---|---|",
    ]
    for one in CONTRADICTIONS:
        lines.append(f"| {one.field} | {one.shown} | {one.reason} |")
    return lines


def test_the_page_is_as_the_server_is() -> None:
    hint = "write it anew with `python -m tests.contract.test_compatibility`"
    assert PAGE.read_text(encoding="utf-8") == page(), hint


def test_every_endpoint_is_on_the_page() -> None:
    served = {
        (method.upper(), path.removeprefix("/v1"))
        for path, methods in document()["paths"].items()
        if path.startswith("/v1/")
        for method in methods
    }
    assert served == {(method, path) for method, path, _ in OPERATIONS}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
