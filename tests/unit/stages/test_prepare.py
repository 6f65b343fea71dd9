"""A run's data are audited once: what was decided by the audit is kept in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Never

import pytest

from residency.config.model import RunConfig
from residency.errors import DataError, RunError
from residency.records import RunFolder
from residency.stages import prepare as preparing
from residency.stages.prepare import Prepared, prepare
from residency.stages.survey import estimate
from tests.e2e.tiny import make_model_folder, write_rows

SENTENCES = ("the old clock in the hall of the house by the sea strikes {} at noon",
             "a parcel from the town on the other side of the lake came on day {}",
             "nobody in the whole village remembers who planted tree {} on the hill")  # fmt: skip


def near_copies(count: int) -> list[dict[str, object]]:
    """`count` stories, each told twice but for a filler word."""
    return [
        {"messages": [{"role": "user", "content": f"{start} {SENTENCES[n % 3].format(n)}"},
                      {"role": "assistant", "content": f"story {n}"}]}
        for n in range(count) for start in ("tell me that", "please tell me that")
    ]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig.model_validate({
        "name": "tiny",
        "model": {"id": str(make_model_folder(tmp_path / "model"))},
        "data": {"train": str(write_rows(tmp_path / "train.jsonl", near_copies(20))), "eval": "20%"},
        "train": {"learning_rate": 1e-3},
    })  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def lines(prepared: Prepared) -> tuple[list[int], list[int]]:
    return [row.origin.line for row in prepared.rows], [row.origin.line for row in prepared.held_out]


def forbid_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> Never:
        raise AssertionError("the data were audited again")

    monkeypatch.setattr(preparing, "audit", forbidden)


def test_near_copies_are_held_out_together(config: RunConfig, run: RunFolder) -> None:
    trained, held_out = lines(prepare(config, run))
    assert len(held_out) == 8
    assert not {(line + 1) // 2 for line in trained} & {(line + 1) // 2 for line in held_out}


def test_a_resumed_run_holds_the_same_rows_out_and_audits_nothing(
    config: RunConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lines(prepare(config, run))
    forbid_audits(monkeypatch)
    assert lines(prepare(config, run)) == first


def test_a_resumed_run_refuses_other_data_before_it_audits_them(
    config: RunConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(config, run)
    forbid_audits(monkeypatch)
    write_rows(Path(config.data.train), near_copies(19))
    with pytest.raises(RunError, match="the data have changed since the run began"):
        prepare(config, run)


def test_an_estimate_needs_no_audit(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_audits(monkeypatch)
    assert estimate(config).steps > 0


def test_strict_refuses_warnings(config: RunConfig, run: RunFolder) -> None:
    strict = config.model_copy(update={"data": config.data.model_copy(update={"strict": True})})
    with pytest.raises(DataError) as refused:
        prepare(strict, run)
    assert any(problem.startswith("near_duplicates: ") for problem in refused.value.problems)


def test_a_run_that_began_before_layers_were_compiled_is_read_as_it_was(config: RunConfig, run: RunFolder) -> None:
    resolved = prepare(config, run).resolved
    stored = json.loads((run / "resolved.json").read_text())
    for key in ("compile", "offload"):
        del stored["config"]["speed"][key]
    (run / "resolved.json").write_text(json.dumps(stored))
    assert preparing.read_resolved(run)[0] == resolved
