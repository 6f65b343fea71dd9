"""`/v1/evals/{eval_id}/runs`: one model, or answers that are there already, under an eval's criteria."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from residency.errors import RequestError
from residency.server.api.evals import find_eval
from residency.server.api.files import find_file
from residency.server.api.job_requests import Metadata
from residency.server.api.pages import After, Limit20, Order, Page, page
from residency.server.api.server import Caller, Reader, Trainer
from residency.server.api.strict_json import StrictRoute
from residency.server.database.tables import EvalRun, OutputItem
from residency.server.evaluation import NO_COUNTS
from residency.server.names import resolve

router = APIRouter(prefix="/evals/{eval_id}/runs", tags=["evals"], route_class=StrictRoute)

OVER = ("completed", "failed", "canceled")
MOST_ROWS = 50_000
NO_ERROR = {"code": "", "message": ""}
"""OpenAI sends null while all is well, and its own strict tests want an object: they get it with the fixtures."""


class Source(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["file_content", "file_id", "stored_completions", "responses"]
    content: Annotated[list[dict[str, Any]], Field(max_length=MOST_ROWS)] | None = None
    id: str | None = None


class TemplateMessage(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["user", "assistant", "system", "developer"]
    content: str | dict[str, Any] | list[str | dict[str, Any]]


class Template(BaseModel):
    type: Literal["template"]
    template: Annotated[list[TemplateMessage], Field(min_length=1, max_length=100)]


class ItemReference(BaseModel):
    type: Literal["item_reference"]
    item_reference: str
    """Such as `item.input`: a list of messages in the row."""


class DataSource(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["jsonl", "completions", "responses"]
    source: Source
    model: str | None = None
    input_messages: Annotated[Template | ItemReference, Field(discriminator="type")] | None = None
    sampling_params: dict[str, Any] | None = None


class NewRun(BaseModel):
    data_source: DataSource
    name: Annotated[str, Field(max_length=512)] | None = None
    metadata: Metadata | None = None


class RunObject(TypedDict):
    id: str
    object: Literal["eval.run"]
    eval_id: str
    status: str
    model: str
    name: str
    created_at: int
    report_url: str
    data_source: dict[str, Any]
    error: dict[str, Any] | None
    metadata: dict[str, str] | None
    result_counts: dict[str, int]
    per_model_usage: list[dict[str, Any]]
    per_testing_criteria_results: list[dict[str, Any]]


class DeletedRun(TypedDict):
    object: Literal["eval.run.deleted"]
    deleted: bool
    run_id: str


def shape(run: EvalRun, no_error: dict[str, str] | None = None, origin: str = "") -> RunObject:
    return {
        "id": run.id,
        "object": "eval.run",
        "eval_id": run.eval_id,
        "status": run.status,
        "model": run.model,
        "name": run.name,
        "created_at": int(run.created_at),
        "report_url": f"{origin}/v1/evals/{run.eval_id}/runs/{run.id}/output_items",
        "data_source": run.data_source,
        "error": run.error or no_error,
        "metadata": run.labels,
        "result_counts": run.results.get("result_counts", NO_COUNTS),
        "per_model_usage": run.results.get("per_model_usage", []),
        "per_testing_criteria_results": run.results.get("per_testing_criteria_results", []),
    }


def shape_item(item: OutputItem, eval_id: str, no_error: dict[str, str] | None = None) -> dict[str, Any]:
    sample = item.sample
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0} | (sample.get("usage") or {})
    reason = sample.get("error")
    return {
        "id": item.id,
        "object": "eval.run.output_item",
        "created_at": int(item.created_at),
        "run_id": item.run_id,
        "eval_id": eval_id,
        "status": item.status,
        "datasource_item_id": item.position,
        "datasource_item": item.item,
        "results": item.results,
        "sample": {
            "input": sample.get("input") or [],
            "output": sample.get("output") or [{"role": "assistant", "content": sample.get("output_text", "")}],
            "finish_reason": sample.get("finish_reason") or "stop",
            "model": sample.get("model") or "",
            "usage": usage | {"cached_tokens": 0},
            "error": {"code": "sample_error", "message": reason} if reason else no_error,
            "temperature": sample.get("temperature") or 1.0,
            "top_p": sample.get("top_p") or 1.0,
            "seed": sample.get("seed") or 0,
            "max_completion_tokens": sample.get("max_completion_tokens") or 0,
        },
    }


def no_error(caller: Caller) -> dict[str, str] | None:
    return NO_ERROR if caller.lenient else None


def shown(caller: Caller, run: EvalRun) -> RunObject:
    return shape(run, no_error(caller), caller.origin)


@router.post("", status_code=201)
def create_run(caller: Trainer, eval_id: str, body: NewRun) -> RunObject:
    """Queues the run: `jsonl` grades the samples of its rows, `completions` and `responses` ask `model` first."""
    source = body.data_source
    with caller.write() as session:
        find_eval(caller, session, eval_id)
        check_source(caller, session, source)
        run = EvalRun(
            project_id=caller.project_id, eval_id=eval_id, name=body.name or "", model=source.model or "",
            data_source=source.model_dump(exclude_unset=True), labels=body.metadata,
        )  # fmt: skip
        session.add(run)
    return shown(caller, run)


def check_source(caller: Caller, session: Session, source: DataSource) -> None:
    rows = source.source
    if {"file_content": rows.content, "file_id": rows.id}.get(rows.type) is None:
        raise RequestError(f"rows cannot come from `{rows.type}`", code="not_available", param="data_source.source",
                           hint="use `file_content` with `content`, or `file_id` with `id`")  # fmt: skip
    if rows.type == "file_id" and rows.id is not None:
        find_file(caller, session, rows.id, param="data_source.source.id")
    if source.type == "jsonl":
        return
    if source.model is None or source.input_messages is None:
        raise RequestError("`model` and `input_messages` say what to ask whom", param="data_source")
    resolve(session, caller.server.settings, caller.project_id, source.model)


@router.get("")
def list_runs(caller: Reader, eval_id: str, after: After = None, limit: Limit20 = 20, order: Order = "asc",
              status: str | None = None) -> Page:  # fmt: skip
    query = select(EvalRun).where(EvalRun.eval_id == eval_id)
    if status is not None:
        query = query.where(EvalRun.status == status)
    with caller.read() as session:
        find_eval(caller, session, eval_id)
        return page(session, query, EvalRun, lambda run: shown(caller, run), after=after, limit=limit,
                    order=order, lenient=caller.lenient)  # fmt: skip


@router.get("/{run_id}")
async def retrieve_run(caller: Reader, eval_id: str, run_id: str) -> RunObject:
    return await caller.look(lambda session: shown(caller, find_run(caller, session, eval_id, run_id)))


@router.post("/{run_id}", include_in_schema=False)
@router.post("/{run_id}/cancel")
def cancel_run(caller: Trainer, eval_id: str, run_id: str) -> RunObject:
    """Under both addresses that versions of the client know. A run that is over stays as it is."""
    with caller.write() as session:
        run = find_run(caller, session, eval_id, run_id)
        session.refresh(run, with_for_update=True)
        if run.status not in OVER and run.lease_until > time.time():
            run.wanted = "cancel"
        elif run.status not in OVER:
            run.status, run.finished_at, run.attempt = "canceled", time.time(), run.attempt + 1
    return shown(caller, run)


@router.delete("/{run_id}")
def delete_run(caller: Trainer, eval_id: str, run_id: str) -> DeletedRun:
    with caller.write() as session:
        run = find_run(caller, session, eval_id, run_id)
        session.execute(delete(OutputItem).where(OutputItem.run_id == run_id))
        session.delete(run)
    return {"object": "eval.run.deleted", "deleted": True, "run_id": run_id}


@router.get("/{run_id}/output_items")
def list_items(caller: Reader, eval_id: str, run_id: str, after: After = None, limit: Limit20 = 20,
               order: Order = "asc", status: Literal["fail", "pass", "error"] | None = None) -> Page:  # fmt: skip
    query = select(OutputItem).where(OutputItem.run_id == run_id)
    if status is not None:
        query = query.where(OutputItem.status == status)
    with caller.read() as session:
        find_run(caller, session, eval_id, run_id)
        return page(session, query, OutputItem, lambda item: shape_item(item, eval_id, no_error(caller)),
                    after=after, limit=limit, order=order, lenient=caller.lenient)  # fmt: skip


@router.get("/{run_id}/output_items/{item_id}")
def retrieve_item(caller: Reader, eval_id: str, run_id: str, item_id: str) -> dict[str, Any]:
    with caller.read() as session:
        find_run(caller, session, eval_id, run_id)
        item = session.scalar(select(OutputItem).where(OutputItem.id == item_id, OutputItem.run_id == run_id))
    if item is None:
        raise RequestError(f"No such output item: {item_id[:100]}", status=404, param="output_item_id")
    return shape_item(item, eval_id, no_error(caller))


def find_run(caller: Caller, session: Session, eval_id: str, id: str) -> EvalRun:
    run = caller.find(session, EvalRun, id, "No such eval run", param="run_id")
    if run.eval_id != eval_id:
        raise RequestError(f"No such eval run: {id[:100]}", status=404, param="run_id")
    return run
