"""Which base models are in memory: loaded when asked for, and dropped when another is wanted or training needs room."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from residency.config.model import Model
from residency.engine.memory import release_memory
from residency.errors import RequestError
from residency.inference.adapters import Source, source
from residency.inference.batch import Batch, Limits
from residency.inference.decoder import Decoder
from residency.inference.language import Language, load_language
from residency.inference.model import load_base
from residency.inference.problems import TOO_MANY

log = logging.getLogger(__name__)
T = TypeVar("T")
LANGUAGES = 32
"""Tokenizers that one base's adapters may have in memory."""


@dataclass(frozen=True, slots=True)
class Settings:
    dtype: torch.dtype
    device: torch.device
    quantize: bool = False
    """Hold bases in 4-bit NF4, as QLoRA trained on them."""
    bases: int = 1
    """Base models in memory at once."""
    max_waiting: int = 64
    """Answers that may wait for a place; a further request is refused."""
    limits: Limits = field(default_factory=Limits)


@dataclass(eq=False, slots=True)
class Loaded:
    model: Model
    decoder: Decoder
    end_ids: list[int]
    users: int = 0
    """Requests under way."""
    languages: OrderedDict[tuple[Path | None, int], Language] = field(default_factory=OrderedDict)

    def language(self, adapter: Path | None) -> Language:
        """Raises ModelError where the adapter's tokenizer cannot be read."""
        own = adapter / "tokenizer_config.json" if adapter else None
        changed = own.stat().st_mtime_ns if own and own.is_file() else 0
        key = (adapter if changed else None, changed)
        if key not in self.languages:
            vocabulary = self.decoder.batch.base.vocabulary
            self.languages[key] = load_language(self.model, key[0], vocabulary, self.end_ids)
            while len(self.languages) > LANGUAGES:
                self.languages.popitem(last=False)
        return self.languages[key]


@dataclass(frozen=True, slots=True)
class Place:
    """What a request works with."""

    loaded: Loaded
    language: Language
    adapter: Source | None


class Host:
    """Used by the event loop alone; what takes long runs in threads."""

    def __init__(self, settings: Settings, on_device_lost: Callable[[], None]) -> None:
        self.settings = settings
        self.loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._on_device_lost = on_device_lost
        self._door = asyncio.Lock()
        """Requests are let in one after another, so that one that needs another base is not overtaken for ever."""
        self._outside = 0
        self._left = asyncio.Event()

    @asynccontextmanager
    async def place(self, base: str, adapter: str | None) -> AsyncIterator[Place]:
        """Raises ModelError where base or adapter cannot be used, RequestError where too many wait."""
        if self._outside >= self.settings.max_waiting:
            raise RequestError(
                "too many requests wait for a base model", status=429, code=TOO_MANY, hint="try again later"
            )
        self._outside += 1
        try:
            async with self._door:
                loaded = self.loaded.get(base) or await self._load(base)
                self.loaded.move_to_end(base)
                loaded.users += 1
        finally:
            self._outside -= 1
        try:
            folder = Path(adapter) if adapter else None
            wanted = await asyncio.to_thread(source, folder) if folder else None
            yield Place(loaded, await asyncio.to_thread(loaded.language, folder), wanted)
        finally:
            loaded.users -= 1
            self._left.set()

    def preload(self, base: str) -> None:
        """Before there is an event loop. Raises ModelError, or ResourceError where memory does not suffice."""
        self.loaded[base] = self._open(base)

    async def unload(self) -> int:
        """Lets what is under way end, then forgets every base. Returns how many there were."""
        async with self._door:
            count = len(self.loaded)
            while self.loaded:
                await self._drop_one()
            return count

    async def _load(self, base: str) -> Loaded:
        while len(self.loaded) >= self.settings.bases:
            await self._drop_one()
        return await to_its_end(self._keep(base))

    async def _keep(self, base: str) -> Loaded:
        self.loaded[base] = await asyncio.to_thread(self._open, base)
        return self.loaded[base]

    async def _drop_one(self) -> None:
        """Waits until one of the bases is used by nobody; the one used longest ago goes first."""
        while True:
            self._left.clear()
            idle = next((base for base, loaded in self.loaded.items() if not loaded.users), None)
            if idle is not None:
                break
            await self._left.wait()
        await to_its_end(self._drop(idle))

    async def _drop(self, base: str) -> None:
        await asyncio.to_thread(self.loaded.pop(base).decoder.stop)
        release_memory()
        log.info("unloaded %s", base)

    def _open(self, base: str) -> Loaded:
        model = Model(id=base)
        opened = load_base(model, dtype=self.settings.dtype, device=self.settings.device,
                           quantize=self.settings.quantize)  # fmt: skip
        ends = getattr(opened.model.generation_config, "eos_token_id", None)
        batch = Batch(opened, self.settings.limits)
        log.info("loaded %s: context %d tokens, room for %d tokens", base, batch.context_tokens, batch.cache_tokens)
        decoder = Decoder(batch, self.settings.max_waiting, self._on_device_lost)
        return Loaded(model, decoder, [] if ends is None else [ends] if isinstance(ends, int) else list(ends))


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Also where whoever waits for it goes away: a thread cannot be stopped, and what it has loaded must be known."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
