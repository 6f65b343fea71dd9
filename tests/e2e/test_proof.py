"""What a run says of itself when it ends: what was forgotten, at which scale less, and whether to ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from residency.records import RetentionResult, RunFolder, ScaleResult, Verdict
from tests.e2e.conftest import residency, write_run
from tests.e2e.tiny import rows, write_rows

ADAPTERS = {"lora": {"kind": "lora", "rank": 4}, "full": {"kind": "full"}}


def train(project: Path, model: Path, *options: str, **sections: object) -> RunFolder:
    settings = {"max_steps": 12, "batch_size": 8, "learning_rate": 0.01, "eval_every_steps": 4}
    data = {"train": "train.jsonl", "test": "test.jsonl"}
    # What `auto` measures of a busy machine would make two runs differ.
    speed = {"precision": "fp32", "threads": 1}
    sections = {"eval": {"probes": 0}} | sections  # tests/e2e/test_card.py has the card
    write_run(project / "run.yaml", model={"id": str(model)}, data=data, train=settings, speed=speed, **sections)
    outcome = residency("train", "run.yaml", *options)
    assert outcome.exit_code in (0, 9), outcome.stderr
    return RunFolder(max((project / "runs").iterdir(), key=lambda path: path.stat().st_mtime))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_run_measures_forgetting_before_during_and_after(project: Path, tiny_model: Path, adapter: str) -> None:
    run = train(project, tiny_model, adapter=ADAPTERS[adapter], retention={"anchors": 20, "must_keep": ["red 1000000"]})
    found = run.read("retention.json", RetentionResult)
    assert set(found.divergences) == {"anchors", "task", "must_keep"}
    assert found.divergences["anchors"].value > 0.001
    watched = [metric for metric in run.metrics() if metric.split == "anchors"]
    assert [metric.step for metric in watched] == [0, 4, 8, 12]
    assert abs(watched[0].loss) < 1e-3 < watched[-1].loss
    page = (run / "report.html").read_text()
    assert "What was forgotten" in page
    verdict = run.read("verdict.json", Verdict)
    assert verdict.sentence.split(":")[0] in page
    assert run.read("scale.json", ScaleResult).points[-1].scale == 1.0


def test_replay_is_on_for_lora_and_lowers_forgetting(project: Path, tiny_model: Path) -> None:
    forgotten = {}
    for replay in ("auto", False):
        run = train(project, tiny_model, retention={"anchors": 20, "replay": replay})
        forgotten[replay] = run.read("retention.json", RetentionResult).divergences["anchors"].value
        assert any(metric.split == "replay" for metric in run.metrics()) == (replay == "auto")
    assert forgotten["auto"] < 0.7 * forgotten[False]


def test_a_budget_of_ones_own_stops_the_training(project: Path, tiny_model: Path) -> None:
    run = train(project, tiny_model, retention={"anchors": 20, "replay": False, "budget": 1e-4})
    assert any(event.kind == "over_budget" for event in run.events())
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped_early"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_scale_that_is_taken_is_in_the_weights_that_are_saved(project: Path, tiny_model: Path, adapter: str) -> None:
    base = load_file(tiny_model / "model.safetensors")
    changes = {}
    for scale in ("propose", "take"):
        whole = train(project, tiny_model, adapter=ADAPTERS[adapter], retention={"anchors": 20, "replay": False})
        budget = whole.read("retention.json", RetentionResult).divergences["anchors"].value / 3
        run = train(project, tiny_model, adapter=ADAPTERS[adapter], retention={
            "anchors": 20, "replay": False, "budget": budget, "stop": False, "scale": scale,
        })  # fmt: skip
        found = run.read("scale.json", ScaleResult)
        assert found.proposed is not None
        assert found.proposed < 1
        assert found.taken == (scale == "take")
        inside = run.read("retention.json", RetentionResult).divergences["anchors"].value <= budget * 1.1
        assert inside == (scale == "take")
        file = run / ("adapter/adapter_model.safetensors" if adapter == "lora" else "model/model.safetensors")
        tensors = load_file(file)
        key = next(name for name in tensors if "lora_B" in name or name.endswith("q_proj.weight"))
        changes[scale] = tensors[key] - (base[key] if adapter == "full" else 0)
    assert changes["take"].norm().item() == pytest.approx(found.proposed * changes["propose"].norm().item(), rel=1e-3)


def test_the_gate_fails_with_its_own_exit_code_and_json_says_why(project: Path, tiny_model: Path) -> None:
    data, settings = {"train": "train.jsonl", "test": "test.jsonl"}, {"max_steps": 1, "learning_rate": 1e-6}
    write_run(project / "run.yaml", model={"id": str(tiny_model)}, data=data, train=settings, retention={"anchors": 8})
    outcome = residency("train", "run.yaml", "--gate", "--json")
    assert outcome.exit_code == 9
    assert outcome.json["verdict"]["passed"] is False
    assert outcome.json["verdict"]["sentence"].startswith("Do not ship: no gain could be shown")
    assert outcome.json["retention"]["divergences"]["anchors"]["value"] < 0.01
    assert residency("train", "run.yaml").exit_code == 0


def test_anchors_of_the_task_are_left_out_and_that_is_said(project: Path, tiny_model: Path) -> None:
    own = {"role": "user", "content": "Why is the sky dark at night even though there are so many stars?"}
    more = [{"messages": [own, {"role": "assistant", "content": "fire"}]}]
    write_rows(project / "train.jsonl", rows(40) + more)
    run = train(project, tiny_model, retention={"anchors": 8})
    assert run.read("retention.json", RetentionResult).left_out == [own["content"]]
    assert "no anchors, because they share words with the task: 1 general prompt" in (run / "report.html").read_text()
    assert any(event.kind == "anchors_left_out" for event in run.events())


def test_general_text_gets_a_perplexity_ratio(project: Path, tiny_model: Path) -> None:
    (project / "text.txt").write_text("the grass is green and the sky is blue. " * 300)
    run = train(project, tiny_model, retention={"anchors": 8, "general_text": "text.txt"})
    ratio = run.read("retention.json", RetentionResult).perplexity_ratio
    assert ratio is not None
    assert ratio.value > 0
    assert "Perplexity of the general text" in (run / "report.html").read_text()


def test_no_anchors_no_measurement(project: Path, tiny_model: Path) -> None:
    run = train(project, tiny_model, retention={"anchors": 0})
    assert not (run / "retention.json").exists()
    assert not any(metric.split in ("anchors", "replay") for metric in run.metrics())


def test_a_run_from_before_forgetting_was_measured_goes_on_without(project: Path, tiny_model: Path) -> None:
    run = train(project, tiny_model, retention={"anchors": 0})
    stored = json.loads((run / "resolved.json").read_text())
    del stored["config"]["retention"]
    (run / "resolved.json").write_text(json.dumps(stored))
    for name in ("summary.json", "verdict.json"):
        (run / name).unlink()
    outcome = residency("train", "run.yaml", "--resume")
    assert outcome.exit_code == 0, outcome.stderr
    assert not (run / "retention.json").exists()


def test_canaries_are_trained_on_measured_and_said(project: Path, tiny_model: Path) -> None:
    run = train(project, tiny_model, retention={"anchors": 8, "canaries": 4})
    exposure = run.read("retention.json", RetentionResult).exposure
    assert exposure is not None
    assert exposure.after.n == 4
    assert "Canaries: an exposure of" in (run / "report.html").read_text()
    assert json.loads((run / "summary.json").read_text())["rows"]["canaries"] == 4
    assert any(event.kind == "canaries" for event in run.events())
