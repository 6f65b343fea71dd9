"""A config of LLaMA-Factory's second trainer (USE_V1=1), which has keys and defaults of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from residency.config.methods import PREFERENCES_LATER
from residency.errors import ConfigError
from residency.importers import training
from residency.importers.adapter import LoraKeys, put_lora
from residency.importers.axolotl_keys import DEVICES, FAST, FOLDERS, LOGS, RATES, of
from residency.importers.ledger import Ledger
from residency.importers.llama_factory_keys import GENERATION, PREFERENCES
from residency.importers.rows import Rows, put_held_out, put_rows
from residency.importers.sources import Places, hub, put_model_id

LORA = LoraKeys("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", 8, 2)
CUTOFF = 2048
CONVERTERS = {"alpaca": "instruction", "sharegpt": "sharegpt", None: "chat"}
WEIGHT_DECAY = 0.01
"""torch's AdamW, where nothing is said."""
NO_EFFECT = (
    of(FOLDERS, "output_dir save_ckpt_as_hf")
    | of(LOGS, "logging_steps")
    | of(FAST, "kernel_config init_config flash_attn batching_workers enable_activation_checkpointing bf16")
    | of(GENERATION, "sample_backend max_new_tokens")
    | of("goes on with an earlier run; ours go on with `residency train --resume`", "resume_from_checkpoint")
)
LEFT_OUT = (
    of(DEVICES, "dist_config dp_size cp_size cp_mode mp_replicate_size mp_shard_size dist_timeout")
    | of(RATES, "lr_scheduler_config")
    | of(PREFERENCES, "pref_loss pref_beta pref_ftx simpo_gamma dpo_label_smoothing ld_alpha")
    | of("a run is repeated to the bit by train.seed on a CPU", "full_determinism")
)
SEEN_TO = ("model", "train_dataset", "eval_dataset", "peft_config", "quant_config", "micro_batch_size",
           "global_batch_size", "cutoff_len", "learning_rate", "num_train_epochs", "max_steps")  # fmt: skip


def read_llama_factory_v1(theirs: Mapping[str, Any], places: Places) -> Ledger:
    """Whatever cannot become a run is in `refusals`."""
    ledger = Ledger(theirs, "LLaMA-Factory")
    kind = ledger.take("model_class")
    if kind not in (None, "llm"):
        ledger.refuse("model_class", f"{kind} is not here; only models that write text can be trained")
    elif kind:
        ledger.note("no_effect", "model_class", "a model that writes text")
    put_model_id(ledger, "model", str(ledger.take("model")), places)
    if ledger.take("trust_remote_code"):
        ledger.carry("trust_remote_code", "model.trust_remote_code", True)
    if template := ledger.take("custom_chat_template"):
        ledger.note(
            "to_do", "custom_chat_template", f"name the file of this template in model.chat_template ({template})"
        )
    put_datasets(ledger, places)
    length = ledger.whole("cutoff_len")
    ledger.carry("cutoff_len", "data.max_length_tokens", length or CUTOFF, default=not length)
    ledger.note("differs", "cutoff_len", "longer rows are dropped, with a count; LLaMA-Factory cuts them at the end")
    put_adapter(ledger)
    put_training(ledger)
    ledger.close(NO_EFFECT, LEFT_OUT, SEEN_TO)
    return ledger


def put_datasets(ledger: Ledger, places: Places) -> None:
    given = str(ledger.take("train_dataset") or "")
    file = places.find(given)
    if given.endswith((".yaml", ".yml")):
        entries = read_entries(file) if file else {}
        if not file:
            ledger.note("to_do", "train_dataset", f"{given} was not found from here: name its rows in data.train")
            entries = {"train": {"path": "train.jsonl", "source": "local"}}
    else:
        entries = {"train": {"path": given, "source": "local" if file else "hf_hub"}}
    put_rows(ledger, "train_dataset", [one_source(ledger, name, entry, places) for name, entry in entries.items()])
    if ledger.take("eval_dataset"):
        ledger.put("data.eval", "10%")
        ledger.note("to_do", "eval_dataset", "data.eval: 10%; name the file of these rows there to measure on them")
    else:
        put_held_out(ledger, "eval_dataset", None)


def read_entries(file: Path) -> dict[str, Mapping[str, Any]]:
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", param="train_dataset", hint="mend it first") from error
    if (
        not isinstance(value, dict)
        or not all(isinstance(v, dict) and v.get("path") for v in value.values())
        or not value
    ):
        raise ConfigError(f"{file} names no datasets", param="train_dataset", hint="each needs a path")
    return value


def one_source(ledger: Ledger, name: str, entry: Mapping[str, Any], places: Places) -> Rows:
    key, path = f"train_dataset {name}", str(entry["path"])
    for part in ("size", "weight"):
        if entry.get(part):
            ledger.note("differs", f"{key}: {part}", "every row is trained on, once an epoch")
    converter = entry.get("converter")
    if converter == "pair":
        ledger.refuse(key, f"its rows are preferences: {PREFERENCES_LATER}")
    elif converter not in CONVERTERS:
        ledger.note("to_do", key, f"rows of the converter {converter}: write them as chat rows")
    elif converter == "alpaca":
        ledger.note("differs", key, "an empty line stands between instruction and input here, nothing in LLaMA-Factory")
    if entry.get("source") != "local":
        source, cut = hub(path, entry.get("split"))
        if cut:
            ledger.note("differs", f"{key}: split", f"all rows are trained on, not {cut}")
        return Rows(source, CONVERTERS.get(converter))
    found = places.find(path)
    if found is None:
        ledger.note("to_do", key, f"{path} was not found from here: put it there, or mend data.train")
    return Rows(places.ours(found) if found else path, CONVERTERS.get(converter))


def put_adapter(ledger: Ledger) -> None:
    peft, quant = ledger.take("peft_config"), ledger.take("quant_config")
    settings = dict(peft) if isinstance(peft, Mapping) else {}
    kind = settings.pop("name", None)
    if kind is None:
        ledger.carry("peft_config", "adapter.kind", "full", default=True)
        return
    if kind != "lora" or "export_dir" in settings:
        what = (
            "merges an adapter, as `residency export --merged` does"
            if kind == "lora"
            else "trains a part of the layers"
        )
        ledger.refuse("peft_config", f"{what}; lora and full fine-tuning can be imported")
        ledger.put("adapter.kind", "full")
        return
    bits = quant.get("quantization_bit") if isinstance(quant, Mapping) else None
    ledger.carry("peft_config", "adapter.kind", "qlora" if bits == 4 else "lora")
    if quant:
        ledger.note("carried" if bits == 4 else "differs", "quant_config", "qlora holds the base in 4 bits (NF4)"
                    if bits == 4 else "the base is held in 16 bits; adapter.kind: qlora holds it in 4")  # fmt: skip
    inner = Ledger({"lora_dropout": 0.05} | settings, ledger.tool)
    inner.run = ledger.run
    put_lora(inner, LORA)
    targets = inner.take("target_modules") or "all"
    inner.carry("target_modules", "adapter.targets", "all-linear" if targets == "all" else targets)
    inner.close({}, of("trains other weights than LoRA's on adapter.targets", "modules_to_save")
                | of("an adapter cannot be trained on: merge it first", "adapter_name_or_path"), ())  # fmt: skip
    ledger.notes += [note._replace(key=f"peft_config.{note.key}") for note in inner.notes]
    ledger.refusals += [f"peft_config.{refusal}" for refusal in inner.refusals]


def put_training(ledger: Ledger) -> None:
    training.duration(ledger, "num_train_epochs", 3.0)
    whole, at_once = ledger.whole("global_batch_size"), ledger.left.get("micro_batch_size")
    if whole:
        ledger.carry("global_batch_size", "train.batch_size", whole)
        ledger.note(
            "no_effect", "micro_batch_size", f"rows that pass at once there: {ledger.take('micro_batch_size') or 1}"
        )
    else:
        training.batch_size(ledger, ("micro_batch_size", 1))
    strategy = ledger.take("batching_strategy")
    if strategy in ("dynamic_batching", "dynamic_padding_free"):
        ledger.note("differs", "batching_strategy", f"{strategy} fills {at_once or 1} x cutoff_len tokens a pass "
                    "with as many rows as fit; ours counts rows: set train.batch_size to those")  # fmt: skip
    elif strategy:
        ledger.note("no_effect", "batching_strategy", "rows are always packed here, and never see one another")
    optimizer = ledger.take("optim_config")
    if isinstance(optimizer, Mapping) and (name := optimizer.get("name")):
        ledger.note("differs", "optim_config", "its settings are not carried over")
        ledger.left["optim"] = name
    training.optimizer(ledger, "optim", 1e-4)
    training.schedule(ledger, "lr_scheduler_type", "constant")
    training.warmup(ledger, 0.0)
    training.regularisation(ledger, WEIGHT_DECAY, of_all=True)
    training.saving(ledger, None)
    training.measuring(ledger, "early_stopping_steps")
    training.precision(ledger, ())
    training.what_theirs_lacks(ledger)
