"""An Axolotl config as a run file, with a note for every key. Written against Axolotl 0.18."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from residency.config.methods import arrives_later
from residency.importers import axolotl_keys as keys
from residency.importers import training
from residency.importers.adapter import LoraKeys, put_lora
from residency.importers.axolotl_data import put_datasets, put_evaluation
from residency.importers.ledger import Ledger, is_off
from residency.importers.sources import Places, put_model_id

LORA = LoraKeys("lora_r", "lora_alpha", "lora_dropout", "peft_use_dora", "peft_use_rslora", None, None)
SEQUENCE_LENGTH = 512
LENGTH_POLICIES = {"drop": "drop", "truncate": "cut_answer", "raise": "refuse"}
CHECKPOINTS_KEPT = 4
WARMUP_SHARE = 0.03


def read_axolotl(theirs: Mapping[str, Any], places: Places) -> Ledger:
    """Whatever cannot become a run is in `refusals`."""
    ledger = Ledger(theirs, "Axolotl")
    refuse_what_is_not_here(ledger)
    put_model(ledger, places)
    put_datasets(ledger, places)
    put_evaluation(ledger, places)
    length = put_length(ledger)
    put_adapter(ledger)
    put_training(ledger, length)
    ledger.close(keys.NO_EFFECT, keys.LEFT_OUT, keys.SEEN_TO)
    return ledger


def refuse_what_is_not_here(ledger: Ledger) -> None:
    if method := ledger.take("rl"):
        later = arrives_later(str(method)) or "neither are other kinds of reinforcement"
        ledger.refuse("rl", f"{method} is not here yet: {later}; supervised fine-tuning is")
    for key, what in keys.REFUSED.items():
        value = ledger.left.get(key)
        if value is not None and not is_off(value):
            ledger.refuse(key, what)
    kind = ledger.take("model_type")
    if isinstance(kind, str) and "Classification" in kind:
        ledger.refuse("model_type", f"{kind} is no model that generates text")
    elif kind:
        ledger.note("no_effect", "model_type", "the model's own config says its class")
    plugins = ledger.take("plugins")
    for plugin in plugins if isinstance(plugins, list) else []:
        name = str(plugin).rpartition(".")[2]
        if name in keys.PLUGINS_FOR_SPEED:
            ledger.note("no_effect", f"plugins: {name}", "changes speed or memory only")
        else:
            ledger.note("left_out", f"plugins: {name}", "plugins of Axolotl's do not run here")


def put_model(ledger: Ledger, places: Places) -> None:
    model = ledger.take("base_model")
    if not isinstance(model, str) or not model:
        ledger.refuse("base_model", "is missing; add it")
        return
    put_model_id(ledger, "base_model", model, places)
    for key in ("revision_of_model", "model_revision"):
        if revision := ledger.take(key):
            ledger.carry(key, "model.revision", revision)
    if ledger.take("trust_remote_code"):
        ledger.carry("trust_remote_code", "model.trust_remote_code", True)
    put_template(ledger, places)
    special = ledger.take("special_tokens")
    if isinstance(special, Mapping) and set(special) <= {"pad_token"}:
        ledger.note("no_effect", "special_tokens", "padding needs no token here")
    elif special:
        ledger.note("left_out", "special_tokens", "the tokenizer is used as it is: where yours changes what ends an "
                    "answer, put that into a Jinja file and name it in model.chat_template")  # fmt: skip


def put_template(ledger: Ledger, places: Places) -> None:
    template, own = ledger.take("chat_template"), ledger.take("chat_template_jinja")
    file = places.find(own)
    if file is not None and file.is_file():
        ledger.carry("chat_template_jinja", "model.chat_template", places.ours(file))
    elif own:
        ledger.note("to_do", "chat_template_jinja", "save this template as a file and name it in model.chat_template")
    elif template in ("chatml", "llama3"):
        ledger.carry("chat_template", "model.chat_template", template)
        return
    if template == "tokenizer_default":
        ledger.note("carried", "chat_template", "the model's own template")
    elif template and not own:
        ledger.note("differs", "chat_template", f"the model's own template is used, not Axolotl's copy of "
                    f"{template}; a model without one needs a Jinja file in model.chat_template")  # fmt: skip


def put_length(ledger: Ledger) -> int:
    length, policy = ledger.whole("sequence_len"), ledger.take("excess_length_strategy")
    tokens = length or SEQUENCE_LENGTH
    ledger.carry("sequence_len", "data.max_length_tokens", tokens, default=not length)
    ours = LENGTH_POLICIES.get(str(policy or "drop"))
    if ours is None:
        ledger.refuse("excess_length_strategy", f"must be one of {', '.join(LENGTH_POLICIES)}")
    else:
        ledger.carry("excess_length_strategy", "data.over_long", ours, default=policy is None)
    everything = ledger.take("train_on_inputs")
    if everything and ledger.run["method"]["name"] == "pretrain":
        ledger.note("carried", "train_on_inputs", "pretrain trains on every token")
    elif everything:
        ledger.note("differs", "train_on_inputs", "only answers are trained here; for every token of a text use "
                    'method: {name: pretrain} and rows {"text": ...}')  # fmt: skip
    return tokens


def put_adapter(ledger: Ledger) -> None:
    kind, four, eight = (ledger.take(key) for key in ("adapter", "load_in_4bit", "load_in_8bit"))
    if kind not in (None, "", "lora", "qlora"):
        ledger.refuse("adapter", f"{kind} is not here; LoRA, QLoRA and full fine-tuning are")
        ledger.put("adapter.kind", "full")
        return
    if not kind:
        ledger.carry("adapter", "adapter.kind", "full", default=True)
        for key in [key for key in ledger.left if key.startswith("lora_")]:
            if ledger.take(key) is not None:
                ledger.note("no_effect", key, "there is no adapter")
        return
    # Axolotl quantises the base to 4 bits for qlora only, to 8 for lora only.
    ledger.carry("adapter", "adapter.kind", kind)
    if kind == "qlora":
        ledger.note("carried", "load_in_4bit", "qlora holds the base in 4 bits")
    elif eight:
        ledger.note("differs", "load_in_8bit", "the base is held in 16 bits, or in 4 with adapter.kind: qlora")
    elif four:
        ledger.note("no_effect", "load_in_4bit", "Axolotl holds the base of lora in 16 bits")
    put_lora(ledger, LORA)
    put_targets(ledger)


def put_targets(ledger: Ledger) -> None:
    names, linear = ledger.take("lora_target_modules"), ledger.take("lora_target_linear")
    if linear:
        ledger.carry("lora_target_linear", "adapter.targets", "all-linear")
        if names:
            ledger.note("carried", "lora_target_modules", "are among all linear layers")
    elif names:
        ledger.carry("lora_target_modules", "adapter.targets", names)
    elif not ledger.left.get("lora_target_parameters"):
        ledger.refuse("lora_target_modules", "no module gets an adapter; name some, or set lora_target_linear: true")


def put_training(ledger: Ledger, length: int) -> None:
    training.duration(ledger, "num_epochs", 1.0)
    put_batch(ledger, length)
    training.optimizer(ledger, "optimizer", None)
    training.schedule(ledger, "lr_scheduler", "cosine")
    put_lowest_rate(ledger)
    training.warmup(ledger, WARMUP_SHARE)
    training.regularisation(ledger)
    for key, path in (("evals_per_epoch", "eval_every_steps"), ("saves_per_epoch", "save_every_steps")):
        times = ledger.number(key)
        if times == 1 and not (path == "eval_every_steps" and ledger.run["data"].get("eval") is None):
            ledger.carry(key, f"train.{path}", "epoch")
        elif times is not None:
            ledger.note("no_effect", key, f"train.{path}: auto")
    training.saving(ledger, CHECKPOINTS_KEPT)
    training.measuring(ledger, "early_stopping_patience")
    training.precision(ledger, ("bfloat16", "float16"))
    training.what_theirs_lacks(ledger)


def put_lowest_rate(ledger: Ledger) -> None:
    """After the schedule: the share of the peak that Axolotl's cosine falls to."""
    share = ledger.number("cosine_min_lr_ratio")
    if share is None:
        return
    if ledger.run["train"]["schedule"] != "cosine" or share <= 0:
        ledger.note("no_effect", "cosine_min_lr_ratio", "the rate falls to zero, or not by a cosine")
    elif share >= 1:
        ledger.carry("cosine_min_lr_ratio", "train.schedule", "constant")
    else:
        ledger.note("differs", "cosine_min_lr_ratio", f"the rate falls to zero here, not to {share:g} of its peak")


def put_batch(ledger: Ledger, length: int) -> None:
    packed = bool(ledger.take("sample_packing"))
    ledger.note("no_effect", "sample_packing", "rows are always packed here, and never see one another (speed.packing)")
    total = ledger.whole("batch_size")
    if total is not None and ledger.left.get("gradient_accumulation_steps") is None:
        ledger.left["micro_batch_size"] = total
        ledger.note("carried", "batch_size", "is the whole of a step")
    elif total is not None:
        ledger.note("no_effect", "batch_size", "gradient_accumulation_steps goes first")
    training.batch_size(ledger, ("micro_batch_size", 1), packed_tokens=length if packed else None)
