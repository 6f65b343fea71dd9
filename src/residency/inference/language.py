"""What stands between text and tokens for one tokenizer: chat template, end tokens, tool calls, grammars."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from residency.config.model import Model
from residency.data.messages import Message
from residency.data.render import Renderer, renderer_for
from residency.errors import TemplateError
from residency.inference.grammar import Grammars
from residency.inference.text import TextStream
from residency.inference.tools import CallShape, learn_calls
from residency.models.load import library_errors, load_tokenizer
from residency.models.quiet import quiet_transformers


class Language:
    """`vocabulary`: tokens that the base model can tell apart; `end_ids` end its answers beside the template's."""

    def __init__(self, tokenizer: Any, vocabulary: int, end_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.size = len(tokenizer)
        self.vocabulary = max(vocabulary, self.size)
        self._end_ids = end_ids

    @cached_property
    def renderer(self) -> Renderer:
        """The one that rendered the training rows. Raises TemplateError where the template cannot end an answer."""
        return renderer_for(self.tokenizer)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        return frozenset([*self._template_ends(), *self._end_ids])

    def _template_ends(self) -> Sequence[int]:
        try:
            return self.renderer.stop_ids
        except TemplateError:  # plain text can be completed all the same
            return []

    @cached_property
    def calls(self) -> CallShape | None:
        return learn_calls(self.renderer.template)

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The special tokens' texts and ids."""
        added = self.tokenizer.added_tokens_decoder.items()
        return {str(token): id for id, token in added if token.special}

    @cached_property
    def grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.vocabulary, self.stop_ids)

    def chat_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int]:
        """Raises TemplateError where the template cannot show the conversation as it is."""
        return self.renderer.prompt_ids(messages, tools)

    def encode(self, text: str) -> list[int]:
        """Plain text as training on plain text encodes it."""
        return list(self.tokenizer(text, verbose=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def stream(self, stops: Sequence[str], *, with_calls: bool = False) -> TextStream:
        """Special tokens are no text, but for those that mark a tool call where calls are looked for."""
        shape = self.calls if with_calls else None
        marks = f"{shape.opening}{shape.between}{shape.closing}" if shape else ""
        hidden = {id for token, id in self.special_ids.items() if token not in marks}
        return TextStream(self.tokenizer, hidden, stops)

    @lru_cache(maxsize=65536)  # noqa: B019  # a process knows few languages, and each for long
    def spell(self, token: int) -> tuple[str, list[int]]:
        """A token's text and bytes; a part of a character is spelled as OpenAI does, byte by byte."""
        if token >= self.size or token in self.special_ids.values():
            text = str(self.tokenizer.convert_ids_to_tokens(token) or "")
            return text, list(text.encode())
        known = bytes(self.grammars.tokens().decode_bytes([token]))
        try:
            return known.decode(), list(known)
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02x}" for byte in known), list(known)


def load_language(model: Model, adapter: Path | None, vocabulary: int, end_ids: Sequence[int]) -> Language:
    """The adapter's own tokenizer where its folder has one, else the base model's. Raises ModelError."""
    if adapter is None or not (adapter / "tokenizer_config.json").is_file():
        return Language(load_tokenizer(model), vocabulary, end_ids)
    with library_errors(model, "adapter's tokenizer"), quiet_transformers():
        from transformers import AutoTokenizer

        return Language(AutoTokenizer.from_pretrained(adapter, local_files_only=True), vocabulary, end_ids)
