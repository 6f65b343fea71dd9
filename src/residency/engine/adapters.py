"""From the run file's adapter to PEFT's config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft

from residency.config.model import Lora, Peft, Qlora
from residency.config.section import Final
from residency.errors import ConfigError

ADAPTER = "tuned"
"""The name of a run's one adapter inside the engine."""


def peft_config(
    adapter: Lora[Final] | Qlora[Final] | Peft, base_model: str, trained_token_ids: Sequence[int] = ()
) -> peft.PeftConfig:
    """`trained_token_ids` get embedding rows of their own, which are saved with the adapter. Raises ConfigError."""
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "base_model_name_or_path": base_model}
    if isinstance(adapter, Peft):
        return _other_peft_config(adapter, common)
    return peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.targets,
        use_dora=adapter.dora,
        trainable_token_indices=list(trained_token_ids) or None,
        **common,
    )


def _other_peft_config(adapter: Peft, common: dict[str, Any]) -> peft.PeftConfig:
    known = {kind.value: config for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    config_class = known.get(adapter.type.upper())
    if config_class is None:
        raise ConfigError(
            f"adapter.type: {adapter.type} is not a PEFT method", param="adapter.type",
            hint=f"one of {', '.join(sorted(known))}",
        )  # fmt: skip
    try:
        config: peft.PeftConfig = config_class(**common | adapter.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"adapter.options: {error}", param="adapter.options") from error
    if config.is_prompt_learning:
        raise ConfigError(
            f"adapter.type: {adapter.type} puts virtual tokens before the prompt, which packed passes cannot hold",
            param="adapter.type",
            hint="choose a method that changes the layers, such as lora, IA3, VERA, LOHA, LOKR or OFT",
        )
    return config
