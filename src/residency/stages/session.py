"""A model to ask, untuned or tuned, behind its chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from peft import PeftConfig
from safetensors import SafetensorError
from transformers import AutoTokenizer

from residency.config.model import Full, ResolvedConfig
from residency.data.messages import Example, Message
from residency.data.render import Renderer, renderer_for
from residency.engine.adapters import ADAPTER
from residency.engine.engine import Engine
from residency.engine.sampling import SamplingSettings
from residency.errors import RunError
from residency.evals.generate import answer_all
from residency.evals.run import Completion
from residency.models.load import load_model
from residency.records import RunFolder
from residency.stages.facts import device
from residency.stages.model import DTYPES, load_base, new_engine, result_folder
from residency.stages.prepare import read_resolved


@dataclass(frozen=True, slots=True)
class Session:
    """`adapter` None is the engine's model as it stands: untuned, or after full fine-tuning."""

    run: RunFolder
    resolved: ResolvedConfig
    engine: Engine
    renderer: Renderer
    adapter: str | None
    name: str = ADAPTER
    """Of this run's adapter in the engine."""

    def settings(self, temperature: float = 0.0, max_new_tokens: int | None = None) -> SamplingSettings:
        return SamplingSettings(
            max_new_tokens=max_new_tokens or self.resolved.eval.max_new_tokens,
            stop_ids=self.renderer.stop_ids,
            temperature=temperature,
            seed=self.resolved.train.seed,
            batch_size=self.resolved.eval.batch_size,
        )

    def answer(self, examples: Sequence[Example], worked: Sequence[Message] = ()) -> list[Completion]:
        return answer_all(self.engine, self.adapter, self.renderer, examples, self.settings(), worked)

    def tuned(self) -> Session:
        """This model after training in the same engine."""
        return replace(self, adapter=None if isinstance(self.resolved.adapter, Full) else self.name)

    def untuned(self) -> Session:
        """The base beside this tuned model: the same weights without the adapter, or a second load of the base."""
        if not isinstance(self.resolved.adapter, Full):
            return replace(self, adapter=None)
        model, autocast = load_base(self.resolved, len(self.renderer.tokenizer))
        return replace(self, engine=new_engine(model, self.resolved, autocast, self.run), adapter=None)


def open_session(run: RunFolder) -> Session:
    """The tuned model of a finished run. Raises RunError where there is no result yet."""
    resolved, _ = read_resolved(run)
    folder = result_folder(run, resolved)
    if not folder.exists():
        raise RunError(f"{run.path} has no result yet", hint="finish it with `residency train … --resume`",
                       param=str(run.path))  # fmt: skip
    with damage_named(folder):
        return load_session(run, resolved, folder)


@contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(f"the result in {folder} is damaged: {reason}", param=str(folder),
                       hint="restore it, or train again") from error  # fmt: skip


def load_session(run: RunFolder, resolved: ResolvedConfig, folder: Path) -> Session:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    renderer = renderer_for(tokenizer, train_on=resolved.data.train_on)
    if isinstance(resolved.adapter, Full):
        own = resolved.model.model_copy(update={"id": str(folder), "revision": None})
        model = load_model(own, dtype=DTYPES[resolved.speed.precision], device=device())
        return Session(run, resolved, new_engine(model, resolved, None, run), renderer, None)
    model, autocast = load_base(resolved, len(tokenizer))
    engine = new_engine(model, resolved, autocast, run)
    engine.add_adapter(ADAPTER, PeftConfig.from_pretrained(str(folder)), seed=0)
    engine.restore(ADAPTER, folder, optimizer=False)
    return Session(run, resolved, engine, renderer, ADAPTER)
