"""The one base model of this process, and a pass of tokens of several rows through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from residency.config.model import Model
from residency.engine.attention import install
from residency.engine.batch import Segment
from residency.engine.lora import Routing
from residency.errors import ModelError
from residency.inference.attention import NAME, Piece, RowCache
from residency.models.load import load_model

PROBE = 12
"""Tokens of the trial at the start."""
LONG_ROPES = ("dynamic", "longrope")
"""Position encodings that change for all tokens once one is beyond the length the model was first trained for."""


class BaseModel:
    """Owns the model from now on: its attention is replaced. Raises ModelError where that does not give its logits."""

    def __init__(self, model: Any) -> None:
        self.model = model.requires_grad_(False).eval()
        self.device: torch.device = model.device
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.context_tokens = context_tokens(model.config)
        self.routing = Routing()
        self.bytes_per_token = self._try_out()

    @torch.no_grad()
    def forward(
        self, ids: Sequence[int], positions: Sequence[int], pieces: tuple[Piece, ...], keep: Sequence[int],
        segments: tuple[Segment, ...] = (),
    ) -> torch.Tensor:  # fmt: skip
        """Logits behind the line's tokens `keep`, shape (len(keep), vocabulary); the caches are written, and longer."""
        self.routing.segments = segments
        line = torch.tensor([[*ids], [*positions]], device=self.device)
        logits: torch.Tensor = self.model(
            input_ids=line[:1], position_ids=line[1:], use_cache=False, pieces=pieces,
            logits_to_keep=torch.tensor([*keep], dtype=torch.long, device=self.device),
        ).logits[0]  # fmt: skip
        for piece in pieces:
            piece.cache.length += piece.end - piece.start
        return logits

    @torch.no_grad()
    def _try_out(self) -> int:
        """A few tokens in two passes must get the logits of the model's own attention in one.

        Returns the bytes of keys and values that a token takes.
        """
        count = min(PROBE, self.vocabulary, self.context_tokens)
        first, cache = count // 2, RowCache()
        ids = torch.linspace(0, self.vocabulary - 1, count).long().tolist()
        install(self.model, packed=False)
        expected = self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits[0]
        self.model.set_attn_implementation(NAME)
        try:
            parts = [
                self.forward(ids[start:end], range(start, end), (Piece(cache, 0, end - start),), range(end - start))
                for start, end in ((0, first), (first, count))
            ]
        except (TypeError, AttributeError, KeyError, ValueError, RuntimeError) as error:
            raise not_served(self.model, str(error).splitlines()[0]) from error
        allowed = 1e-3 if self.model.dtype == torch.float32 else 5e-2
        if torch.dist(torch.cat(parts).float(), expected.float()) > allowed * expected.float().norm():
            raise not_served(self.model, "its layers keep other state than keys and values")
        held = sum(t.numel() * t.element_size() for pair in cache.layers.values() for t in pair)
        return held // max(1, cache.capacity)


def load_base(model: Model, *, dtype: torch.dtype, device: torch.device, quantize: bool) -> BaseModel:
    """Raises ModelError, or ResourceError where memory does not suffice."""
    return BaseModel(load_model(model, dtype=dtype, device=device, quantize=quantize))


def context_tokens(config: Any) -> int:
    """Tokens of prompt and answer together that the model can hold. Raises ModelError where its config says nothing."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if not limit:
        raise ModelError(f"the config of a {text.model_type} model does not say how long its context is")
    rope = getattr(text, "rope_parameters", None) or {}
    for kind in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if kind.get("rope_type") in LONG_ROPES:
            limit = min(limit, kind.get("original_max_position_embeddings") or limit)
    if chunk := getattr(text, "attention_chunk_size", None):
        limit = min(limit, chunk)
    return int(limit)


def not_served(model: Any, reason: str) -> ModelError:
    return ModelError(
        f"a {model.config.model_type} model cannot be served here: {reason}",
        hint="merge the adapter with `residency export` and serve the result with vLLM or llama.cpp",
        code="model_not_served",
    )
