"""The run file's speed section arrives in the engine, and what became of it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from residency.config.load import parse_run
from residency.config.resolve import Facts, resolve
from residency.engine.adapters import ADAPTER, peft_config
from residency.engine.compiled import Compilation
from residency.records import RunFolder
from residency.stages.model import new_engine, save_result, say_compiled, say_speed
from tests.conftest import tiny_llama

FACTS = Facts(
    hidden_size=64, parameters=100_000, context_length=512, num_rows=100, longest_row=40, longest_answer=20,
    format="chat", json_references=True, has_eval=True, device="cpu", memory_bytes=2_000_000_000,
    fixed_bytes=1_000_000, bytes_per_token=10_000, cpu_cores=1, busy_cores=0.0, bf16_faster=False, bf16_reason="so.",
)  # fmt: skip


@pytest.mark.parametrize(
    ("speed", "level", "said"),
    [
        ({}, "info", "fused off (transformers' passes serve a CPU as well), fp8 off (not asked for)"),
        ({"fused": False}, "info", "fused off (switched off)"),
        ({"fp8": True}, "warning", "fp8 off (needs the fused passes)"),
    ],
)
def test_a_speed_up_that_is_not_used_says_why(speed: dict[str, bool], level: str, said: str, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"model": {"id": "m"}, "data": {"train": "t.jsonl"}, "speed": speed}
    resolved, _ = resolve(parse_run(sections), FACTS)
    run = RunFolder(tmp_path)
    model = tiny_llama()
    model.name_or_path = "tiny"
    engine = new_engine(model, resolved, None, run)
    engine.add_adapter(ADAPTER, peft_config(resolved.adapter, "tiny"))
    say_speed(engine, resolved, run)
    [event] = run.events()
    assert (event.kind, event.level) == ("speed", level)
    assert said in event.message


class NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        pass


def test_saving_all_weights_draws_no_bar_of_the_librarys(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sections: dict[str, Any] = {"model": {"id": "m"}, "data": {"train": "t.jsonl"}, "adapter": {"kind": "full"}}
    resolved, _ = resolve(parse_run(sections), FACTS)
    engine = new_engine(tiny_llama(), resolved, None, RunFolder(tmp_path))
    save_result(engine, "full", NoTokenizer(), resolved, RunFolder(tmp_path))
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert "Writing" not in capfd.readouterr().err


def test_what_became_of_compiled_layers_is_said(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    say_compiled(run, Compilation(96, 1.5, 1e-6, 2e-5, None))
    say_compiled(run, Compilation(128, 0.5, None, None, "RuntimeError: no"))
    used, dropped = run.events()
    assert (used.kind, used.level) == ("compiled", "info")
    assert "passes of 96 tokens in 1.5 s" in used.message
    assert "no gradient by more than 2.0e-05" in used.message
    assert (dropped.kind, dropped.level) == ("compile_dropped", "warning")
    assert "RuntimeError: no; training goes on uncompiled" in dropped.message
