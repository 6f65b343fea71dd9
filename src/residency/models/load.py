"""Finds a model on this machine, or fetches it, and loads its config, tokenizer and weights. Safetensors only."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residency.config.model import Model
from residency.errors import ModelError, ResourceError
from residency.models.hub import fetch_from_hub, is_hub_id, unknown
from residency.models.nf4 import keep_differentiable, nf4
from residency.models.processor import processor_name
from residency.models.quiet import quiet_transformers
from residency.models.starter import STARTER_ID, fetch_starter
from residency.wording import counted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
INDEX = "model.safetensors.index.json"


def locate(model: Model, *, weights: bool = True) -> Path:
    """The model's folder, fetched if it has to be; without `weights` only its config and tokenizer need be there.

    Raises ModelError, which says what to do, where it is missing, damaged, has no safetensors, or needs remote code.
    """
    if model.id == STARTER_ID:
        return fetch_starter()
    path = Path(model.id).expanduser()
    folder = path if path.exists() or not is_hub_id(model.id) else fetch_from_hub(model, weights)
    require_folder(folder, model)
    if weights:
        require_safetensors(folder, model)
    return folder


def require_folder(folder: Path, model: Model) -> None:
    if not folder.exists():
        raise unknown(model, f"there is no model folder {folder}")
    if not folder.is_dir():
        raise unknown(model, f"{folder} is a file, not a model folder")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise unknown(model, f"{folder} holds an adapter, not a model: name its base model")
        raise unknown(model, f"{folder} is not a model folder: it has no config.json")
    config = read_json(folder / "config.json")
    if "auto_map" in config and not model.trust_remote_code and not known_type(config.get("model_type")):
        raise ModelError(
            f"{model.id} needs Python code that comes with it ({', '.join(sorted(set(config['auto_map'].values())))})",
            hint="read that code; if you trust it, set model.trust_remote_code: true",
            param="model.trust_remote_code",
            code="remote_code_refused",
        )
    quantised = config.get("quantization_config", {}).get("quant_method")
    if quantised not in (None, "bitsandbytes"):
        raise ModelError(
            f"{model.id} is quantised with {quantised} and cannot be trained",
            hint="name the original, unquantised model; `adapter.kind: qlora` quantises it while loading",
            param="model.id",
        )


def known_type(model_type: str | None) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(path, str(error)) from None
    if not isinstance(value, dict):
        raise damaged(path, "it is no JSON object")
    return value


def damaged(path: Path, reason: str) -> ModelError:
    hint = "copy or fetch the model again (delete the folder first if it is in a cache)"
    return ModelError(f"{path} is damaged: {reason}", hint=hint, param="model.id", code="model_damaged")


def require_safetensors(folder: Path, model: Model) -> None:
    """Every weight file is there, whole, and in safetensors format."""
    from safetensors import SafetensorError, safe_open

    if (folder / INDEX).is_file():
        files = sorted({folder / name for name in read_json(folder / INDEX).get("weight_map", {}).values()})
    else:
        files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(True for pattern in PICKLES for _ in folder.glob(pattern))
        raise ModelError(
            f"{model.id} has no weights in safetensors format in {folder}",
            hint="pickle files can run code and are never loaded: convert them to safetensors, or name another revision"
            if pickled
            else "if the network was down, connect and run again; else name a model that has safetensors",
            param="model.id",
            code="no_safetensors",
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        some = f"{len(missing)} of {counted(len(files), 'weight file')}"
        raise damaged(folder, f"{some} missing ({', '.join(missing[:3])})")
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise damaged(file, str(error)) from None


def load_config(model: Model) -> PreTrainedConfig:
    """The model's transformers config; reads no weights. Raises ModelError."""
    folder = locate(model, weights=False)
    with library_errors(model, "config"), quiet_transformers():
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code, local_files_only=True)


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """The model's own tokenizer, with its chat template if it has one. Raises ModelError."""
    folder = locate(model, weights=False)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise ModelError(
            f"{model.id} has no tokenizer in {folder}",
            hint="copy tokenizer.json and tokenizer_config.json of the same model into its folder",
            param="model.id",
        )
    with library_errors(model, "tokenizer"), quiet_transformers():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code, local_files_only=True)


def load_model(model: Model, *, dtype: torch.dtype, device: torch.device, quantize: bool = False) -> PreTrainedModel:
    """The model's weights as `dtype` on `device`, in evaluation mode, with every parameter read from the files.

    `quantize` holds the linear layers in 4-bit NF4 with doubly quantised scales (arXiv 2305.14314); embeddings and the
    output layer stay in `dtype`. Raises ModelError, or ResourceError where memory does not suffice.
    """
    folder = locate(model)
    with library_errors(model, "weights"), quiet_transformers():
        from transformers import AutoModelForCausalLM

        options: dict[str, Any] = {"quantization_config": nf4(dtype)} if quantize else {}
        loaded, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=model.trust_remote_code,
            local_files_only=True,
            # Both are refused below, by name.
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    require_complete(folder, report)
    keep_differentiable(loaded)
    return loaded.eval()


def require_complete(folder: Path, report: dict[str, Any]) -> None:
    """transformers would fill what is missing with random numbers."""
    missing = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    if missing:
        names = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        weights = counted(len(missing), "weight")
        raise damaged(folder, f"{weights} missing or of another shape than its config says ({names})")


@contextmanager
def library_errors(model: Model, part: str) -> Iterator[None]:
    """Turns what the libraries raise while loading into errors that say what to do."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(model) from error
    except ImportError as error:
        raise ModelError(
            f"the {part} of {model.id} needs a package that is not installed: {first_line(error)}",
            hint="install it with pip, or name another model",
            param="model.id",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        if "alloc" in str(error) and "memory" in str(error):
            raise out_of_memory(model) from error
        raise ModelError(
            f"the {part} of {model.id} cannot be loaded: {first_line(error)}",
            hint="it must be a causal language model that this version of transformers knows; "
            "if its files are damaged, fetch them again",
            param="model.id",
        ) from error


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def out_of_memory(model: Model) -> ResourceError:
    return ResourceError(
        f"not enough memory to load {model.id}",
        hint="close other programs, choose a smaller model, or set adapter.kind: qlora; see `residency estimate`",
        param="model.id",
        code="out_of_memory",
    )


def versions() -> dict[str, str]:
    """What a run's results depend on: packages, device and processor, for reports."""
    import torch

    packages = ("torch", "transformers", "peft", "tokenizers", "bitsandbytes", "residency")
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found | {"cpu": processor_name(), "system": platform.platform()}
