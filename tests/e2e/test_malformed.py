"""Whatever is wrong with the input: one error that names the culprit, its exit code, and nothing done in silence.

Each table maps what a user got wrong to what the command line says of it (a regular expression).
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.e2e.conftest import Outcome, residency, write_run
from tests.e2e.tiny import rows, write_rows

GOOD = json.dumps(rows(1)[0])
USER = {"role": "user", "content": "red"}
ANSWER = {"role": "assistant", "content": "fire"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def chat(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": list(messages), **more})


def assert_refused(outcome: Outcome, exit_code: int, says: str) -> None:
    """One error, in our words, that names the culprit; no answer beside it."""
    assert outcome.exit_code == exit_code, outcome.stderr
    assert re.search(says, outcome.stderr), outcome.stderr
    assert outcome.stderr.count("error: ") == 1
    assert "Traceback" not in outcome.stderr
    assert "bug" not in outcome.stderr
    assert outcome.stdout == ""


def assert_nothing_trained() -> None:
    assert not list(Path("runs").glob("*/adapter")) + list(Path("runs").glob("*/metrics.jsonl"))


# ---- rows: `residency train` on a file whose second of three rows is bad (exit 3)

ROWS: dict[str, tuple[str | bytes, str]] = {
    "cut off": (GOOD[:30], "is not valid JSON: .* at column"),
    "cut off in a string": (GOOD[:-8], "is not valid JSON"),
    "two objects on a line": (GOOD + GOOD, "more text after the value"),
    "a trailing comma": ('{"messages": [],}', "is not valid JSON"),
    "Python's quotes": ("{'messages': []}", "is not valid JSON"),
    "NaN": ('{"messages": NaN}', "contains NaN"),
    "Infinity": ('{"messages": [], "score": -Infinity}', "contains -Infinity"),
    "too large a number": ('{"messages": [], "score": 1e999}', "too large"),
    "a key twice": ('{"messages": [], "messages": []}', '"messages" twice'),
    "half a character": ('{"text": "\\ud83d"}', "half of a surrogate pair"),
    "nested too deeply": ('{"messages": ' + "[" * 100_000, "nested too deeply"),
    "a list": ("[1, 2]", "is a list; expected an object"),
    "a number": ("17", "is a number; expected an object"),
    "null": ("null", "is null; expected an object"),
    "latin-1": ('{"text": "caf\xe9"}'.encode("latin-1"), "is not UTF-8"),
    "a null byte": (b'{"text": "a\0b"}', "contains a null byte"),
    "a line of more than 10 MB": (b'{"text": "' + b"x" * 10_000_001 + b'"}', "longer than 10 MB"),
    "no keys": ("{}", "no known format"),
    "misspelt keys": ('{"mesages": []}', "no known format .*mesages"),
    "another format": ('{"prompt": "a", "completion": "b"}', "format prompt_completion, but the rows before"),
    "messages as text": ('{"messages": "hello"}', "messages is text; expected a list"),
    "messages as an object": ('{"messages": {"role": "user"}}', "messages is an object; expected a list"),
    "no messages": (chat(), "has no messages"),
    "null for a message": (chat(USER, None), r"messages\[1\] is null"),
    "a message as text": (chat("hi", ANSWER), r"messages\[0\] is text"),
    "no role": (chat({"content": "a"}, ANSWER), r"messages\[0\] has no role"),
    "a wrong role": (chat(USER, {"role": "bot", "content": "b"}), r'messages\[1\].role is "bot"; expected'),
    "a role as a number": (chat({"role": 1, "content": "a"}, ANSWER), r"messages\[0\].role is a number"),
    "null content": (chat({"role": "user", "content": None}, ANSWER), r"messages\[0\].content is null"),
    "no content": (chat({"role": "user"}, ANSWER), r"messages\[0\].content is missing"),
    "content as a number": (chat({"role": "user", "content": 3}, ANSWER), r"messages\[0\].content is a number"),
    "an image": (
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER),
        "only text",
    ),
    "an empty answer": (chat(USER, {"role": "assistant", "content": " "}), r"messages\[1\].content is empty"),
    "a null answer": (chat(USER, {"role": "assistant", "content": None}), r"messages\[1\].content is null"),
    "no answer": (chat(USER), "no assistant turn"),
    "a question last": (chat(USER, ANSWER, USER), "is the last turn and of role user"),
    "a late system text": (chat(USER, {"role": "system", "content": "s"}, ANSWER), "only the first"),
    "an unknown key": (chat(USER, {**ANSWER, "mood": "good"}), 'the unknown key "mood"'),
    "weight 2": (chat(USER, {**ANSWER, "weight": 2}), "weight is 2; expected 0 or 1"),
    "weight 0 everywhere": (chat(USER, {**ANSWER, "weight": 0}), "weight 0 on every assistant turn"),
    "a weight on a question": (chat({**USER, "weight": 1}, ANSWER), "weight stands on a user message"),
    "a tool's answer to no call": (chat(USER, {"role": "tool", "content": "x"}, ANSWER), r"messages\[1\] is a tool"),
    "a tool's answer to another call": (
        chat(USER, CALLING, {"role": "tool", "tool_call_id": "c2", "content": "x"}, ANSWER),
        'tool_call_id is "c2"',
    ),
    "a call with broken arguments": (
        chat(USER, {**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
        "arguments is not valid JSON",
    ),
    "tools as an object": (chat(USER, ANSWER, tools={}), "tools is an object; expected a list"),
}  # fmt: skip


@pytest.mark.parametrize("what", ROWS)
def test_a_bad_row(what: str, project: Path) -> None:
    line, says = ROWS[what]
    content = line if isinstance(line, bytes) else line.encode()
    Path("train.jsonl").write_bytes(b"\n".join([GOOD.encode(), content, GOOD.encode()]))
    outcome = residency("train", "run.yaml")
    assert_refused(outcome, 3, rf"train.jsonl:2: .*{says}")
    assert "error: 1 of 3 rows" in outcome.stderr
    assert_nothing_trained()


def test_every_bad_row_is_named_in_one_message(project: Path) -> None:
    write_rows(project / "train.jsonl", [*rows(2), {"messages": []}, *rows(1), {"text": 1}, {"messages": "x"}])
    outcome = residency("train", "run.yaml")
    assert_refused(outcome, 3, "3 of 6 rows")
    assert re.findall(r"train.jsonl:(\d)", outcome.stderr) == ["3", "5", "6"]


# ---- files: `residency check FILE` (exit 3)

FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("data.jsonl", None, "data.jsonl does not exist"),
    "empty": ("data.jsonl", b"", "data.jsonl is empty"),
    "blank lines only": ("data.jsonl", b"\n \n", "data.jsonl is empty"),
    "UTF-16": ("data.jsonl", GOOD.encode("utf-16"), "data.jsonl:1: is UTF-16"),
    "a binary file": ("data.jsonl", bytes(range(256)) * 4, "data.jsonl:1: "),
    "gzip named JSONL": ("data.jsonl", gzip.compress(GOOD.encode()), "data.jsonl:1: is not UTF-8|null byte"),
    "gzip": ("data.jsonl.gz", gzip.compress(GOOD.encode()), "unknown ending '.gz'"),
    "a spreadsheet": ("data.xlsx", b"PK", "unknown ending '.xlsx'"),
    "no ending": ("data", GOOD.encode(), "has no ending"),
    "a JSON array named JSONL": ("data.jsonl", f"[\n{GOOD}\n]".encode(), "spread over several lines"),
    "JSON that is cut off": ("data.json", f"[{GOOD}, ".encode(), "data.json"),
    "JSON without rows": ("data.json", b'{"version": 1}', "not an array of rows"),
    "an empty JSON array": ("data.json", b"[]", "data.json is empty"),
    "Parquet that is none": ("data.parquet", b"PAR1 no", "cannot be read as Parquet"),
    "CSV without a header": ("data.csv", b"red,fire\ngreen,grass\n", r"data.csv:2: is of no known format"),
    "CSV with a header only": ("data.csv", b"prompt,completion\n", "data.csv is empty"),
    "CSV with a short row": ("data.csv", b"prompt,completion\nred\n", "data.csv:2: has 1 cell; the header has 2"),
    "CSV with an open quote": ("data.csv", b'prompt,completion\nred,"fire\n', "data.csv:2: is not valid CSV"),
    "mixed formats": (
        "data.jsonl",
        f'{GOOD}\n{{"instruction": "a", "output": "b"}}\n'.encode(),
        "data.jsonl:2: is of the format instruction, but the rows before it are chat",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_a_bad_file(what: str, project: Path) -> None:
    name, content, says = FILES[what]
    if content is not None:
        Path(name).write_bytes(content)
    assert_refused(residency("check", name), 3, says)


def test_a_folder_for_a_file(project: Path) -> None:
    Path("data.jsonl").mkdir()
    assert_refused(residency("check", "data.jsonl"), 3, "data.jsonl is a folder")


def test_a_byte_order_mark_is_no_mistake(project: Path) -> None:
    Path("data.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert residency("check", "data.jsonl").exit_code == 0


# ---- the run file (exit 2)

RUN_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "run.yaml is empty"),
    "a list": ("- model\n- data\n", "run.yaml holds a list instead of keys"),
    "a single value": ("train.jsonl", "run.yaml holds a single value"),
    "no model": ("data: {train: train.jsonl}", r"model: is required"),
    "no data": ("model: {id: m}", r"data: is required"),
    "null for a section": ("model: null\ndata: {train: t.jsonl}", "model: must be"),
    "text for a section": ("model: m\ndata: {train: t.jsonl}", "model: must be a section of keys"),
    "an unknown section": ("model: {id: m}\ndata: {train: t.jsonl}\ntrian: {epochs: 1}", "trian: .*mean train"),
    "an unknown key": (
        "model: {id: m}\ndata: {train: t.jsonl}\ntrain: {learning_rat: 1}",
        "train.learning_rat: unknown key; did you mean train.learning_rate",
    ),
    "a key twice": ("model: {id: m}\ndata: {train: t}\nmodel: {id: n}", "line 3.*'model' is repeated"),
    "a tab": ("model:\n\tid: m", "run.yaml, line 2"),
    "an open bracket": ("model: {id: m", "run.yaml, line"),
    "an alias": ("model: &m {id: m}\ndata: *m", "aliases"),
    "a Python object": ("model: !!python/object:os.system {}", "line 1"),
    "latin-1": ("model: {id: caf\xe9}".encode("latin-1"), "run.yaml is not UTF-8"),
    "a binary file": (b"\x89PNG\r\n\x1a\n\0\0", "run.yaml is not UTF-8"),
    "text for a number": ("model: {id: m}\ndata: {train: t}\ntrain: {epochs: many}", "train.epochs: must be a number"),
    "true for a number": ("model: {id: m}\ndata: {train: t}\ntrain: {batch_size: true}", "train.batch_size: must be"),
    "a negative number": ("model: {id: m}\ndata: {train: t}\ntrain: {batch_size: -1}", "train.batch_size: .*at least"),
    "NaN": ("model: {id: m}\ndata: {train: t}\ntrain: {learning_rate: .nan}", "train.learning_rate: must be"),
    "a fraction of a row": ("model: {id: m}\ndata: {train: t}\ntrain: {batch_size: 1.5}", "train.batch_size: .*whole"),
    "a wrong choice": ("model: {id: m}\ndata: {train: t, format: xml}", "data.format: must be"),
    "an unknown adapter": ("model: {id: m}\ndata: {train: t}\nadapter: {kind: loar}", "adapter.kind: .*mean lora"),
    "a key of another adapter": (
        "model: {id: m}\ndata: {train: t}\nadapter: {kind: full, rank: 8}",
        "adapter.rank: does not apply",
    ),
    "an unknown method": ("model: {id: m}\ndata: {train: t}\nmethod: {name: ppo}", "method.name: must be one of"),
    "an unknown grader": (
        "model: {id: m}\ndata: {train: t}\neval: {graders: [{type: magic}]}",
        r"eval.graders.0.type: must be one of",
    ),
    "a name with a slash": ("name: a/b\nmodel: {id: m}\ndata: {train: t}", "name: must be letters"),
    "an empty model id": ("model: {id: ''}\ndata: {train: t}", "model.id: must be text, not empty"),
    "a share of 0 %": ("model: {id: m}\ndata: {train: train.jsonl, eval: 0%}", "data.eval is 0%"),
}  # fmt: skip


@pytest.mark.parametrize("what", RUN_FILES)
def test_a_bad_run_file(what: str, project: Path) -> None:
    text, says = RUN_FILES[what]
    Path("run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(residency("train", "run.yaml"), 2, says)
    assert_nothing_trained()


def test_all_mistakes_of_a_run_file_come_together(project: Path) -> None:
    write_run(project / "run.yaml", model={"idd": "m"}, data={"train": 3}, train={"epochs": -1})
    outcome = residency("train", "run.yaml")
    assert_refused(outcome, 2, "run.yaml: 4 problems")
    for path in ("model.id:", "model.idd:", "data.train:", "train.epochs:"):
        assert path in outcome.stderr


# ---- arguments (exit 2)

ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "no run file there": (["train", "absent.yaml"], "there is no file absent.yaml"),
    "a folder for a run file": (["train", "."], "is a folder"),
    "an override without =": (["train", "run.yaml", "--set", "train.epochs"], "--set train.epochs: is not of the form"),
    "an override of nothing": (["train", "run.yaml", "--set", "=1"], "--set =1: is not of the form"),
    "an override of an unknown key": (["train", "run.yaml", "--set", "train.epoch=1"], "did you mean train.epochs"),
    "an override of a wrong type": (["train", "run.yaml", "--set", "train.epochs=x"], "train.epochs: must be a number"),
    "an override that is no YAML": (["train", "run.yaml", "--set", "train.epochs=["], "--set train.epochs=\\["),
    "overrides without a run file": (["check", "train.jsonl", "--set", "train.epochs=1"], "--set: changes a run file"),
    "a model beside itself": (["chat", "MODEL", "--base"], "--base: .* is a model"),
}  # fmt: skip


@pytest.mark.parametrize("what", ARGUMENTS)
def test_bad_arguments(what: str, project: Path, tiny_model: Path) -> None:
    arguments, says = ARGUMENTS[what]
    outcome = residency(*[str(tiny_model) if word == "MODEL" else word for word in arguments])
    assert_refused(outcome, 2, says)


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["trian", "run.yaml"], ["train", "run.yaml", "--fast"], ["chat", "m", "--temperature", "-1"]],
)
def test_what_is_no_command_or_option(arguments: list[str], project: Path) -> None:
    outcome = residency(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stderr.count(" Error ") == 1
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


# ---- settings that only the data or the model can prove wrong

SETTINGS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no such training file": ({"data": {"train": "absent.jsonl"}}, 3, "absent.jsonl does not exist"),
    "no such test file": ({"data": {"test": "absent.jsonl"}}, 3, "absent.jsonl does not exist"),
    "two files missing": ({"data": {"test": "a.jsonl", "eval": "b.jsonl"}}, 3, "a.jsonl does not exist"),
    "a test without answers": ({"data": {"test": "plain.jsonl"}}, 3, "plain.jsonl:1: is plain text"),
    "plain text for SFT": ({"data": {"train": "plain.jsonl", "eval": None}}, 3, "plain text has no answers"),
    "another format than named": ({"data": {"format": "instruction"}}, 3, "train.jsonl:1: "),
    "nothing to hold out": ({"data": {"train": "one.jsonl"}}, 3, "cannot hold out rows"),
    "all rows too long": ({"data": {"max_length_tokens": 8}}, 3, "no training row is left"),
    "a row too long, and none may be": (
        {"data": {"max_length_tokens": 8, "over_long": "refuse"}}, 3, r"train.jsonl:\d+: \d+ tokens",
    ),
    "more worked examples than rows": (
        {"data": {"test": "test.jsonl"}, "eval": {"few_shot": 99}}, 3, "99 examples for the prompt cannot come from",
    ),
    "no such template": ({"model": {"chat_template": "chatmel"}}, 4, "model.chat_template is 'chatmel'"),
    "a broken template": ({"model": {"chat_template": "./broken.jinja"}}, 4, "broken.jinja is no working"),
    "a template that ends no answer": ({"model": {"chat_template": "./endless.jinja"}}, 4, "nothing after an answer"),
    "no such PEFT method": ({"adapter": {"kind": "peft", "type": "LORAX"}}, 2, "adapter.type: LORAX is not a"),
    "a PEFT method of virtual tokens": (
        {"adapter": {"kind": "peft", "type": "PREFIX_TUNING", "options": {"num_virtual_tokens": 4}}}, 2,
        "adapter.type: PREFIX_TUNING",
    ),
    "a PEFT option that is none": (
        {"adapter": {"kind": "peft", "type": "IA3", "options": {"speed": 3}}}, 2, "adapter.options: .*speed",
    ),
    "no such module": ({"adapter": {"kind": "lora", "targets": ["no_proj"]}}, 2, "adapter.targets: .*no_proj"),
    "a grader's template cut off": (
        {"eval": {"graders": [{"type": "string_check", "reference": "{{ item."}]}}, 8, "not closed in '{{ item.'",
    ),
    "a grader's field that no row has": (
        {"data": {"test": "test.jsonl"}, "eval": {"graders": [{"type": "string_check", "input": "{{ item.nope }}"}]}},
        8, "nope",
    ),
    "a grader that is no Python": (
        {"eval": {"graders": [{"type": "python", "source": "def grade(sample, item) return 1"}]}}, 8, "python",
    ),
    "a grader without grade()": ({"eval": {"graders": [{"type": "python", "source": "x = 1"}]}}, 8, "grade"),
    "a formula over nothing": (
        {"eval": {"graders": [{"type": "multi", "graders": {"a": {"type": "string_check"}}, "calculate_output": "b"}]}},
        8, "b",
    ),
    "a judge without an address": (
        {"eval": {"graders": [{"type": "score_model", "model": "j", "input": [{"role": "user", "content": "?"}]}]}},
        8, "OPENAI_BASE_URL|base_url",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SETTINGS)
def test_a_bad_setting(what: str, project: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    changes, exit_code, says = SETTINGS[what]
    Path("plain.jsonl").write_text('{"text": "once upon a time"}\n' * 3)
    Path("one.jsonl").write_text(GOOD)
    Path("broken.jinja").write_text("{% for message in messages %}")
    Path("endless.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    sections: dict[str, dict[str, Any]] = {"model": {"id": str(tiny_model)}, "data": {"train": "train.jsonl"}}
    write_run(project / "run.yaml", **sections | {key: sections.get(key, {}) | part for key, part in changes.items()})
    assert_refused(last_error(residency("train", "run.yaml")), exit_code, says)
    assert_nothing_trained()


def last_error(outcome: Outcome) -> Outcome:
    """Without what the run had said before (each `auto`, with its reason)."""
    before, found, error = outcome.stderr.partition("error: ")
    assert "Traceback" not in before
    return Outcome(outcome.exit_code, outcome.stdout, found + error)


# ---- model folders (exit 4)


def header_only(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | changes))


def drop_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def as_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


MODELS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (shutil.rmtree, "there is no model folder .*/model"),
    "empty": (lambda f: [path.unlink() for path in f.iterdir()], "has no config.json"),
    "without config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "an adapter": (as_adapter, "holds an adapter, not a model"),
    "config cut off": (lambda f: (f / "config.json").write_text('{"model_type": '), "config.json is damaged"),
    "config as a list": (lambda f: (f / "config.json").write_text("[]"), "config.json is damaged"),
    "an unknown kind": (lambda f: change_config(f, model_type="llama99"), "the config of .* cannot be loaded"),
    "code of its own": (
        lambda f: change_config(f, model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"}),
        r"needs Python code that comes with it \(mine.Mine\)",
    ),
    "quantised already": (
        lambda f: change_config(f, quantization_config={"quant_method": "gptq"}), "is quantised with gptq",
    ),
    "weights missing": (lambda f: (f / "model.safetensors").unlink(), "no weights in safetensors format"),
    "weights as a pickle": (as_pickle, "no weights in safetensors format"),
    "weights cut off": (header_only, "model.safetensors is damaged"),
    "weights that are none": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "safetensors is damaged"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "safetensors is damaged"),
    "one weight missing": (drop_a_weight, "1 weight missing .*model.norm.weight"),
    "weights of another shape": (lambda f: change_config(f, intermediate_size=96), "of another shape"),
    "tokenizer missing": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "tokenizer cut off": (lambda f: (f / "tokenizer.json").write_text('{"version": '), "the tokenizer of .* cannot be"),
    "no chat template": (lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"),
    "a broken chat template": (
        lambda f: (f / "chat_template.jinja").write_text("{% for m in messages %}"), "the chat template refuses",
    ),
    "a chat template that ends no answer": (
        lambda f: (f / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}"),
        "no single token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MODELS)
def test_a_bad_model_folder(what: str, project: Path, tiny_model: Path) -> None:
    spoil, says = MODELS[what]
    spoil(Path(shutil.copytree(tiny_model, project / "model")))
    write_run(project / "run.yaml", model={"id": "./model"}, data={"train": "train.jsonl"})
    assert_refused(last_error(residency("train", "run.yaml")), 4, says)
    assert_nothing_trained()


def test_a_file_for_a_model_folder(project: Path) -> None:
    Path("model").write_text("no folder")
    assert_refused(residency("check", "train.jsonl", "--model", "./model"), 4, "is a file, not a model folder")


# ---- run folders (exit 7)


def newer_summary(run: Path) -> None:
    record = json.loads((run / "summary.json").read_bytes())
    (run / "summary.json").write_text(json.dumps(record | {"version": 99}))


def cut(name: str) -> Callable[[Path], Any]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-40])


def damage_first_line(name: str) -> Callable[[Path], Any]:
    return lambda run: (run / name).write_bytes(b"{" + (run / name).read_bytes())


RUNS: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    "no such run": (lambda run: None, ["report", "colours"], "there is no run colours in runs.*\n.*colors"),
    "a folder that is no run": (lambda run: (run / "config.yaml").unlink(), ["report", "colors"], "there is no run"),
    "summary cut off": (cut("summary.json"), ["report", "colors"], "summary.json cannot be read"),
    "summary of a newer version": (newer_summary, ["report", "colors"], "summary.json cannot be read"),
    "resolved.json cut off": (cut("resolved.json"), ["chat", "colors"], "resolved.json cannot be read"),
    "resolved.json missing": (lambda run: (run / "resolved.json").unlink(), ["chat", "colors"], "resolved.json"),
    "an evaluation cut off": (cut("eval/test.tuned.json"), ["eval", "colors"], "test.tuned.json cannot be read"),
    "metrics damaged": (damage_first_line("metrics.jsonl"), ["report", "colors"], "metrics.jsonl:1 is damaged"),
    "events damaged": (damage_first_line("events.jsonl"), ["runs", "show", "colors"], "events.jsonl:1 is damaged"),
    "no adapter": (lambda run: shutil.rmtree(run / "adapter"), ["chat", "colors"], "has no result yet"),
    "no adapter to export": (lambda run: shutil.rmtree(run / "adapter"), ["export", "colors", "o"], "no result yet"),
    "adapter cut off": (cut("adapter/adapter_model.safetensors"), ["chat", "colors"], "adapter"),
    "adapter's config cut off": (cut("adapter/adapter_config.json"), ["chat", "colors"], "adapter"),
    "adapter cut off before a merge": (
        cut("adapter/adapter_model.safetensors"), ["export", "colors", "out", "--merged"], "adapter cannot be read",
    ),
    "adapter without weights": (
        lambda run: save_file({}, run / "adapter/adapter_model.safetensors"), ["export", "colors", "out", "--merged"],
        "adapter cannot be read: it lacks",
    ),
    "an export over something": (lambda run: Path("out").mkdir(), ["export", "colors", "out"], "out exists already"),
}  # fmt: skip


@pytest.mark.parametrize("what", RUNS)
def test_a_bad_run_folder(what: str, finished: Path) -> None:
    spoil, arguments, says = RUNS[what]
    spoil(finished)
    assert_refused(residency(*arguments), 7, says)


def test_a_damaged_run_does_not_hide_the_others(finished: Path) -> None:
    shutil.copytree(finished, finished.with_name("damaged"))
    cut("summary.json")(finished.with_name("damaged"))
    found = {run["name"]: run["status"] for run in residency("runs", "--json").json["runs"]}
    assert found == {"colors": "finished", "damaged": "damaged"}


def test_nothing_to_resume(project: Path) -> None:
    assert_refused(residency("train", "run.yaml", "--resume"), 7, "nothing to resume: .* was never begun")


def test_a_finished_run_is_not_resumed(trained: Path) -> None:
    outcome = residency("train", trained / "run.yaml", "--runs", trained / "runs", "--resume")
    assert_refused(outcome, 7, "nothing to resume: .* is finished")


def test_data_that_changed_since_the_run_began(finished: Path, trained: Path) -> None:
    (finished / "summary.json").unlink()
    audit = json.loads((finished / "audit.json").read_bytes())
    audit["files"] = dict.fromkeys(audit["files"], "0" * 64)
    (finished / "audit.json").write_text(json.dumps(audit))
    outcome = residency("train", trained / "run.yaml", "--resume")
    assert_refused(outcome, 7, "the data have changed since the run began: .*test.jsonl")


def test_a_run_in_use(finished: Path, trained: Path) -> None:
    (finished / "summary.json").unlink()
    with (finished / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_refused(residency("train", trained / "run.yaml", "--resume"), 7, "colors is in use by another process")


# ---- places to write to


def test_runs_below_a_file(project: Path) -> None:
    Path("file").write_text("")
    assert_refused(residency("train", "run.yaml", "--runs", "file/runs"), 7, "file/runs cannot hold runs")


def test_runs_where_nobody_may_write(project: Path) -> None:
    folder = Path("/sys")  # even root cannot make folders here
    if os.geteuid():
        folder = project / "closed"
        folder.mkdir(mode=0o500)
    assert_refused(residency("train", "run.yaml", "--runs", folder / "runs"), 5, f"cannot write {folder}/runs")


def test_an_export_below_a_file(finished: Path) -> None:
    Path("file").write_text("")
    assert_refused(residency("export", "colors", "file/out"), 7, "file/out cannot be made")


# ---- the network and the standard input


def test_a_hub_model_without_a_network(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read from the environment at import
    outcome = residency("check", "train.jsonl", "--model", "org/absent")
    assert_refused(outcome, 4, "org/absent is not on this machine and the Hub cannot be reached")


def test_a_pipe_that_is_no_text(finished: Path) -> None:
    assert_refused(residency("chat", "colors", "--system", "", stdin=b"\xff\xfe\n"), 2, "standard input is not UTF-8")


def test_a_question_that_fills_the_context(finished: Path) -> None:
    assert_refused(residency("chat", "colors", stdin=b"red " * 600), 2, "the conversation has .* tokens, which fill")


# ---- the same through a real process


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["check", "bad.jsonl"], 3, r"bad.jsonl:2: is not valid JSON"),
        (["train", "absent.yaml"], 2, "there is no file absent.yaml"),
        (["train", "run.yaml", "--set", "train.epoch=1"], 2, "train.epoch: unknown key; did you mean train.epochs"),
        (["report", "colors"], 7, "there is no run colors"),
    ],
)
def test_a_mistake_in_a_process(arguments: list[str], exit_code: int, says: str, project: Path) -> None:
    Path("bad.jsonl").write_text(f"{GOOD}\n{GOOD[:30]}\n")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from residency.cli import main; sys.exit(main())", *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), exit_code, says)


def test_errors_as_json(project: Path) -> None:
    outcome = residency("train", "absent.yaml", "--json")
    assert outcome.exit_code == outcome.json["error"]["exit_code"] == 2
    assert outcome.json["error"]["param"] == "absent.yaml"
    assert outcome.stderr == ""


def test_debug_shows_the_traceback(project: Path) -> None:
    outcome = residency("train", "absent.yaml", "--debug")
    assert outcome.exit_code == 2
    assert "Traceback" in outcome.stderr
