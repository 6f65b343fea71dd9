"""A run file is read as it is meant, and everything wrong with it is said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from residency.config.load import field_paths, json_schema, load_run, parse_run
from residency.errors import ConfigError

MINIMAL = "model: {id: smollm2-135m}\ndata: {train: train.jsonl}\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(values: dict[str, Any]) -> list[str]:
    minimal = {"model": {"id": "m"}, "data": {"train": "t.jsonl"}}
    with pytest.raises(ConfigError) as caught:
        parse_run(minimal | values)
    return caught.value.problems


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


# What is accepted


def test_two_keys_are_enough(tmp_path: Path) -> None:
    config = load_run(write(tmp_path, MINIMAL))
    assert config.model.id == "smollm2-135m"
    assert config.train.learning_rate == "auto"
    assert config.adapter.kind == "lora"


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.0e-4", "0.0001", ".0001", "'1e-4'"])
def test_a_number_is_a_number_however_it_is_written(tmp_path: Path, number: str) -> None:
    config = load_run(write(tmp_path, f"{MINIMAL}train: {{learning_rate: {number}}}"))
    assert config.train.learning_rate == 1e-4


def test_a_name_may_be_a_word_that_old_yaml_takes_for_something_else(tmp_path: Path) -> None:
    for word in ("no", "on", "1_000", "2026-11-22", "12:30:45"):
        text = f"{MINIMAL}eval: {{more_tests: {{{word}: hub:x}}}}"
        assert list(load_run(write(tmp_path, text)).eval.more_tests) == [word]


def test_yes_and_no_still_switch(tmp_path: Path) -> None:
    assert load_run(write(tmp_path, f"{MINIMAL}speed: {{packing: no}}")).speed.packing is False


def test_an_adapter_without_a_kind_is_lora_and_a_method_without_a_name_is_sft() -> None:
    config = parse_run({"model": {"id": "m"}, "data": {"train": "t"}, "adapter": {"rank": 4}, "method": {}})
    assert (config.adapter.kind, config.adapter.rank, config.method.name) == ("lora", 4, "sft")


def test_what_is_accepted_can_be_written_and_read_again(tmp_path: Path) -> None:
    text = f"{MINIMAL}name: 'no'\ntrain: {{learning_rate: 1e-5}}\neval: {{graders: [{{type: json_match}}]}}"
    config = load_run(write(tmp_path, text))
    assert load_run(write(tmp_path, yaml.safe_dump(config.model_dump(mode="json")))) == config


# Overrides


def test_overrides_go_over_the_file_and_are_yaml_values(tmp_path: Path) -> None:
    path = write(tmp_path, f"{MINIMAL}train: {{epochs: 2, seed: 5}}")
    config = load_run(
        path, ["train.epochs=1", "adapter.targets=[q_proj, v_proj]", "data.eval=null", "train.learning_rate=2e-3"]
    )
    assert (config.train.epochs, config.train.seed, config.train.learning_rate) == (1, 5, 2e-3)
    assert config.adapter.kind == "lora"
    assert config.adapter.targets == ["q_proj", "v_proj"]
    assert config.data.eval is None


def test_a_wrong_override_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert "path=value" in refusal(path, "train.epochs")
    assert "path=value" in refusal(path, "train..epochs=1")
    assert "did you mean train.epochs?" in refusal(path, "train.epoch=1")
    assert "train: must be a section of keys (got 3)" in refusal(path, "train=3")
    assert "--set train.epochs=[1" in refusal(path, "train.epochs=[1")


# Paths


def test_paths_are_meant_from_the_run_files_folder(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "mine.jinja").touch()
    text = """
model: {id: my-model, chat_template: mine.jinja}
data: {train: train.jsonl, eval: ../eval.jsonl, test: /elsewhere/test.jsonl}
eval: {more_tests: {unseen: unseen.jsonl}}
"""
    config = load_run(write(tmp_path, text))
    assert config.model.id == str(tmp_path / "my-model")
    assert config.model.chat_template == str(tmp_path / "mine.jinja")
    assert config.data.train == str(tmp_path / "train.jsonl")
    assert config.data.eval == str(tmp_path.parent / "eval.jsonl")
    assert config.data.test == "/elsewhere/test.jsonl"
    assert config.eval.more_tests == {"unseen": str(tmp_path / "unseen.jsonl")}


def test_names_that_are_no_paths_stay_as_they_are(tmp_path: Path) -> None:
    text = """
model: {id: Qwen/Qwen3-4B, chat_template: chatml}
data: {train: "hub:org/rows:train", eval: 5 %, test: "hub:org/rows:test"}
"""
    config = load_run(write(tmp_path, text))
    assert (config.model.id, config.model.chat_template) == ("Qwen/Qwen3-4B", "chatml")
    assert (config.data.train, config.data.eval, config.data.test) == ("hub:org/rows:train", "5 %", "hub:org/rows:test")


def test_paths_in_overrides_are_meant_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    config = load_run(write(tmp_path / "runs", MINIMAL), ["data.test=test.jsonl"])
    assert config.data.train == str(tmp_path / "runs" / "train.jsonl")
    assert config.data.test == str(tmp_path / "test.jsonl")


# What is refused


def test_all_problems_are_shown_together_each_with_its_path_and_what_to_do() -> None:
    values = {
        "name": "a b",
        "modle": {},
        "train": {"learning_rte": 1, "epochs": -1, "batch_size": "abc", "schedule": "lin", "seed": 1.5},
        "adapter": {"kind": "lroa"},
        "speed": [1],
        "eval": {"graders": [{"type": "string_check", "operation": "x"}, {"type": "foo"}, {}, {"type": "python"}]},
    }
    assert problems(values) == [
        "name: must be letters, digits, '.', '_' and '-' only, 100 at most, the first a letter or digit (got 'a b')",
        "adapter.kind: must be one of lora, qlora, auto, full, peft (got 'lroa'); did you mean lora?",
        "train.epochs: must be greater than 0, or auto (got -1)",
        "train.batch_size: must be a whole number, or auto (got 'abc')",
        "train.schedule: must be linear, cosine, constant or wsd (got 'lin')",
        "train.seed: must be a whole number (got 1.5)",
        "train.learning_rte: unknown key; did you mean train.learning_rate?",
        "eval.graders.0.operation: must be eq, ne, like or ilike (got 'x')",
        "eval.graders.1.type: must be one of string_check, text_similarity, json_match, python, score_model, "
        "label_model, multi (got 'foo')",
        "eval.graders.2.type: is required; add it",
        "eval.graders.3.source: is required; add it",
        "speed: must be a section of keys (got a list)",
        "modle: unknown key; did you mean model?",
    ]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model": {}}, "model.id: is required; add it"),
        ({"model": {"id": ""}}, "model.id: must be text, not empty (got '')"),
        ({"model": "smollm2-135m"}, "model: must be a section of keys (got 'smollm2-135m')"),
        ({"data": {"train": None}}, "data.train: must be text (got null)"),
        ({"data": {"train": "t", "eval": 0.1}}, "data.eval: must be text (got 0.1; put it in quotes)"),
        ({"train": {"seed": True}}, "train.seed: must be a number (got true)"),
        ({"train": {"max_grad_norm": float("inf")}}, "train.max_grad_norm: must be a finite number (got inf)"),
        ({"train": {"warmup_share": 1}}, "train.warmup_share: must be less than 1 (got 1)"),
        ({"adapter": {"kind": "peft", "type": "IA3", "rank": 8}},
         "adapter.rank: does not apply to this kind of adapter; leave it out"),
        ({"adapter": {"targets": 3}}, "adapter.targets: must be text, or a list (got 3)"),
        ({"learning_rate": 1}, "learning_rate: unknown key; did you mean train.learning_rate?"),
        ({"train": {"rank": 8}}, "train.rank: unknown key; did you mean adapter.rank?"),
        ({"model": {"id": "m", "zz": 1}},
         "model.zz: unknown key; known here: chat_template, id, revision, trust_remote_code"),
        ({"method": {"name": "dpo2"}}, "method.name: must be one of sft, pretrain (got 'dpo2')"),
        (
            {"method": {"name": "kto", "beta": 0.1}},
            "method.name: must be one of sft, pretrain (got 'kto'); preference training (DPO and its kin) begins with "
            "Residency 0.2",
        ),
        (
            {"method": {"name": "GRPO"}},
            "method.name: must be one of sft, pretrain (got 'GRPO'); reinforcement begins with Residency 0.3",
        ),
        ({"data": {"train": 5, "test": ["x" * 99]}}, "data.test: must be text (got a list)"),
        ({"train": {"schedule": "x" * 99}},
         f"train.schedule: must be linear, cosine, constant or wsd (got '{'x' * 56}...)"),
    ],
)  # fmt: skip
def test_a_problem_is_one_readable_line(values: dict[str, Any], problem: str) -> None:
    assert problem in problems(values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("just words", "holds a single value"),
        ("model: {id: x\ndata: y", "line 2, column"),
        ("model: {id: x}\n\tdata: y", "line 2, column 1"),
        ("model: {id: x}\nmodel: {id: y}", "line 2, column 1: the key 'model' is repeated"),
        ("1: x", "line 1, column 1: the key '1' is not text"),
        ("model: !!python/object/apply:os.system [ls]", "line 1, column 8"),
        ("a: &a [x, x]\nb: &b [*a, *a]", "line 2, column 8: aliases (*a) are not used here"),
        ("a: {<<: {x: 1}}", "unknown key"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        (b"model: {id: caf\xe9}", "not UTF-8 text (byte 16)"),
        (b"name: a\x00b", "not valid YAML"),
        ("x" * 1_100_000, "too large for a run file"),
    ],
)
def test_what_is_no_run_file_is_refused_with_the_place(tmp_path: Path, text: str | bytes, said: str) -> None:
    message = refusal(write(tmp_path, text))
    assert said in message
    assert "run.yaml" in message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "none.yaml")
    assert "there is no file" in refusal(tmp_path / "none.jsonl")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert "holds rows and is no run file\nhint: write a YAML file that names it" in refusal(tmp_path / "rows.jsonl")
    assert "is a folder" in refusal(tmp_path)


JUNK: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**400,
    float("nan"),
    "",
    "x" * 300,
    [],
    [[]],
    [None],
    {},
    {"": 1},
    {1: 2},
    b"x",
]


@pytest.mark.parametrize("path", field_paths())
def test_any_value_at_any_key_is_accepted_or_refused_by_its_path(path: str) -> None:
    section, _, key = path.partition(".")
    for junk in JUNK:
        values: dict[str, Any] = {"model": {"id": "m"}, "data": {"train": "t"}}
        values[section] = values.get(section, {}) | {key: junk} if key else junk
        assert all(problem.startswith(section) for problem in all_problems(values))


def all_problems(values: dict[str, Any]) -> list[str]:
    try:
        parse_run(values)
    except ConfigError as error:
        return error.problems
    return []


# The surface


def test_the_schema_explains_every_key() -> None:
    schema = json_schema()
    train = next(part for name, part in schema["$defs"].items() if name.startswith("Train"))
    assert all(field.get("description") for field in train["properties"].values())
