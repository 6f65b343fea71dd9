"""Training methods and the settings only they have."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from residency.config.section import Section


class Sft(Section):
    name: Literal["sft"] = "sft"
    """Supervised fine-tuning: next-token loss on the chosen answers."""


class Pretrain(Section):
    name: Literal["pretrain"] = "pretrain"
    """Continued pre-training: next-token loss on every token of plain text."""


PREFERENCE = ("dpo", "ipo", "kto", "orpo", "simpo", "cpo")
REINFORCEMENT = ("grpo", "gspo", "dapo", "gdpo", "rloo", "ppo", "ebft", "reinforce", "reinforcement")
PREFERENCES_LATER = "preference training (DPO and its kin) begins with Residency 0.2"
REINFORCEMENT_LATER = "reinforcement begins with Residency 0.3"


def arrives_later(name: str) -> str | None:
    """The release that begins with what a method of this name does; null for a name that is none of these."""
    name = name.lower()
    return PREFERENCES_LATER if name in PREFERENCE else REINFORCEMENT_LATER if name in REINFORCEMENT else None


Method: TypeAlias = Annotated[Sft | Pretrain, Field(discriminator="name")]
