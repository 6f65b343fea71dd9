"""One side of a conversation: a model, tuned or not, and what has been said to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from residency.data.messages import Message
from residency.errors import ConfigError, DataError
from residency.models.starter import STARTER_ID
from residency.run_folders import find_run

if TYPE_CHECKING:
    from residency.data.render import Renderer
    from residency.engine.engine import Engine

UNFINISHED_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Manner:
    system: str | None
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    text: str
    finished: bool
    """Whether the model ended its turn itself, rather than at the token limit or by Ctrl-C."""
    tokens: int


class Speaker:
    def __init__(self, engine: Engine, renderer: Renderer, adapter: str | None, manner: Manner) -> None:
        self.engine, self.renderer, self.adapter, self.manner = engine, renderer, adapter, manner
        self.last = Answered("", True, 0)
        self.reset()

    def reset(self) -> None:
        self.messages: list[Message] = (
            [Message(role="system", content=self.manner.system)] if self.manner.system else []
        )

    def answer(self, question: str) -> Answered:
        for _ in self.pieces(question):
            pass
        return self.last

    def pieces(self, question: str) -> Iterator[str]:
        """The answer's text as it comes; it stands in `last` and in the conversation afterwards.

        Ctrl-C ends the answer, not the program. Raises ConfigError where the conversation fills the model's context.
        """
        asked: list[Message] = [*self.messages, Message(role="user", content=question)]
        prompt = self.renderer.prompt_ids(asked)
        ids: list[int] = []
        text = ""
        try:
            for token in self._tokens(prompt):
                ids.append(token)
                whole = self.renderer.tokenizer.decode(ids, skip_special_tokens=True)
                # The bytes of a character may come in several tokens: it is shown once it is whole.
                if not whole.endswith(UNFINISHED_CHARACTER):
                    yield whole[len(text) :]
                    text = whole
        except KeyboardInterrupt:
            pass
        whole = self.renderer.tokenizer.decode(ids, skip_special_tokens=True)
        yield whole[len(text) :]
        self.last = Answered(whole, bool(ids) and ids[-1] in self.renderer.stop_ids, len(ids))
        self.messages = [*asked, Message(role="assistant", content=whole)]

    def _tokens(self, prompt: list[int]) -> Iterator[int]:
        from residency.engine.sampling import SamplingSettings

        room = self.engine.model.config.get_text_config().max_position_embeddings - len(prompt)
        if room < 1:
            raise ConfigError(
                f"the conversation has {len(prompt):,} tokens, which fill the model's context", hint="ask less at once"
            )
        most = min(self.manner.max_new_tokens, room)
        settings = SamplingSettings(most, self.renderer.stop_ids, temperature=self.manner.temperature)
        for _, token in self.engine.stream(self.adapter, [prompt], settings):
            yield token


def open_speakers(name: str, runs: Path, manner: Manner, *, with_base: bool) -> tuple[list[Speaker], str | None]:
    """The tuned side of a run and, if asked for, the untuned one; or the one side of a model.

    The second part says what was chosen for the user. Raises ConfigError where a model is to be its own base.
    """
    if is_model(name):
        if with_base:
            raise ConfigError(
                f"--base: {name} is a model, so there is nothing tuned to set beside it", param="--base",
                hint="leave out --base, or name a run (`residency runs` lists them)",
            )  # fmt: skip
        return [Speaker(*open_model(name), None, manner)], None
    from residency.pipeline import open_session

    session, note = open_session(find_run(runs, name)), None
    if manner.system is None and (system := shared_system_text(session.resolved.data.train)):
        note = f"system text (that of all training rows; --system changes it): {system}"
        manner = replace(manner, system=system)
    sessions = [session, *([session.untuned()] if with_base else [])]
    return [Speaker(one.engine, one.renderer, one.adapter, manner) for one in sessions], note


def is_model(name: str) -> bool:
    """A lone word is a run, so that a mistyped one is not looked for on the Hub."""
    return name == STARTER_ID or (Path(name) / "config.json").is_file() or ("/" in name and not Path(name).is_dir())


def open_model(name: str) -> tuple[Engine, Renderer]:
    """An untuned model, as it is served."""
    import torch

    from residency.config.model import Model
    from residency.data.render import renderer_for
    from residency.engine.engine import Engine
    from residency.models.load import load_model, load_tokenizer

    model = Model(id=name)
    renderer = renderer_for(load_tokenizer(model))
    cuda = torch.cuda.is_available()
    dtype, device = (torch.bfloat16, torch.device("cuda")) if cuda else (torch.float32, torch.device("cpu"))
    return Engine(load_model(model, dtype=dtype, device=device)), renderer


def shared_system_text(train: str) -> str | None:
    """The system turn that all training rows begin with, where the file is still there."""
    from residency.data.validate import load_examples

    if train.startswith("hub:"):
        return None
    try:
        examples = load_examples(train).examples
    except DataError:
        return None
    texts = {
        example.messages[0]["content"] if example.messages and example.messages[0]["role"] == "system" else None
        for example in examples
    }
    return texts.pop() if len(texts) == 1 else None
