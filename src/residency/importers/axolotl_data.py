"""Axolotl's `datasets`: where the rows are, which of ours their type is, and what its options change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from residency.data.formats import SHAREGPT_ROLES
from residency.importers.ledger import Ledger
from residency.importers.rows import Rows, put_held_out, put_rows
from residency.importers.sources import Places, hub, is_rows

MADE_FILES = ("json", "csv", "parquet", "text", "arrow")
"""`path` may name the kind of file instead; the files are in `data_files` then."""
ALPACA = ("alpaca", "alpaca_instruct", "alpaca_w_system.load", "alpaca_w_system.load_instruct",
          "alpaca_w_system.load_chat", "alpaca_chat.load", "alpaca_chat.load_concise",
          "alpaca_chat.load_no_prompt")  # fmt: skip
PLAIN = ("completion", "pretrain")
SEEN_TO = ("path", "type", "split", "name", "data_files", "ds_type", "revision", "trust_remote_code", "shards")
OF_CHAT = ("field_messages", "message_property_mappings", "message_field_role", "message_field_content", "roles",
           "roles_to_train", "train_on_eos", "field_tools", "chat_template")  # fmt: skip
OF_TEXT = ("field", "text_column")
DIFFERS_IN_CHAT = {
    "train_on_eot": "the token that ends a turn is trained with every answer",
    "drop_system_message": "system turns stay in; take them out of the rows",
    "split_thinking": "a turn's thoughts are a part of its content",
    "template_thinking_key": "a turn's thoughts are a part of its content",
}
TO_DO_IN_CHAT = {
    "message_field_training": "name this key `weight` in the rows' turns, with 1 for trained and 0 for not",
    "message_field_training_detail": "whole turns are trained or not (`weight` 1 or 0), no parts of them",
    "field_thinking": "turns have no thoughts of their own: write them into content as the model's template does",
    "chat_template_jinja": "one template serves all rows: name its file in model.chat_template",
}


def put_datasets(ledger: Ledger, places: Places) -> None:
    key = "pretraining_dataset" if ledger.left.get("pretraining_dataset") else "datasets"
    given = ledger.take(key)
    entries = given if isinstance(given, list) else [given]
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in entries]
    if not given or not all(isinstance(entry, Mapping) and isinstance(entry.get("path"), str) for entry in entries):
        ledger.refuse(key, "must be a list of entries with a path each: there is nothing to train on")
        return
    kinds = [entry.get("type") or ("pretrain" if key == "pretraining_dataset" else None) for entry in entries]
    if wrong := [kind for kind in kinds if isinstance(kind, str) and kind.startswith(("bradley_terry", "stepwise"))]:
        ledger.refuse(key, f"rows of type {wrong[0]} train a reward model, which is not here")
        return
    names = [key if len(entries) == 1 else f"{key}[{number}]" for number in range(len(entries))]
    rows = [
        Rows(put_source(ledger, name, entry, places), put_format(ledger, name, entry, kind))
        for name, entry, kind in zip(names, entries, kinds, strict=True)
    ]
    put_rows(ledger, key, rows)


def put_source(ledger: Ledger, key: str, entry: Mapping[str, Any], places: Places) -> str:
    """Our name of where the rows are."""
    path, files = str(entry["path"]), entry.get("data_files")
    files = files if isinstance(files, list) else [files] if files else []
    if entry.get("shards"):
        ledger.note("differs", f"{key}.shards", f"all rows are trained on, not one of {entry['shards']} parts")
    if len(files) == 1 and path in MADE_FILES:
        path, files = str(files[0]), []
    local = places.find(path)
    if local is not None and local.is_file():
        ledger.note("no_effect", f"{key}.ds_type", "the file's ending tells") if entry.get("ds_type") else None
        return places.ours(local)
    if local is not None or files or path in MADE_FILES or "://" in path:
        what = f"{path}{' ' if files else ''}{', '.join(map(str, files))}"
        ledger.note("to_do", f"{key}.path", f"write the rows of {what} into one JSONL file and name it in data.train")
        return "train.jsonl"
    if is_rows(path):
        ledger.note("to_do", f"{key}.path", f"{path} was not found from here: put it there, or mend data.train")
        return path
    if "<" in path:
        ledger.note("to_do", f"{key}.path", f"{path} stands for a dataset of your own: name it in data.train")
    source, cut = hub(path, entry.get("split"))
    if cut:
        ledger.note("differs", f"{key}.split", f"all rows of the split are trained on, not {cut}; write those into a "
                    "file and name it in data.train")  # fmt: skip
    for part, what in (("name", "subset"), ("revision", "revision")):
        if entry.get(part):
            ledger.note("to_do", f"{key}.{part}", f"the {what} {entry[part]} of a Hub dataset cannot be named here: "
                        "write its rows into a file and name it in data.train")  # fmt: skip
    if entry.get("trust_remote_code"):
        ledger.note("left_out", f"{key}.trust_remote_code", "no code that comes with a dataset is run")
    return source


def put_format(ledger: Ledger, key: str, entry: Mapping[str, Any], kind: Any) -> str | None:
    """Our format of the rows; None, with a note, where they have to be rewritten."""
    name = str(kind).partition(":")[0] if isinstance(kind, str) else ""
    if name.removesuffix(".default").removesuffix(".load") == "chat_template":
        name_unknown(ledger, key, entry, (*OF_CHAT, *DIFFERS_IN_CHAT, *TO_DO_IN_CHAT))
        return chat_format(ledger, key, entry)
    if name in ALPACA:
        name_unknown(ledger, key, entry, ())
        ledger.note("differs", f"{key}.type", f"{kind} rows are put into the model's chat template, without Alpaca's "
                    "preamble and headings; a model without one needs model.chat_template: chatml")  # fmt: skip
        return "instruction"
    if name in PLAIN:
        name_unknown(ledger, key, entry, OF_TEXT)
        field = entry.get("field") or entry.get("text_column") or "text"
        if field != "text":
            ledger.note("to_do", f"{key}.field", f'rename the field {field} to text: rows are {{"text": ...}} here')
        return "text"
    name_unknown(ledger, key, entry, ())
    if isinstance(kind, Mapping):
        ledger.note("to_do", f"{key}.type", 'rows of a format of your own: write them as {"prompt": ..., "completion": '
                    '...}, with the text of your format in prompt')  # fmt: skip
    else:
        named = f"a prompt of Axolotl's ({kind})" if kind else "no type"
        ledger.note("to_do", f"{key}.type", f"these rows have {named}: write them as "
                    '{"messages": [{"role": ..., "content": ...}]}')  # fmt: skip
    return None


def name_unknown(ledger: Ledger, key: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for part in entry:
        if part not in (*SEEN_TO, *known) and entry[part] not in (None, False, [], {}):
            ledger.note("left_out", f"{key}.{part}", "was not carried over: nothing here does the same")


def chat_format(ledger: Ledger, key: str, entry: Mapping[str, Any]) -> str | None:
    for part, what in (DIFFERS_IN_CHAT | TO_DO_IN_CHAT).items():
        if entry.get(part) not in (None, False):
            ledger.note("to_do" if part in TO_DO_IN_CHAT else "differs", f"{key}.{part}", what)
    if entry.get("chat_template") not in (None, "tokenizer_default"):
        ledger.note(
            "differs", f"{key}.chat_template", "the model's own template is used; model.chat_template changes it"
        )
    trained = entry.get("roles_to_train") or ["assistant"]
    if set(trained) - {"assistant", "gpt"}:
        ledger.note("differs", f"{key}.roles_to_train", f"{', '.join(map(str, trained))}: only the assistant's turns "
                    "are trained here")  # fmt: skip
    if entry.get("train_on_eos") not in (None, "turn"):
        ledger.note("differs", f"{key}.train_on_eos", f"{entry['train_on_eos']}: every trained answer ends with the "
                    "trained token that ends a turn here")  # fmt: skip
    return format_of_fields(ledger, key, entry)


def format_of_fields(ledger: Ledger, key: str, entry: Mapping[str, Any]) -> str | None:
    mapped = entry.get("message_property_mappings")
    names = dict(mapped) if isinstance(mapped, Mapping) else {}
    role = names.pop("role", None) or entry.get("message_field_role") or "role"
    content = names.pop("content", None) or entry.get("message_field_content") or "content"
    for ours, theirs in names.items():
        if ours != theirs:
            ledger.note("to_do", f"{key}.message_property_mappings", f"rename {theirs} to {ours} in the rows' turns")
    messages = entry.get("field_messages") or "messages"
    roles = entry.get("roles") or {}
    if not isinstance(roles, Mapping):
        ledger.refuse(f"{key}.roles", "must name the roles of the rows for each of ours")
        return None
    other_roles = {
        source: target
        for target, sources in roles.items()
        for source in (sources if isinstance(sources, list) else [sources])
        if SHAREGPT_ROLES.get(source) != target or (role == "role" and source != target)
    }
    if other_roles:
        said = ", ".join(f"{source} to {target}" for source, target in other_roles.items())
        ledger.note("to_do", f"{key}.roles", f"rename these roles in the rows: {said}")
    match messages, role, content:
        case "messages", "role", "content":
            return "chat"
        case "conversations", ("from" | "role"), ("value" | "content"):
            return "sharegpt"
    fields = f"{messages} to messages, {role} to role, {content} to content"
    ledger.note("to_do", f"{key}.field_messages", f"rename these fields in the rows: {fields}")
    return None


def put_evaluation(ledger: Ledger, places: Places) -> None:
    tests, size = ledger.take("test_datasets"), ledger.number("val_set_size")
    if not tests:
        put_held_out(ledger, "val_set_size", size)
        return
    first = tests[0] if isinstance(tests, list) else None
    if isinstance(first, Mapping) and isinstance(first.get("path"), str):
        ledger.carry("test_datasets", "data.eval", put_source(ledger, "test_datasets", first, places))
        if len(tests) > 1:
            ledger.note("differs", "test_datasets", "the first of them is measured on; join them to measure on all")
    else:
        ledger.refuse("test_datasets", "must be a list of entries with a path each")
