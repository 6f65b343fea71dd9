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


Method: TypeAlias = Annotated[Sft | Pretrain, Field(discriminator="name")]
