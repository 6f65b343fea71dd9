"""LLaMA-Factory's datasets: names that `dataset_info.json` explains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from residency.config.methods import PREFERENCES_LATER
from residency.data.formats import SHAREGPT_ROLES
from residency.errors import ConfigError
from residency.importers.ledger import Ledger
from residency.importers.rows import Rows, put_held_out, put_rows
from residency.importers.sources import Places, hub

INFO = "dataset_info.json"
ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
TAGS = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
        "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system"}  # fmt: skip
ROLES = {"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "assistant",
         "system_tag": "system"}  # fmt: skip


def put_datasets(ledger: Ledger, places: Places, stage: str) -> None:
    names = names_in(ledger.take("dataset"))
    if not names:
        if not ledger.refusals:
            ledger.refuse("dataset", "is missing: there are no rows to train on")
        return
    folder = ledger.take("dataset_dir")
    if folder:
        ledger.note("no_effect", "dataset_dir", "says where the datasets are explained")
    infos = read_infos(ledger, places, folder or "data")
    put_rows(ledger, "dataset", [put_one(ledger, name, infos, places, stage) for name in names])
    if limit := ledger.whole("max_samples"):
        ledger.note("differs", "max_samples", f"all rows are trained on, where theirs takes {limit:,} of each "
                    "dataset; keep those that you want in data.train")  # fmt: skip


def names_in(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else str(value or "").split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def read_infos(ledger: Ledger, places: Places, folder: Any) -> tuple[Path, Mapping[str, Any]] | None:
    """The folder of `dataset_info.json`, and what it says; None where it is not there to be read."""
    if isinstance(folder, Mapping):
        return places.config, folder
    if folder == "ONLINE":
        return None
    found = places.find(f"{folder}/{INFO}") or places.find(INFO)
    if found is None:
        ledger.note("to_do", "dataset_dir", f"{folder}/{INFO} was not found from here, which says what the datasets "
                    "are: put it beside the config and import again, or name your rows in data.train")  # fmt: skip
        return None
    try:
        value = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{found} cannot be read: {error}", param="dataset_dir", hint="mend it, or name your rows "
                          "in a run file of your own") from error  # fmt: skip
    return (found.parent, value) if isinstance(value, Mapping) else None


def put_one(ledger: Ledger, name: str, infos: tuple[Path, Mapping[str, Any]] | None, places: Places,
            stage: str) -> Rows:  # fmt: skip
    if infos is None:
        return Rows(f"hub:{name}" if "/" in name else f"{name}.jsonl", "text" if stage == "pt" else None)
    folder, table = infos
    info = table.get(name)
    if not isinstance(info, Mapping):
        ledger.refuse("dataset", f"{name} is not in {INFO}")
        return Rows("train.jsonl", None)
    key = f"dataset {name}"
    return Rows(put_source(ledger, key, info, folder, places), put_format(ledger, key, info, stage))


def put_source(ledger: Ledger, key: str, info: Mapping[str, Any], folder: Path, places: Places) -> str:
    if info.get("num_samples"):
        ledger.note("differs", f"{key}: num_samples", f"all rows are trained on, not {info['num_samples']:,}")
    if isinstance(info.get("hf_hub_url"), str):
        source, cut = hub(info["hf_hub_url"], info.get("split"))
        if cut or info.get("subset") or info.get("folder"):
            part = cut or info.get("subset") or info.get("folder")
            ledger.note("to_do", f"{key}: subset", f"this part of a Hub dataset cannot be named here ({part}): write "
                        "its rows into a file and name it in data.train")  # fmt: skip
        return source
    file = info.get("file_name")
    if isinstance(file, str) and not (folder / file).is_dir():
        if not (folder / file).exists():
            ledger.note("to_do", f"{key}: file_name", f"{file} is not there; put it there, or mend data.train")
        return places.ours(folder / file)
    ledger.note("to_do", key, "write its rows into one JSONL file and name it in data.train: it is a script, a "
                "folder, or stands on a hub that is not read here")  # fmt: skip
    return "train.jsonl"


def put_format(ledger: Ledger, key: str, info: Mapping[str, Any], stage: str) -> str | None:
    """Our format of the rows; None, with a note, where they have to be rewritten."""
    given = info.get("columns")
    columns: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    if media := [name for name in ("images", "videos", "audios") if columns.get(name)]:
        ledger.refuse(key, f"its rows have {', '.join(media)}; only text can be trained on")
    if info.get("ranking") or columns.get("kto_tag"):
        ledger.refuse(key, f"its rows are preferences: {PREFERENCES_LATER}")
    formatting = info.get("formatting", "alpaca")
    if stage == "pt":
        field = columns.get("prompt", "instruction")
        if field != "text":
            ledger.note("to_do", key, f'rename the field {field} to text: rows are {{"text": ...}} here')
        return "text"
    if formatting == "alpaca":
        return alpaca(ledger, key, columns)
    messages = columns.get("messages", "conversations" if not columns else None)
    tags = info.get("tags")
    return conversation(ledger, key, str(messages), tags if isinstance(tags, Mapping) else TAGS)


def alpaca(ledger: Ledger, key: str, columns: Mapping[str, Any]) -> str | None:
    named = {name: field for name, field in columns.items() if field and name in ALPACA}
    if named and {named.get("prompt"), named.get("response")} == {"prompt", "completion"} and len(named) == 2:
        return "prompt_completion"
    if other := {field: ALPACA[name] for name, field in named.items() if field != ALPACA[name]}:
        said = ", ".join(f"{field} to {ours}" for field, ours in other.items())
        ledger.note("to_do", key, f"rename these fields in its rows: {said}")
        return None
    ledger.note(
        "differs", key, "an empty line stands between instruction and input here, a line break in LLaMA-Factory"
    )
    return "instruction"


def conversation(ledger: Ledger, key: str, messages: str, tags: Mapping[str, Any]) -> str | None:
    role, content = tags.get("role_tag"), tags.get("content_tag")
    strange = {str(tags[name]): ours for name, ours in ROLES.items()
               if tags.get(name) and SHAREGPT_ROLES.get(str(tags[name])) != ours}  # fmt: skip
    if strange:
        ledger.note("to_do", key, "rename these roles in its rows: "
                    + ", ".join(f"{theirs} to {ours}" for theirs, ours in strange.items()))  # fmt: skip
    if messages == "messages" and (role, content) == ("role", "content"):
        return "chat"
    if messages == "conversations" and (role, content) in (("from", "value"), ("role", "content")):
        return "sharegpt"
    ledger.note("to_do", key, f"rename these fields in its rows: {messages} to conversations, {role} to from, "
                f"{content} to value")  # fmt: skip
    return None


def put_evaluation(ledger: Ledger, places: Places) -> None:
    names, size = names_in(ledger.take("eval_dataset")), ledger.number("val_size")
    if not names:
        put_held_out(ledger, "val_size", size)
        return
    ledger.put("data.eval", "10%")
    ledger.note(
        "to_do", "eval_dataset", f"data.eval: 10%; name the file of {', '.join(names)} there to measure on that"
    )
