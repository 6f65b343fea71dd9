"""Eval runs as a client makes them; here no worker carries them out."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import OpenAI


@pytest.fixture
def measured(openai: OpenAI) -> str:
    exact: Any = {"type": "string_check", "name": "exact", "operation": "eq", "input": "{{ sample.output_text }}",
                  "reference": "{{ item.answer }}"}  # fmt: skip
    return openai.evals.create(data_source_config={"type": "custom", "item_schema": {}}, testing_criteria=[exact]).id


@pytest.mark.parametrize(
    "source",
    [
        {"type": "file_content", "id": "file-1"},
        {"type": "file_id", "content": [{"item": {}}]},
        {"type": "file_content"},
    ],
)
def test_a_run_whose_rows_are_nowhere_is_refused_when_it_is_made(
    openai: OpenAI, measured: str, source: dict[str, Any]
) -> None:
    data: Any = {"type": "jsonl", "source": source}
    with pytest.raises(sdk.BadRequestError, match="`file_content` with `content`, or `file_id` with `id`") as caught:
        openai.evals.runs.create(measured, data_source=data)
    assert caught.value.param == "data_source.source"
