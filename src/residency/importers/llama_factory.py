"""A LLaMA-Factory config as a run file, with a note for every key. Written against LLaMA-Factory 0.9.6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from residency.config.methods import arrives_later
from residency.importers import llama_factory_keys as keys
from residency.importers import training
from residency.importers.adapter import LoraKeys, put_lora
from residency.importers.ledger import Ledger
from residency.importers.llama_factory_data import put_datasets, put_evaluation
from residency.importers.sources import Places, put_model_id

LORA = LoraKeys("lora_rank", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", 8, 2)
CUTOFF = 2048


def read_llama_factory(theirs: Mapping[str, Any], places: Places) -> Ledger:
    """Whatever cannot become a run is in `refusals`."""
    ledger = Ledger(theirs, "LLaMA-Factory")
    for key, value in theirs.items():
        if isinstance(value, str) and "${" in value:
            ledger.refuse(key, f"is put together by OmegaConf ({value}); write the value out")
    stage = put_stage(ledger)
    put_model(ledger, places)
    put_datasets(ledger, places, stage)
    put_evaluation(ledger, places)
    length = put_length(ledger)
    put_adapter(ledger)
    put_training(ledger, stage, length)
    ledger.close(keys.NO_EFFECT, keys.LEFT_OUT, keys.SEEN_TO)
    return ledger


def put_stage(ledger: Ledger) -> str:
    stage = str(ledger.take("stage") or "sft")
    if later := arrives_later(stage):
        ledger.refuse("stage", f"{stage} is not here yet: {later}; sft and pt are")
    elif stage not in ("sft", "pt"):
        ledger.refuse("stage", f"{stage} is not here; sft and pt are")
    if ledger.take("do_train") is not True:
        ledger.refuse("do_train", "is not true: this config trains nothing. `residency export --merged` merges an "
                      "adapter, `residency chat` talks with a model, `residency eval` measures it")  # fmt: skip
    for key, what in keys.REFUSED.items():
        if ledger.left.get(key):
            ledger.refuse(key, what)
    ledger.note("carried", "stage, do_train", "method.name: " + ("pretrain" if stage == "pt" else "sft"))
    return stage


def put_model(ledger: Ledger, places: Places) -> None:
    model, revision = ledger.take("model_name_or_path"), ledger.take("model_revision")
    if not isinstance(model, str) or not model:
        ledger.refuse("model_name_or_path", "is missing; add it")
        return
    put_model_id(ledger, "model_name_or_path", model, places)
    if revision and revision != "main":
        ledger.carry("model_revision", "model.revision", revision)
    if ledger.take("trust_remote_code"):
        ledger.carry("trust_remote_code", "model.trust_remote_code", True)
    if template := ledger.take("template"):
        ledger.note("differs", "template", f"the model's own chat template is used, where LLaMA-Factory writes its "
                    f"own text ({template}): a default system turn or an empty <think> block may differ. A base "
                    "model without a template needs model.chat_template: chatml, llama3, or a Jinja file")  # fmt: skip


def put_length(ledger: Ledger) -> int:
    length = ledger.whole("cutoff_len")
    ledger.carry("cutoff_len", "data.max_length_tokens", length or CUTOFF, default=not length)
    if ledger.run["method"]["name"] == "sft":
        ledger.note("differs", "cutoff_len", "longer rows are dropped, with a count; LLaMA-Factory cuts prompt and "
                    "answer, as data.over_long: cut_answer does with the answer")  # fmt: skip
    if ledger.take("train_on_prompt"):
        ledger.note("differs", "train_on_prompt", "only answers are trained here")
    if ledger.take("mask_history"):
        ledger.carry("mask_history", "data.train_on", "last_answer")
    return length or CUTOFF


def put_adapter(ledger: Ledger) -> None:
    kind = str(ledger.take("finetuning_type") or "lora")
    bits, method = ledger.whole("quantization_bit"), ledger.take("quantization_method")
    if kind == "full":
        ledger.carry("finetuning_type", "adapter.kind", "full")
    elif kind == "lora":
        put_lora_kind(ledger, bits, method)
    elif kind == "oft":
        put_oft(ledger, bits)
    else:
        ledger.refuse("finetuning_type", f"{kind} trains a part of the layers, which is not here; lora and full are")
        ledger.put("adapter.kind", "full")


def put_lora_kind(ledger: Ledger, bits: int | None, method: Any) -> None:
    kind = "qlora" if bits == 4 else "lora"
    ledger.carry("finetuning_type", "adapter.kind", kind)
    if bits == 4 and method in (None, "bnb", "bitsandbytes"):
        ledger.note("carried", "quantization_bit, quantization_method", "qlora holds the base in 4 bits (NF4)")
    elif bits == 4:
        ledger.note("differs", "quantization_bit, quantization_method", f"the base is quantised by NF4, not {method}")
    elif bits:
        ledger.note("differs", "quantization_bit, quantization_method", f"the base is held in 16 bits, not {bits}; "
                    "adapter.kind: qlora holds it in 4")  # fmt: skip
    put_lora(ledger, LORA)
    put_targets(ledger, "lora_target", "adapter.targets")


def put_targets(ledger: Ledger, key: str, path: str) -> None:
    given = ledger.take(key)
    names = given if isinstance(given, list) else [name.strip() for name in str(given or "all").split(",")]
    ledger.carry(key, path, "all-linear" if names == ["all"] else names, default=given is None)


def put_oft(ledger: Ledger, bits: int | None) -> None:
    """Orthogonal fine-tuning (arXiv 2311.06243), through PEFT as theirs."""
    ledger.run["adapter"] = {"kind": "peft", "type": "OFT"}
    ledger.note("carried", "finetuning_type", "adapter.kind: peft, type: OFT")
    options: dict[str, Any] = {"r": ledger.whole("oft_rank") or 0}
    block, dropout = ledger.whole("oft_block_size"), ledger.number("module_dropout")
    options["oft_block_size"] = 0 if options["r"] else 32 if block is None else block
    options["module_dropout"] = dropout or 0.0
    given = str(ledger.take("oft_target") or "all")
    options["target_modules"] = "all-linear" if given == "all" else [name.strip() for name in given.split(",")]
    ledger.put("adapter.options", options)
    ledger.note("carried", "oft_rank, oft_block_size, oft_target, module_dropout", f"adapter.options: {options}")
    if bits:
        ledger.note("differs", "quantization_bit, quantization_method", f"the base is held in 16 bits, not {bits}: "
                    "only LoRA trains on a quantised one here")  # fmt: skip


def put_training(ledger: Ledger, stage: str, length: int) -> None:
    training.duration(ledger, "num_train_epochs", 3.0)
    put_batch(ledger, stage, length)
    for name in ("galore", "apollo", "badam", "adam_mini", "muon"):
        if ledger.take(f"use_{name}"):
            ledger.note("differs", f"use_{name}", "is not here; AdamW is")
            ledger.left["optim"] = name
    training.optimizer(ledger, "optim", 5e-5)
    training.schedule(ledger, "lr_scheduler_type", "linear")
    training.warmup(ledger, 0.0)
    training.regularisation(ledger)
    training.saving(ledger, None)
    training.measuring(ledger, "early_stopping_steps")
    training.precision(ledger, ("pure_bf16",))
    training.what_theirs_lacks(ledger)


def put_batch(ledger: Ledger, stage: str, length: int) -> None:
    asked, neat = ledger.take("packing"), ledger.take("neat_packing")
    packed = bool(neat or (stage == "pt" if asked is None else asked))
    if packed and not neat:
        ledger.note("differs", "packing", "packed rows never see one another here; in LLaMA-Factory they do, unless "
                    "neat_packing is on")  # fmt: skip
    else:
        ledger.note("no_effect", "packing", "rows are always packed here, and never see one another (speed.packing)")
    training.batch_size(ledger, ("per_device_train_batch_size", 8), packed_tokens=length if packed else None)
