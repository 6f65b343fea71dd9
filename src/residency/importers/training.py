"""What configs of Axolotl and LLaMA-Factory share, by way of transformers' Trainer: steps, schedule, optimizer, saves.

Where a key is absent, the value that their tool would take is written out: `auto` here would be another run.
"""

from __future__ import annotations

import math

from residency.config.steps import LONGEST_WARMUP_STEPS
from residency.importers.ledger import Ledger

SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}
ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused")
ADAMW_IN_FEWER_BITS = (
    "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "paged_adamw", "adamw_torch_8bit",
    "adamw_torch_4bit", "ao_adamw_8bit", "ao_adamw_4bit", "ao_adamw_fp8",
)  # fmt: skip
BETAS_AND_EPSILON = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
DEVICES = "of one device; multiply it by the devices that yours ran on"


def batch_size(ledger: Ledger, rows: tuple[str, int], accumulation: str = "gradient_accumulation_steps",
               packed_tokens: int | None = None) -> None:  # fmt: skip
    """`rows`: the key of the rows a device takes at once, and its default; `packed_tokens`: what one of them holds
    where it is packed of several rows."""
    key, default = rows
    at_once, times = ledger.whole(key), ledger.whole(accumulation)
    size = (default if at_once is None else at_once) * (times or 1)
    keys = f"{key}, {accumulation}"
    if packed_tokens is None:
        ledger.put("train.batch_size", size)
        ledger.note("carried", keys, f"train.batch_size: {size}, {DEVICES}")
        return
    ledger.put("train.batch_size", "auto")
    ledger.note("differs", keys, f"train.batch_size: auto. Theirs counts packs of {packed_tokens:,} tokens, {size} a "
                f"step and device; ours counts rows. For as many steps set {size * packed_tokens:,} divided by the "
                "mean tokens of a row (`residency check run.yaml` counts rows and tokens)")  # fmt: skip


def duration(ledger: Ledger, key: str, default: float) -> None:
    epochs, steps = ledger.number(key), ledger.whole("max_steps")
    if steps is not None and steps > 0:
        ledger.carry("max_steps", "train.max_steps", steps)
        ledger.put("train.epochs", steps)
        ledger.note("carried", key, f"train.epochs: {steps}, which is never reached: as in {ledger.tool} max_steps "
                    "alone says when to stop")  # fmt: skip
    elif epochs is None:
        ledger.carry(key, "train.epochs", default, default=True)
    else:
        ledger.carry(key, "train.epochs", epochs)


def schedule(ledger: Ledger, key: str, default: str) -> None:
    name = ledger.take(key)
    theirs = str(default if name is None else name)
    ours = SCHEDULES.get(theirs)
    if ours is None or ours == "wsd":
        near = ours or "cosine"
        ledger.put("train.schedule", near)
        what = "decays over the last fifth" if ours else "is the nearest of linear, cosine, constant and wsd"
        ledger.note("differs", key, f"{theirs} becomes train.schedule: {near}, which {what}")
    else:
        ledger.carry(key, "train.schedule", ours, default=name is None)
    if theirs == "constant":  # transformers' has no warm-up, whatever the other keys say
        for other in ("warmup_ratio", "warmup_steps"):
            if ledger.take(other) is not None:
                ledger.note("no_effect", other, f"{ledger.tool}'s constant schedule has no warm-up")
        ledger.carry("warmup_ratio", "train.warmup_share", 0, default=True)


def warmup(ledger: Ledger, default: float) -> None:
    """After `schedule` and `duration`. A warm-up here takes 20 steps at most."""
    if "warmup_share" in ledger.run["train"]:
        return
    ratio, steps = ledger.number("warmup_ratio"), ledger.number("warmup_steps")
    total = ledger.run["train"].get("max_steps")
    key = "warmup_ratio"
    share: float | None = ratio or (default if ratio is None and steps is None else 0.0)
    if steps:  # transformers reads a number below 1 as a share
        key, share = "warmup_steps", steps if steps < 1 else steps / total if total else None
    if share is None:
        ledger.put("train.warmup_share", 0.03)
        ledger.note("differs", key, f"a warm-up by steps becomes train.warmup_share: 0.03, as a share cannot "
                    f"be told without the data; set it to {steps:g} divided by all steps (at most "
                    f"{LONGEST_WARMUP_STEPS} steps are taken)")  # fmt: skip
    elif not 0 <= share < 1:
        ledger.refuse(key, f"a warm-up of {share:g} of all steps leaves none to train in")
    else:
        ledger.carry(key, "train.warmup_share", round(share, 6), default=ratio is None and steps is None)
        if share and (total is None or math.ceil(share * total) > LONGEST_WARMUP_STEPS):
            ledger.note("differs", key, f"the rate rises over {LONGEST_WARMUP_STEPS} steps at most here, and is at its "
                        "peak from there on")  # fmt: skip


def optimizer(ledger: Ledger, key: str, learning_rate: float | None) -> None:
    """The optimizer and its rate, which means nothing to another one. `learning_rate`: the default, where there is."""
    name = str(ledger.take(key) or "adamw_torch_fused")
    rate = ledger.number("learning_rate")
    for setting, ours in BETAS_AND_EPSILON.items():
        value = ledger.number(setting)
        if value == ours:
            ledger.note("carried", setting, f"AdamW's is {ours:g}")
        elif value is not None:
            ledger.note("differs", setting, f"AdamW's is {ours:g} here, not {value:g}")
    if name not in (*ADAMW, *ADAMW_IN_FEWER_BITS):
        ledger.put("train.learning_rate", "auto")
        ledger.note("differs", f"{key}, learning_rate", f"{name} is not here, AdamW is; train.learning_rate: auto, "
                    f"as a rate for {name} is none for AdamW")  # fmt: skip
        return
    if name in ADAMW_IN_FEWER_BITS:
        ledger.note("differs", key, f"{name} becomes AdamW with its state in 32 bits: the same rule, more memory")
    else:
        ledger.note("carried", key, "AdamW")
    if rate is None and learning_rate is None:
        ledger.refuse("learning_rate", f"is missing, and {ledger.tool} has no default; add it")
    else:
        ledger.carry("learning_rate", "train.learning_rate", learning_rate if rate is None else rate,
                     default=rate is None)  # fmt: skip


def regularisation(ledger: Ledger, weight_decay: float = 0.0, *, of_all: bool = False) -> None:
    """After the adapter. `weight_decay`: the default; `of_all`: norms and biases decay too, as here."""
    decay, norm, seed = ledger.number("weight_decay"), ledger.number("max_grad_norm"), ledger.whole("seed")
    ledger.carry("weight_decay", "train.weight_decay", weight_decay if decay is None else decay, default=decay is None)
    if decay and not of_all and ledger.run["adapter"]["kind"] == "full":
        ledger.note("differs", "weight_decay", f"norms and biases decay too here; {ledger.tool} leaves them out")
    ledger.carry("max_grad_norm", "train.max_grad_norm", 1.0 if norm is None else norm or None, default=norm is None)
    ledger.carry("seed", "train.seed", 42 if seed is None else seed, default=seed is None)


def precision(ledger: Ledger, pure: tuple[str, ...]) -> None:
    """`pure`: keys that ask for weights in 16 bits."""
    bf16, fp16 = ledger.take("bf16"), ledger.take("fp16")
    for key in pure:
        if ledger.take(key):
            bf16 = True
            ledger.note("differs", key, "trained weights are held in 32 bits here and multiplied in bf16")
    if fp16 is True and bf16 is not True:
        ledger.put("speed.precision", "auto")
        ledger.note("differs", "fp16", "speed.precision: auto; there is no fp16 here, but bf16 where it is faster")
        return
    value = {True: "bf16", False: "fp32"}.get(bf16, "auto") if isinstance(bf16, bool) else "auto"
    ledger.carry("bf16", "speed.precision", value, default=bf16 is None)
    if fp16 is not None:
        ledger.note("no_effect", "fp16", "is off")


def saving(ledger: Ledger, keep: int | None) -> None:
    """Checkpoints; `keep`: how many their tool keeps where nothing is said, None for all."""
    steps, strategy, total = ledger.number("save_steps"), ledger.take("save_strategy"), ledger.whole("save_total_limit")
    if strategy == "epoch":
        ledger.carry("save_strategy", "train.save_every_steps", "epoch")
    elif strategy is not None:
        ledger.note("no_effect", "save_strategy", "checkpoints are written in any case, for --resume")
    if steps is not None and steps >= 1 and strategy in (None, "steps"):
        ledger.carry("save_steps", "train.save_every_steps", int(steps))
    elif steps is not None:
        ledger.note("no_effect", "save_steps", "train.save_every_steps: auto")
    kept = keep if total is None else total
    if kept:
        ledger.carry("save_total_limit", "train.keep_checkpoints", kept, default=total is None)


def measuring(ledger: Ledger, patience_key: str) -> None:
    """When the held-out loss is measured, and what is done about it; after the data. `patience_key`: their number of
    measurements without a better loss that ends the training."""
    patience, best = ledger.whole(patience_key), ledger.take("load_best_model_at_end")
    steps, strategy = ledger.number("eval_steps"), ledger.take("eval_strategy")
    held_out = ledger.run["data"].get("eval") is not None
    if strategy == "epoch" and held_out:
        ledger.carry("eval_strategy", "train.eval_every_steps", "epoch")
    elif strategy is not None:
        ledger.note("no_effect", "eval_strategy", "train.eval_every_steps says when the held-out loss is measured"
                    if held_out else "there are no held-out rows")  # fmt: skip
    if steps is not None and steps >= 1 and held_out:
        ledger.carry("eval_steps", "train.eval_every_steps", int(steps))
    elif steps is not None:
        ledger.note(
            "no_effect", "eval_steps", "train.eval_every_steps: auto" if held_out else "there are no held-out rows"
        )
    ledger.carry(patience_key, "train.patience", patience if patience and held_out else None, default=not patience)
    if held_out and best:
        ledger.note("carried", "load_best_model_at_end", "the result is the checkpoint with the best held-out loss")
    elif held_out:
        ledger.note("differs", "load_best_model_at_end", "the result is the checkpoint with the best held-out loss; "
                    f"{ledger.tool}'s, without this key, is the last one")  # fmt: skip


def what_theirs_lacks(ledger: Ledger) -> None:
    """Settings that would make another run of it."""
    ledger.put("retention.replay", False)
    ledger.note("carried", "(no key)", f"retention.replay: false, as {ledger.tool} replays nothing; auto would hold "
                "the model nearer to its base")  # fmt: skip
