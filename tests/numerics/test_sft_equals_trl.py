"""Loss, gradients and trajectory are those of TRL's SFTTrainer on the same batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from residency.data.messages import Rendered
from residency.engine.engine import Engine
from residency.engine.optim import StepSettings
from tests.conftest import random_rows, tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and accelerate's own

STEPS, BATCH, RATE = 4, 4, 1e-2


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")


def trl_trainer(rows: Sequence[Rendered], folder: Path, **changes: Any) -> Any:
    from trl import SFTConfig, SFTTrainer

    vocabulary = {f"t{i}": i for i in range(300)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t0")), eos_token="t1", pad_token="t2"
    )
    dataset = Dataset.from_list(
        [{"input_ids": row.input_ids.tolist(), "completion_mask": row.trained.astype(int).tolist()} for row in rows]
    )
    settings: dict[str, Any] = dict(  # noqa: C408  # reads as the call it becomes
        output_dir=str(folder), per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=RATE,
        lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, optim="adamw_torch",
        logging_steps=1, report_to=[], save_strategy="no", bf16=False, use_cpu=True, gradient_checkpointing=False,
        completion_only_loss=True, max_length=None, train_sampling_strategy="sequential", dataloader_pin_memory=False,
        disable_tqdm=True, seed=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return SFTTrainer(
        model=tiny_llama(), args=SFTConfig(**(settings | changes)), train_dataset=dataset,
        processing_class=tokenizer, peft_config=lora(),
    )  # fmt: skip


def engine_with_weights_of(trainer: Any) -> Engine:
    engine = Engine(tiny_llama())
    engine.add_adapter("one", lora())
    theirs = dict(trainer.model.named_parameters())
    with torch.no_grad():
        for name, parameter in engine._trained["one"].parameters.items():
            parameter.copy_(theirs[name.replace(".one.", ".default.")])
    return engine


def test_loss_and_gradients_of_a_batch(tmp_path: Path) -> None:
    rows = random_rows(BATCH)
    trainer = trl_trainer(rows, tmp_path)
    engine = engine_with_weights_of(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    count = (batch["labels"][:, 1:] != -100).sum()
    loss = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=count)
    loss.backward()
    ours = engine.forward_backward({"one": rows})["one"]
    assert ours.tokens == int(count)
    assert ours.mean == pytest.approx(loss.item(), rel=1e-5)
    theirs = dict(trainer.model.named_parameters())
    for name, parameter in engine._trained["one"].parameters.items():
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad / ours.tokens, theirs[name.replace(".one.", ".default.")].grad, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    "changes", [{}, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": BATCH}], ids=["4x1", "1x4"]
)
def test_losses_and_gradient_norms_over_several_steps(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = random_rows(STEPS * BATCH)
    trainer = trl_trainer(rows, tmp_path, **changes)
    engine = engine_with_weights_of(trainer)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == STEPS
    for step, entry in enumerate(log):
        loss = engine.forward_backward({"one": rows[step * BATCH : (step + 1) * BATCH]})["one"]
        norm = engine.step({"one": StepSettings(RATE)})["one"]
        assert loss.mean == pytest.approx(entry["loss"], rel=1e-4)
        assert norm == pytest.approx(entry["grad_norm"], rel=1e-3)
