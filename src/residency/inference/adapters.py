"""Adapters on the base model: loaded from their folders when asked for, the least recently used one dropped first."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError

from residency.engine.lora import use_own_forward, use_shared_forward
from residency.engine.memory import is_out_of_memory
from residency.errors import ModelError
from residency.inference.model import BaseModel
from residency.inference.problems import is_device_error
from residency.models.chat import fit_embeddings
from residency.models.quiet import quiet_transformers

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
SPARE_ROWS = 64
"""Embedding rows added beyond those an adapter needs, as no more can be added once one of them is trained."""


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter as its files stood when it was asked for: files that change are another adapter."""

    folder: Path
    stamp: tuple[int, int]
    """Modification time in nanoseconds and size of the weights."""


@dataclass(frozen=True, slots=True)
class Adapter:
    name: str
    """PEFT's name for it."""
    shared: bool
    """Whether its rows may pass together with those of other adapters."""


def source(folder: Path) -> Source:
    """Raises ModelError where the folder is gone or holds no adapter."""
    try:
        facts = (folder / WEIGHTS).stat()
        json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the adapter's files are not there or cannot be read ({type(error).__name__})",
            hint="it was deleted, or is still being written: choose another model",
            param="model", code="model_not_found",
        ) from error  # fmt: skip
    return Source(folder, (facts.st_mtime_ns, facts.st_size))


class Adapters:
    """At most `limit` adapters at a time; used by one thread."""

    def __init__(self, base: BaseModel, limit: int) -> None:
        self._base = base
        self._limit = limit
        self._peft: Any = None
        self._loaded: OrderedDict[Source, Adapter] = OrderedDict()
        self._count = 0
        self._mode: tuple[Adapter | None] | None = None
        """What the layers were last set to."""

    def __len__(self) -> int:
        return len(self._loaded)

    def get(self, wanted: Source, in_use: Collection[Source], vocabulary: int) -> Adapter | None:
        """The adapter, loaded if it has to be; None while every place is taken by one of `in_use`.

        `vocabulary` is how many tokens its tokenizer knows. Raises ModelError where it does not fit the base.
        """
        if wanted in self._loaded:
            self._loaded.move_to_end(wanted)
            return self._loaded[wanted]
        while len(self._loaded) >= self._limit:
            unused = next((one for one in self._loaded if one not in in_use), None)
            if unused is None:
                return None
            self._drop(self._loaded.pop(unused).name)
        self._loaded[wanted] = self._load(wanted, vocabulary)
        return self._loaded[wanted]

    def activate(self, adapter: Adapter | None) -> None:
        """For passes of one adapter in PEFT's own layers; None: of the base, and of adapters that share passes.

        For those the plain LoRA layers' forward goes by the pass's segments, and all else PEFT added is switched off.
        """
        if self._peft is None or self._mode == (adapter,):
            return
        if adapter is None:
            self._peft.base_model.disable_adapter_layers()
            use_shared_forward(self._peft, self._base.routing)
        else:
            use_own_forward(self._peft)
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(adapter.name)
        self._mode = (adapter,)

    def _load(self, wanted: Source, vocabulary: int) -> Adapter:
        source(wanted.folder)  # it may have been deleted since it was asked for
        refuse_changed_base(wanted.folder)
        self._make_room(vocabulary)
        self._count += 1
        self._mode = None
        name, folder = f"adapter{self._count}", str(wanted.folder)
        try:
            with quiet_transformers():
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(
                        self._base.model, folder, adapter_name=name, torch_device=str(self._base.device)
                    )
                    missing: list[str] = []
                else:
                    missing = self._peft.load_adapter(folder, name, torch_device=str(self._base.device)).missing_keys
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
            self._drop(name)
            if is_out_of_memory(error) or is_device_error(error):
                raise
            raise unfit(str(error).splitlines()[0]) from error
        if missing or self._peft.peft_config[name].is_prompt_learning:
            self._drop(name)
            raise unfit(f"{missing[0]} is not in its files" if missing else "it puts virtual tokens before the prompt")
        self._peft.requires_grad_(False).eval()
        return Adapter(name, shares_passes(self._base.model, self._peft.peft_config[name], name))

    def _make_room(self, vocabulary: int) -> None:
        """Embedding rows for tokens that the base does not know, started as training started them."""
        embedding = self._base.model.get_input_embeddings()
        if vocabulary <= int(embedding.weight.shape[0]):
            return
        if isinstance(embedding, AuxiliaryTrainingWrapper):
            raise unfit(f"it needs {vocabulary} embedding rows, and others are trained already; restart this process")
        fit_embeddings(self._base.model, vocabulary + SPARE_ROWS)

    def _drop(self, name: str) -> None:
        self._mode = None
        if self._peft is None or name not in self._peft.peft_config:
            return
        others = [other for other in self._peft.peft_config if other != name]
        if others:
            self._peft.set_adapter(others[0])
        self._peft.delete_adapter(name)


def refuse_changed_base(folder: Path) -> None:
    """Raises ModelError for an adapter whose loading would change the base under all others."""
    config = json.loads((folder / CONFIG).read_bytes())
    if config.get("bias", "none") != "none":
        raise unfit("it replaces the base's own biases")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian", "orthogonal", "eva"):
        raise unfit(f"its start {config['init_lora_weights']!r} changes the base's weights")
    if config.get("layer_replication"):
        raise unfit("it repeats layers of the base")


def shares_passes(model: Any, config: Any, name: str) -> bool:
    """Whether the adapter is plain LoRA on linear layers, which need nothing else of it than its products."""
    if str(config.peft_type.value) != "LORA" or config.modules_to_save or config.trainable_token_indices:
        return False
    layers = [
        m for m in model.modules() if isinstance(m, LoraLayer) and (name in m.lora_A or name in m.lora_embedding_A)
    ]
    return bool(layers) and all(
        name in layer.lora_A
        and name not in layer.lora_variant
        and not layer.lora_bias.get(name)
        and type(layer.base_layer).__name__ in ("Linear", "Linear4bit")
        for layer in layers
    )


def unfit(reason: str) -> ModelError:
    return ModelError(
        f"the adapter cannot be used with this base model: {reason}",
        hint="an adapter belongs to the base model it was trained on", param="model", code="model_not_found",
    )  # fmt: skip
