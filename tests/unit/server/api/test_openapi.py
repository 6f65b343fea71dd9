"""The served OpenAPI document, and what random requests made from it can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from residency.server.api.app import build
from residency.server.settings import Settings
from tests.unit.server.serving import raw, served


@pytest.fixture(scope="module")
def open_app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return build(Settings(home=Path(tmp_path_factory.mktemp("open")), conformance_fixtures=True))


@pytest.fixture(scope="module")
def open_url(open_app: FastAPI) -> Iterator[str]:
    with served(open_app) as address:
        yield address


@pytest.fixture
def document(open_url: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{open_url}/openapi.json")


def test_the_document_is_served_and_names_every_operation_once(open_url: str) -> None:
    with raw(open_url) as http:
        found = http.get("/openapi.json").json()
    names = [one["operationId"] for path in found["paths"].values() for one in path.values()]
    assert found["openapi"].startswith("3.1")
    assert len(names) == len(set(names)) > 40


HEALTH = list(HealthCheck)


def attack(document: schemathesis.BaseSchema, examples: int, checks: list[Any]) -> None:
    """Random requests to each operation, valid and not."""
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                  suppress_health_check=HEALTH)  # fmt: skip
        @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        def send(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=checks)

        send()


def test_no_request_is_a_server_error_and_every_answer_is_as_documented(document: schemathesis.BaseSchema) -> None:
    attack(document, 5, [not_a_server_error, response_schema_conformance])


@pytest.mark.slow
def test_no_request_of_very_many_is_a_server_error(document: schemathesis.BaseSchema) -> None:
    attack(document, 200, [not_a_server_error])
