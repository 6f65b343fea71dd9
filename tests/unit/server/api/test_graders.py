"""Graders as a client sends them."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import OpenAI

CHECK = {"type": "string_check", "name": "a", "operation": "eq", "input": "x", "reference": "x"}


@pytest.mark.parametrize(
    ("grader", "said"),
    [
        ({"type": "magic", "name": "a"}, "Invalid grader: type: Input tag 'magic'"),
        ({"name": "a"}, "Invalid grader: type: Unable to extract tag"),
        (CHECK | {"operation": "is"}, "Invalid grader: operation: Input should be"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(openai: OpenAI, grader: Any, said: str) -> None:
    with pytest.raises(sdk.BadRequestError) as caught:
        openai.fine_tuning.alpha.graders.validate(grader=grader)
    assert said in caught.value.message
    assert caught.value.code == "invalid_grader"
