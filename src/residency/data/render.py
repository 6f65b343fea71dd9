"""Conversations as tokens, with loss on the chosen answers and nothing else.

What is trained is what is served. The text is the tokenizer's own chat template's; it is tokenised without further
special tokens, as `apply_chat_template` does, so a start token appears where the template writes it and once. For
each trained turn the prompt is rendered exactly as at inference (the messages before it, and the generation prompt)
and the answer is what the template writes after it, up to and including its end token. So:

- the role header and whatever follows the end token carry no loss;
- the prompt's tokens at inference are an exact prefix of the training tokens. Where the tokenizer would merge the
  prompt's end with the answer's start, the answer is tokenised by itself;
- two trained turns share one sequence exactly when the first, answer and all, is a token prefix of the second's prompt.
  A template that shows earlier turns otherwise than it generated them (Qwen3 takes their thinking out, Mistral moves
  the system text to the last question) gives one sequence for each trained turn, each exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from residency.data.chat_text import HINT, ChatTemplate, inspect_template
from residency.data.messages import Example, Message, Origin, Rendered
from residency.errors import DataError, ResidencyError, TemplateError
from residency.progress import track
from residency.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainOn = Literal["all_answers", "last_answer"]


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Tokens up to and including the end of a trained turn."""

    text: str
    ids: list[int]
    spans: list[tuple[int, int]]
    """Where the trained tokens are."""
    as_served: bool
    """Whether `ids` are what the tokenizer makes of `text` in one go, as it does with a prompt at inference."""

    def last_token(self, tokenizer: Any) -> str:
        return str(tokenizer.convert_ids_to_tokens(self.ids[-1])) if self.ids else ""


NOTHING = _Sequence("", [], [], as_served=True)


class Renderer:
    """Built by `renderer_for`. Without a chat template only plain text can be rendered."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate | None, train_on: TrainOn) -> None:
        self.tokenizer: Any = tokenizer
        self.train_on = train_on
        self._template = template

    @property
    def template(self) -> ChatTemplate:
        """Raises TemplateError where the tokenizer has none."""
        if self._template is None:
            raise TemplateError(
                "the tokenizer has no chat template",
                param="model.chat_template",
                hint="this is a base model: name one with model.chat_template (chatml, llama3, or a Jinja file)",
            )
        return self._template

    @property
    def end_token(self) -> str:
        """What ends an answer."""
        return self.template.end_tokens[0]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Generation is over when one of these appears."""
        ends = self.tokenizer.convert_tokens_to_ids(list(self._template.end_tokens)) if self._template else []
        eos = self.tokenizer.eos_token_id
        return tuple(dict.fromkeys([*ends, *([] if eos is None else [eos])]))

    def render(self, example: Example) -> list[Rendered]:
        """The row's training sequences: one, or several where the template does not keep earlier turns as they were.

        Raises TemplateError where the template cannot show the row as it is, DataError where no turn carries loss.
        """
        try:
            if example.text is not None:
                return [self._render_text(example.origin, example.text)]
            return self._render_turns(example)
        except (TemplateError, DataError) as error:
            raise type(error)(f"{example.origin}: {error.message}", hint=error.hint, param=error.param) from error

    def render_all(self, examples: Sequence[Example]) -> list[Rendered]:
        """The sequences of all rows, in order; raises one error with the problem of every row that has one."""
        if any(example.text is None for example in examples):
            _ = self.template  # one error for all rows, not one for each
        rendered: list[Rendered] = []
        errors: list[ResidencyError] = []
        with track("Rendering", len(examples)) as advance:
            for example in examples:
                try:
                    rendered += self.render(example)
                except (TemplateError, DataError) as error:
                    errors.append(error)
                advance()
        if errors:
            raise type(errors[0])(
                f"{len(errors):,} of {counted(len(examples), 'row')} cannot be rendered",
                hint=errors[0].hint,
                param=errors[0].param,
                problems=[error.message for error in errors],
            )
        return rendered

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The tokens that ask for the next assistant turn. Raises TemplateError as `render` does."""
        self.template.check_tools(messages, tools)
        return self._encode(self.template.text(messages, tools, ask=True))

    def describe(self, example: Example) -> str:
        """The row as the model sees it, with the text that carries loss between >>> and <<<."""
        sequences = self.render(example)
        blocks = []
        for number, row in enumerate(sequences, 1):
            borders = np.flatnonzero(np.diff(row.trained)) + 1
            pieces = [self._decode(piece.tolist()) for piece in np.split(row.input_ids, borders)]
            marked = [f">>>{piece}<<<" if i % 2 else piece for i, piece in enumerate(pieces)]
            part = f", sequence {number} of {len(sequences)}" if len(sequences) > 1 else ""
            head = f"{row.origin}{part}: {len(row):,} tokens, {row.trained.sum():,} trained"
            blocks.append(f"{head}\n{''.join(marked)}")
        return "\n\n".join(blocks)

    def _render_text(self, origin: Origin, text: str) -> Rendered:
        ids = list(self.tokenizer(text, verbose=False)["input_ids"])
        eos = self.tokenizer.eos_token_id
        if eos is not None and ids[-1:] != [eos]:
            ids.append(eos)
        if len(ids) < 2:
            raise DataError("is a single token: there is nothing to predict")
        return _rendered(ids, [(1, len(ids))], origin)

    def _render_turns(self, example: Example) -> list[Rendered]:
        self.template.check_tools(example.messages, example.tools)
        sequences: list[_Sequence] = []
        for turn in self._trained_turns(example.messages):
            prompt, answer = self.template.turn(example, turn)
            earlier = sequences[-1] if sequences else NOTHING
            if earlier.as_served and prompt.startswith(earlier.text):
                del sequences[-1:]
            else:
                earlier = NOTHING
            sequences.append(self._extend(earlier, prompt, answer))
        return [_rendered(sequence.ids, sequence.spans, example.origin) for sequence in sequences]

    def _trained_turns(self, messages: Sequence[Message]) -> list[int]:
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        chosen = answers if self.train_on == "all_answers" else answers[-1:]
        trained = [i for i in answers if messages[i].get("weight", i in chosen)]
        if not trained:
            raise DataError("no assistant turn carries loss: the chosen ones have weight 0")
        return trained

    def _extend(self, earlier: _Sequence, prompt: str, answer: str) -> _Sequence:
        """`earlier` (an end of turn, where the tokenizer starts afresh) with the rest of the prompt and the answer."""
        behind = prompt[len(earlier.text) :]
        asked = self._encode(behind, after=earlier.last_token(self.tokenizer))
        whole = self._encode(behind + answer, after=earlier.last_token(self.tokenizer))
        as_served = whole[: len(asked)] == asked
        answered = whole[len(asked) :] if as_served else self._encode(answer, after=self.end_token)
        if not as_served and self._decode(asked + answered) != self._decode(whole):
            raise TemplateError("the tokenizer cannot split the prompt from the answer", hint=HINT)
        start = len(earlier.ids) + len(asked)
        spans = [*earlier.spans, (start, start + len(answered))]
        return _Sequence(prompt + answer, [*earlier.ids, *asked, *answered], spans, as_served)

    def _encode(self, text: str, *, after: str = "") -> list[int]:
        """The tokens of `text` as they are behind the special token `after`, or at the start.

        Tokenizers split at special tokens before all else, but some put a space before the first word of a text.
        """
        ids = self.tokenizer(after + text, add_special_tokens=False, verbose=False)["input_ids"]
        return list(ids[1:] if after else ids)

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def renderer_for(tokenizer: PreTrainedTokenizerBase, *, train_on: TrainOn = "all_answers") -> Renderer:
    """Raises TemplateError where the tokenizer's template cannot teach a model to stop (see `inspect_template`)."""
    return Renderer(tokenizer, inspect_template(tokenizer) if tokenizer.chat_template else None, train_on)


def _rendered(ids: list[int], spans: list[tuple[int, int]], origin: Origin) -> Rendered:
    trained = np.zeros(len(ids), dtype=np.bool_)
    for start, end in spans:
        trained[start:end] = True
    trained[0] = False
    return Rendered(np.asarray(ids, dtype=np.int32), trained, origin)
