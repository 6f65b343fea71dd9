"""`/v1/evals`: what is to be measured, and how an answer is graded."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from residency.errors import RequestError
from residency.graders.score import check_graders
from residency.server.api.job_requests import Metadata
from residency.server.api.pages import After, Limit20, Order, Page, page
from residency.server.api.server import Caller, Reader, Trainer
from residency.server.api.strict_json import StrictRoute
from residency.server.database.tables import Eval, EvalRun, OutputItem
from residency.server.grading import parse_grader

router = APIRouter(prefix="/evals", tags=["evals"], route_class=StrictRoute)


class DataSourceConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["custom", "logs", "stored_completions"]
    item_schema: dict[str, Any] | None = None
    """JSON schema of an item."""
    include_sample_schema: bool = False


class NewEval(BaseModel):
    data_source_config: DataSourceConfig
    testing_criteria: Annotated[list[dict[str, Any]], Field(max_length=100)]
    name: Annotated[str, Field(max_length=512)] | None = None
    metadata: Metadata | None = None


class EvalUpdate(BaseModel):
    name: Annotated[str, Field(max_length=512)] | None = None
    metadata: Metadata | None = None


class EvalObject(TypedDict):
    id: str
    object: Literal["eval"]
    created_at: int
    name: str
    data_source_config: dict[str, Any]
    testing_criteria: list[dict[str, Any]]
    metadata: dict[str, str] | None


class DeletedEval(TypedDict):
    object: Literal["eval.deleted"]
    deleted: bool
    eval_id: str


def shape(row: Eval) -> EvalObject:
    return {
        "id": row.id,
        "object": "eval",
        "created_at": int(row.created_at),
        "name": row.name,
        "data_source_config": row.data_source_config,
        "testing_criteria": row.testing_criteria,
        "metadata": row.labels,
    }


@router.post("", status_code=201)
def create_eval(caller: Trainer, body: NewEval) -> EvalObject:
    """Keeps the criteria; each is checked now, so that no run fails for a grader that could never work."""
    config = body.data_source_config
    if config.type != "custom":
        raise RequestError(f"data sources of the type `{config.type}` are not there", code="not_available",
                           param="data_source_config.type", hint="use `custom`, with the rows in the run")  # fmt: skip
    check_graders([parse_grader(one, caller.server.settings) for one in body.testing_criteria])
    schema = {"type": "object", "properties": {"item": config.item_schema or {}}, "required": ["item"]}
    if config.include_sample_schema:
        schema["properties"] = {"item": config.item_schema or {}, "sample": {"type": "object"}}
    row = Eval(
        project_id=caller.project_id, name=body.name or "", testing_criteria=body.testing_criteria,
        data_source_config={"type": "custom", "schema": schema}, labels=body.metadata,
    )  # fmt: skip
    with caller.write() as session:
        session.add(row)
    return shape(row)


@router.get("")
def list_evals(
    caller: Reader,
    after: After = None,
    limit: Limit20 = 20,
    order: Order = "asc",
    order_by: Annotated[Literal["created_at", "updated_at"], Query()] = "created_at",
) -> Page:
    """By the time they were made, whatever `order_by` says."""
    query = select(Eval).where(Eval.project_id == caller.project_id)
    with caller.read() as session:
        return page(session, query, Eval, shape, after=after, limit=limit, order=order, lenient=caller.lenient)


@router.get("/{eval_id}")
def retrieve_eval(caller: Reader, eval_id: str) -> EvalObject:
    with caller.read() as session:
        return shape(find_eval(caller, session, eval_id))


@router.post("/{eval_id}")
def update_eval(caller: Trainer, eval_id: str, body: EvalUpdate) -> EvalObject:
    with caller.write() as session:
        row = find_eval(caller, session, eval_id)
        row.name = row.name if body.name is None else body.name
        row.labels = row.labels if body.metadata is None else body.metadata
        row.updated_at = time.time()
    return shape(row)


@router.delete("/{eval_id}")
def delete_eval(caller: Trainer, eval_id: str) -> DeletedEval:
    """With its runs and their items. A run that is going on ends by itself: nothing is left to write to."""
    with caller.write() as session:
        row = find_eval(caller, session, eval_id)
        runs = select(EvalRun.id).where(EvalRun.eval_id == eval_id)
        session.execute(delete(OutputItem).where(OutputItem.run_id.in_(runs)))
        session.execute(delete(EvalRun).where(EvalRun.eval_id == eval_id))
        session.delete(row)
    return {"object": "eval.deleted", "deleted": True, "eval_id": eval_id}


def find_eval(caller: Caller, session: Session, id: str) -> Eval:
    return caller.find(session, Eval, id, "No such Eval object", param="eval_id")
