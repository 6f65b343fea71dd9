"""A run's result for use elsewhere: the adapter as it is, or merged into a model that stands alone.

A merged model is written aside, read back by transformers alone, and must give the adapter's logits before it takes
its place. An adapter trained on a 4-bit base is merged into the base's own 16-bit (or 32-bit) weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from residency import durable
from residency.config.model import Full, Qlora, ResolvedConfig
from residency.data.render import renderer_for
from residency.errors import RunError
from residency.models.chat import fit_embeddings
from residency.models.load import load_config, load_model
from residency.models.quiet import quiet_transformers
from residency.records import RunFolder
from residency.wording import counted

PROBE = "The quick brown fox jumps over the lazy dog. 1 + 1 = 2; \N{GREEK SMALL LETTER PI} is about 3.14159."
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of a logit that rounding explains, as a share of the largest logit."""


@dataclass(frozen=True, slots=True)
class Exported:
    folder: Path
    kind: Literal["adapter", "merged model", "model"]
    notes: list[str]


def export_adapter(run: RunFolder, resolved: ResolvedConfig, out: Path) -> Exported:
    """A copy of the adapter (full fine-tuning: of the model), with tokenizer and chat template.

    Raises RunError where there is no result yet or `out` exists.
    """
    source = result_of(run, resolved)
    with new_folder(out) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)
    return Exported(out, "model" if isinstance(resolved.adapter, Full) else "adapter", [])


def export_merged(run: RunFolder, resolved: ResolvedConfig, out: Path) -> Exported:
    """A plain transformers model: weights, tokenizer, chat template, and where generation ends.

    Raises RunError where there is no result yet, `out` exists, or the merged model does not answer as the adapter does.
    """
    if isinstance(resolved.adapter, Full):
        copied = export_adapter(run, resolved, out)
        return Exported(out, copied.kind, ["full fine-tuning has no adapter to merge: the model itself was copied"])
    adapter = result_of(run, resolved)
    dtype = own_dtype(resolved)
    notes = [f"the weights are {str(dtype).removeprefix('torch.')}, as the base model's"]
    if isinstance(resolved.adapter, Qlora):
        notes.append(
            "the adapter was trained on a 4-bit base and is merged into the unquantised one: answers can differ a "
            "little from those in the report; measure the merged model where that matters"
        )
    with new_folder(out) as aside, quiet_transformers():
        difference = write_merged(adapter, resolved, dtype, aside)
    notes.append(f"read back by transformers alone, its logits differ from the adapter's by {difference:.1e} at most")
    return Exported(out, "merged model", notes)


def result_of(run: RunFolder, resolved: ResolvedConfig) -> Path:
    folder = run / ("model" if isinstance(resolved.adapter, Full) else "adapter")
    if not folder.is_dir():
        raise RunError(
            f"{run.path} has no result yet", param=str(run.path), hint="finish it with `residency train --resume`"
        )
    return folder


def own_dtype(resolved: ResolvedConfig) -> torch.dtype:
    """What the base model's weights are stored as."""
    stored = load_config(resolved.model).dtype
    return stored if stored in TOLERANCE else torch.float32


def write_merged(adapter: Path, resolved: ResolvedConfig, dtype: torch.dtype, folder: Path) -> float:
    """Returns the largest difference of a logit, as a share of the largest."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter, local_files_only=True)
    base: Any = load_model(resolved.model, dtype=dtype, device=torch.device("cpu"))
    fit_embeddings(base, len(tokenizer))
    tuned = load_adapter(base, adapter)
    expected = logits(tuned, tokenizer)
    merged = tuned.merge_and_unload(safe_merge=True)
    set_generation_end(merged, tokenizer)
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del base, tuned, merged
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
    return require_equal(expected, logits(alone, tokenizer), dtype)


def load_adapter(base: Any, adapter: Path) -> Any:
    """The adapter on its base, in plain PEFT. Raises RunError where its files are damaged or not all of it."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(adapter / "adapter_model.safetensors").keys()
        tuned = PeftModel.from_pretrained(base, adapter).eval()
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise RunError(f"{adapter} cannot be read: {str(error).splitlines()[0]}", param=str(adapter)) from error
    # PEFT only warns of weights that the file lacks, and leaves them as they begin: at nothing learned.
    if lacking := get_peft_model_state_dict(tuned, save_embedding_layers=False).keys() - stored:
        weights = counted(len(lacking), "weight")
        raise RunError(f"{adapter} cannot be read: it lacks {weights}, for example {min(lacking)}",
                       param=str(adapter))  # fmt: skip
    return tuned


@torch.no_grad()
def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    """Of a short text between all special tokens, in float32; shape (tokens, vocabulary)."""
    ids = [*tokenizer(PROBE, add_special_tokens=False)["input_ids"], *sorted(tokenizer.added_tokens_decoder)[-16:]]
    output: torch.Tensor = model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float()
    return output


def require_equal(expected: torch.Tensor, found: torch.Tensor, dtype: torch.dtype) -> float:
    difference = float((expected - found).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE[dtype]:
        raise RunError(
            f"the merged model does not answer as the adapter does: its logits differ by {difference:.1%}",
            hint="export the adapter itself (without --merged), which stays exact",
            code="merge_differs",
        )
    return difference


def set_generation_end(model: Any, tokenizer: Any) -> None:
    """Whoever generates with the model stops at the end of a turn, without knowing of it."""
    ends = renderer_for(tokenizer).stop_ids if tokenizer.chat_template else (tokenizer.eos_token_id,)
    model.generation_config.eos_token_id = list(ends)
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` once all is well. Raises RunError where `out` exists."""
    if out.exists():
        raise RunError(f"{out} exists already, and nothing is overwritten", param=str(out), hint="name a new folder")
    aside = out.with_name(f".{out.name}.writing")
    with durable.disk_errors(out):
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            yield aside
            aside.rename(out)
            durable.sync_folder(out.parent)
        except (NotADirectoryError, FileExistsError):
            raise RunError(f"{out} cannot be made: a part of this path is a file", param=str(out)) from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
