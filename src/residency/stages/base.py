"""The base model of a process: the first run that comes to train on it loads it, and the adapters of others join it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from residency.engine.adapters import ADAPTER
from residency.engine.engine import Engine
from residency.engine.memory import available_bytes
from residency.errors import RunError
from residency.records import RunFolder
from residency.stages.facts import device
from residency.stages.model import add_trained, result_name, say_smaller, start_engine
from residency.stages.prepare import Machine, Prepared


class Base:
    """Runs that share it train LoRA on one model; its precision, threads and speed-ups are the first one's."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        """What the first run found and chose; a later one would find the base's memory taken."""
        self._engine: Engine | None = None
        self._names: dict[RunFolder, str] = {}
        """What the engine calls what each run trains."""
        self._joined = 0

    def start(self, prepared: Prepared, run: RunFolder) -> tuple[Engine, str]:
        """The engine with what this run trains, as its seed starts it, and the name of that. Raises ModelError,
        ResourceError, and RunError for a run that was begun with another speed."""
        resolved, engine = prepared.resolved, self._engine
        if engine is None:
            self.machine = Machine(available_bytes(device()), resolved.speed)
            engine = self._engine = start_engine(prepared, run)
            engine.on_smaller_micro_batch = self._say_smaller
            name = result_name(resolved)
        else:
            if self.machine and resolved.speed != self.machine.speed:
                raise RunError(f"{run.path} was begun with another speed than the runs beside it", code="other_speed",
                               param="speed", hint="train it in a process of its own")  # fmt: skip
            engine.micro_batch_tokens = resolved.train.micro_batch_tokens
            self._joined += 1
            name = f"{ADAPTER}-{self._joined}"
            add_trained(engine, name, prepared, run)
        self._names[run] = name
        self._forget_the_gone()
        return engine, name

    @contextmanager
    def joined(self, run: RunFolder) -> Iterator[None]:
        """The run's adapter goes with it."""
        try:
            yield
        finally:
            self._names.pop(run, None)
            self._forget_the_gone()

    def _forget_the_gone(self) -> None:
        """All but one: an engine that has no adapter any more cannot take another."""
        engine = self._engine
        for name in list(engine.trained) if engine else []:
            if engine and name not in self._names.values() and len(engine.trained) > 1:
                engine.drop_adapter(name)

    def _say_smaller(self, tokens: int) -> None:
        for run in self._names:
            say_smaller(run, tokens)
