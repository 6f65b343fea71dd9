"""Every `auto` becomes a value with a reason; what the user wrote stays."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from residency.config.load import parse_run
from residency.config.model import Lora, ResolvedConfig
from residency.config.resolve import Facts, resolve
from residency.errors import ConfigError, ResourceError

DEMO = Facts(
    hidden_size=576, parameters=134_515_008, context_length=8192, num_rows=1500, longest_row=140, longest_answer=60,
    format="chat", json_references=True, has_eval=True, device="cpu", memory_bytes=20_000_000_000,
    fixed_bytes=600_000_000, bytes_per_token=1_500_000, cpu_cores=2, busy_cores=0.2, bf16_faster=False,
    bf16_reason="fp32 runs 2 times as fast as bf16 here.",
)  # fmt: skip


def resolved(facts: Facts = DEMO, **sections: Any) -> tuple[ResolvedConfig, dict[str, str]]:
    return resolve(parse_run({"model": {"id": "m"}, "data": {"train": "t.jsonl"}} | sections), facts)


def rate(facts: Facts = DEMO, **sections: Any) -> float:
    return resolved(facts, **sections)[0].train.learning_rate


def test_no_auto_is_left_and_each_that_was_has_its_reason() -> None:
    config, reasons = resolved()
    assert "auto" not in config.model_dump_json()
    assert list(reasons) == [
        "data.format", "data.max_length_tokens", "adapter.rank", "train.batch_size", "train.epochs",
        "train.learning_rate", "speed.recompute_layers", "speed.offload", "train.micro_batch_tokens",
        "train.eval_every_steps", "train.save_every_steps", "retention.stop", "retention.anchors",
        "retention.answer_tokens", "retention.budget",
        "retention.replay", "eval.graders", "eval.max_new_tokens", "eval.probes", "speed.precision", "speed.compile",
        "speed.threads",
    ]  # fmt: skip
    assert all(reason.endswith(".") and " " in reason for reason in reasons.values())


def test_what_the_user_wrote_stays_and_needs_no_reason() -> None:
    config, reasons = resolved(train={"epochs": 7, "learning_rate": 1e-3}, adapter={"rank": 5})
    assert (config.train.epochs, config.train.learning_rate, config.adapter.rank) == (7, 1e-3, 5)
    assert not {"train.epochs", "train.learning_rate", "adapter.rank"} & set(reasons)


def test_layers_are_computed_again_only_where_memory_asks_for_it() -> None:
    gpu = replace(DEMO, device="cuda", memory_bytes=80_000_000_000, fixed_bytes=16_000_000_000, layers=32,
                  layer_bytes_per_token=100_000, bytes_per_token=3_300_000)  # fmt: skip
    config, reasons = resolved(gpu)
    assert config.speed.recompute_layers == 0
    assert "all activations kept" in reasons["speed.recompute_layers"]
    config, reasons = resolved(replace(gpu, memory_bytes=30_000_000_000))
    assert config.speed.recompute_layers == 15  # 4096 tokens lack 5.5 GB, a layer saves 0.41, and one is formed again
    assert "15 of 32 layers" in reasons["speed.recompute_layers"]
    need = gpu.fixed_bytes + config.train.micro_batch_tokens * (3_300_000 - 15 * 100_000)
    assert config.train.micro_batch_tokens >= 4096
    assert need <= 0.8 * 30e9


def test_layers_inputs_wait_in_the_hosts_memory_where_computing_all_layers_again_does_not_do() -> None:
    gpu = replace(DEMO, device="cuda", memory_bytes=30_000_000_000, fixed_bytes=23_000_000_000, layers=32,
                  layer_bytes_per_token=90_000, bytes_per_token=3_300_000, input_bytes_per_token=10_000,
                  host_bytes=64_000_000_000)  # fmt: skip
    config, reasons = resolved(gpu)
    assert (config.speed.recompute_layers, config.speed.offload) == (32, True)
    assert "need about 24.7 of 30.0 GB; 1.3 of them" in reasons["speed.offload"]
    config, kept = resolved(gpu, speed={"offload": False})
    assert "speed.offload" not in kept
    config, reasons = resolved(replace(gpu, fixed_bytes=22_200_000_000))
    assert (config.speed.offload, "the layers' inputs fit" in reasons["speed.offload"]) == (False, True)
    config, reasons = resolved(replace(gpu, host_bytes=1_000_000_000))
    assert (config.speed.offload, "the host has no room" in reasons["speed.offload"]) == (False, True)
    assert resolved()[0].speed.offload is False


LONG = {"train": {"max_steps": 2000, "epochs": 10_000}}


@pytest.mark.parametrize(
    ("changes", "own", "on", "why"),
    [
        ({}, {}, False, "On a CPU"),
        ({"device": "cuda", "fused": True}, {}, False, "The fused passes need no compiler."),
        ({"device": "cuda"}, {}, False, "would not get back the time"),
        ({"device": "cuda"}, LONG, True, "2000 steps get back"),
        ({"device": "cuda", "fused": True}, LONG | {"adapter": {"kind": "full"}}, True, "2000 steps get back"),
    ],
)  # fmt: skip
def test_layers_are_compiled_on_a_gpu_where_nothing_is_fused_and_the_run_is_long(
    changes: dict[str, Any], own: dict[str, Any], on: bool, why: str
) -> None:
    config, reasons = resolved(replace(DEMO, **changes), **own)
    assert (config.speed.compile, why in reasons["speed.compile"]) == (on, True)


def test_full_fine_tuning_has_no_rank_to_resolve() -> None:
    assert "adapter.rank" not in resolved(adapter={"kind": "full"})[1]


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"),
    [(1, 8, 10), (50, 8, 10), (300, 8, 3), (499, 8, 3), (600, 16, 3), (1500, 16, 2), (3199, 16, 1), (100_000, 32, 1)],
)
def test_small_data_are_seen_more_often_and_a_hundred_steps_are_the_aim(rows: int, batch: int, epochs: int) -> None:
    config, _ = resolved(replace(DEMO, num_rows=rows))
    assert (config.train.batch_size, config.train.epochs) == (batch, epochs)


def test_a_single_row_is_spoken_of_as_one() -> None:
    _, reasons = resolved(replace(DEMO, num_rows=1, longest_answer=1), train={"epochs": 1, "batch_size": "auto"})
    assert reasons["train.batch_size"].startswith("1 row in steps of 8: 1 step an epoch")
    assert reasons["eval.max_new_tokens"].startswith("The longest reference answer has 1 token;")
    assert "an epoch of 1 step," in reasons["train.eval_every_steps"]
    assert "10 passes over 1 row: 2 steps of 8" in resolved(replace(DEMO, num_rows=1))[1]["train.epochs"]


def test_more_rows_get_a_higher_rank() -> None:
    assert resolved(replace(DEMO, num_rows=5000))[0].adapter.rank == 16
    assert resolved(replace(DEMO, num_rows=5001))[0].adapter.rank == 32


# The learning rate: 4e-4 * (3000 / hidden)^0.6 * (min(rank, 64) / 32)^0.15, at 32 rows a step and 100 steps or more

LONG = {"batch_size": 32, "epochs": 10}


@pytest.mark.parametrize(
    ("hidden", "parameters", "expected"),
    [(576, 0.1e9, 9.7e-4), (2048, 1.2e9, 4.5e-4), (4096, 8e9, 3e-4), (8192, 70e9, 2e-4)],
)
def test_lora_wants_a_lower_rate_in_larger_models(hidden: int, parameters: float, expected: float) -> None:
    assert rate(replace(DEMO, hidden_size=hidden, parameters=int(parameters)), train=LONG) == pytest.approx(expected)


def test_full_fine_tuning_takes_a_tenth() -> None:
    assert rate(train=LONG, adapter={"kind": "full"}) == pytest.approx(rate(train=LONG) / 10, rel=0.05)


def test_few_rows_a_step_lower_the_rate_by_the_square_root() -> None:
    assert rate(train={"batch_size": 8, "epochs": 10}) == pytest.approx(rate(train=LONG) / 2, rel=0.05)


def test_a_short_lora_run_takes_half_as_much_again_and_a_full_one_does_not() -> None:
    short = LONG | {"max_steps": 50}
    assert rate(train=short) == pytest.approx(1.5 * rate(train=LONG), rel=0.05)
    full = {"kind": "full"}
    assert rate(train=short, adapter=full) == rate(train=LONG, adapter=full)


def test_another_alpha_is_made_up_for() -> None:
    assert rate(train=LONG, adapter={"alpha": 16}) == pytest.approx(2 * rate(train=LONG), rel=0.05)


def test_large_models_have_a_cap() -> None:
    assert rate(replace(DEMO, parameters=2_000_000_000), train=LONG, adapter={"alpha": 1}) == 2e-3


def test_other_peft_methods_say_that_their_rate_is_a_heuristic() -> None:
    for kind in ("IA3", "LOHA"):
        config, reasons = resolved(adapter={"kind": "peft", "type": kind})
        assert "heuristic" in reasons["train.learning_rate"]
        assert 1e-4 < config.train.learning_rate < 1e-2


def test_the_reason_holds_the_numbers() -> None:
    reason = resolved()[1]["train.learning_rate"]
    assert reason == (
        "LoRA's rule gives 0.00097 for hidden size 576 and rank 16; x 0.71 for 16 instead of 32 rows per step."
    )


# Lengths, memory, cadence


def test_the_longest_row_sets_the_length_unless_the_context_is_shorter() -> None:
    assert resolved()[0].data.max_length_tokens == 144
    config, reasons = resolved(replace(DEMO, context_length=100))
    assert config.data.max_length_tokens == 100
    assert "100" in reasons["data.max_length_tokens"]
    assert "140" in reasons["data.max_length_tokens"]


@pytest.mark.parametrize(
    ("device", "free", "tokens"),
    [
        ("cpu", 20_000_000_000, 4096),
        ("cpu", 4_000_000_000, 1536),
        ("cpu", 1, 1024),
        ("cuda", 20_000_000_000, 10240),
        ("cuda", 900_000_000_000, 65536),
    ],
)
def test_a_pass_takes_what_the_memory_holds(device: str, free: int, tokens: int) -> None:
    assert resolved(replace(DEMO, device=device, memory_bytes=free))[0].train.micro_batch_tokens == tokens


def test_a_pass_always_holds_the_longest_row() -> None:
    config, reasons = resolved(replace(DEMO, longest_row=5000))
    assert config.train.micro_batch_tokens == 5000
    assert "longest row" in reasons["train.micro_batch_tokens"]


def test_five_measurements_an_epoch_each_with_a_checkpoint() -> None:
    config, _ = resolved()
    assert config.train.eval_every_steps == config.train.save_every_steps == 18
    config, _ = resolved(train={"eval_every_steps": 7})
    assert config.train.save_every_steps == 7
    config, _ = resolved(train={"eval_every_steps": "epoch"})
    assert config.train.save_every_steps == "epoch"


def test_a_multiplier_scales_the_rate_that_auto_comes_to_and_no_other() -> None:
    scaled = {"train": {"learning_rate_multiplier": 0.5}}
    assert rate(**scaled) == pytest.approx(rate() / 2, rel=0.01)
    assert "0.5 times" in resolved(**scaled)[1]["train.learning_rate"]
    assert rate(train={"learning_rate_multiplier": 0.5, "learning_rate": 1e-3}) == 1e-3


def test_without_held_out_rows_checkpoints_are_a_tenth_of_the_run_apart() -> None:
    config, _ = resolved(replace(DEMO, has_eval=False))
    assert (config.train.eval_every_steps, config.train.save_every_steps) == (188, 18)


def test_a_very_short_run_measures_at_its_end() -> None:
    config, _ = resolved(train={"max_steps": 3})
    assert config.train.eval_every_steps == 3


def test_json_answers_are_compared_as_json() -> None:
    assert [grader.type for grader in resolved()[0].eval.graders] == ["json_match"]
    assert [grader.type for grader in resolved(replace(DEMO, json_references=False))[0].eval.graders] == [
        "string_check"
    ]
    assert resolved(method={"name": "pretrain"})[0].eval.graders == []


def test_an_answer_may_be_a_quarter_longer_than_the_longest_reference() -> None:
    assert resolved()[0].eval.max_new_tokens == 91


def test_a_card_asks_about_as_many_rows_as_the_device_has_time_for() -> None:
    numbers = [
        resolved(replace(DEMO, device=device, parameters=parameters))[0].eval.probes
        for device, parameters in (("cpu", 135e6), ("cpu", 1_000_000), ("cpu", 4e9), ("cuda", 8e9))
    ]
    assert numbers == [8, 30, 4, 30]
    assert resolved(method={"name": "pretrain"})[0].eval.probes == 0


@pytest.mark.parametrize(
    ("cores", "load", "threads"), [(2, 0.2, 2), (2, 1.0, 1), (2, 9.0, 1), (8, 3.2, 5), (1, 4.0, 1)]
)
def test_busy_cores_are_left_to_others(cores: int, load: float, threads: int) -> None:
    assert resolved(replace(DEMO, cpu_cores=cores, busy_cores=load))[0].speed.threads == threads


def test_precision_is_what_was_measured() -> None:
    assert resolved()[0].speed.precision == "fp32"
    config, reasons = resolved(replace(DEMO, bf16_faster=True, bf16_reason="The GPU has bf16."))
    assert (config.speed.precision, reasons["speed.precision"]) == ("bf16", "The GPU has bf16.")


def test_configuration_needs_no_torch() -> None:
    modules = "residency.config.load, residency.config.resolve"
    program = f"import sys, {modules}; print({{'torch', 'transformers'}} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"


SIZES = {"full": 16_000_000_000, "lora": 3_000_000_000, "qlora": 1_500_000_000}


@pytest.mark.parametrize(
    ("changes", "kind", "why"),
    [
        ({"parameters": 134_515_008}, "full", "models under 0.5B"),
        ({"num_rows": 30_000}, "full", "30000 rows are more than LoRA's capacity"),
        ({}, "lora", "LoRA has the capacity for 1,500 rows"),
        ({"memory_bytes": 8_000_000_000}, "lora", "full fine-tuning does not fit"),
        ({"memory_bytes": 4_500_000_000}, "qlora", "only a base held in 4 bits fits"),
    ],
)
def test_the_adapter_follows_from_memory_size_and_data(changes: dict[str, Any], kind: str, why: str) -> None:
    facts = replace(DEMO, **{"parameters": 10**9, "memory_bytes": 40_000_000_000, "fixed_bytes_of": SIZES} | changes)
    config, reasons = resolved(facts, adapter={"kind": "auto", "alpha": 16})
    assert config.adapter.kind == kind
    assert why in reasons["adapter.kind"]
    assert "full fine-tuning needs 17.5, LoRA 4.5, QLoRA 3.0 of" in reasons["adapter.kind"]
    if isinstance(config.adapter, Lora):
        assert config.adapter.alpha == 16


def test_what_a_pass_may_hold_follows_from_the_kind_that_was_chosen() -> None:
    facts = replace(DEMO, parameters=10**9, fixed_bytes=0, fixed_bytes_of=SIZES, memory_bytes=8_000_000_000,
                    bytes_per_token=3_300_000, layers=32, layer_bytes_per_token=100_000)  # fmt: skip
    config, reasons = resolved(facts, adapter={"kind": "auto"})
    assert config.adapter.kind == "lora"
    assert "need about 6.4 of 8.0 GB" in reasons["speed.recompute_layers"]
    assert config.train.micro_batch_tokens == 1024  # 3.4 of 6.4 GB are left beside LoRA's 3.0


def test_where_nothing_fits_the_need_is_said() -> None:
    with pytest.raises(ResourceError, match=r"QLoRA 3\.0 of 2\.0 GB"):
        resolved(replace(DEMO, memory_bytes=2_000_000_000, fixed_bytes_of=SIZES), adapter={"kind": "auto"})


def test_a_search_without_held_out_rows_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match="held-out rows"):
        resolved(replace(DEMO, has_eval=False), train={"learning_rate": "search"})
    assert resolved(train={"learning_rate": "search"})[0].train.learning_rate == "search"
