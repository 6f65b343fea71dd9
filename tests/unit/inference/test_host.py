"""Bases come and go with what is asked, and none is lost."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch

from residency.inference.batch import Limits
from residency.inference.host import Host, Loaded, Settings


async def use(host: Host, base: Path) -> Loaded:
    async with host.place(str(base), None) as place:
        return place.loaded


def decoders() -> int:
    return sum(thread.name == "decoder" for thread in threading.enumerate())


def test_a_base_whose_client_leaves_while_it_is_loaded_is_there_for_the_next(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, loading = decoders(), threading.Event()
    host = Host(Settings(torch.float32, torch.device("cpu"), limits=Limits(cache_tokens=4000)), lambda: None)
    open_base = host._open

    def open_and_tell(base: str) -> Loaded:
        loading.set()
        return open_base(base)

    monkeypatch.setattr(host, "_open", open_and_tell)

    async def leave_and_come_back() -> None:
        leaving = asyncio.create_task(use(host, model_folder))
        await asyncio.to_thread(loading.wait)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert list(host.loaded) == [str(model_folder)]
        assert await use(host, model_folder) is host.loaded[str(model_folder)]
        assert decoders() == others + 1
        assert await host.unload() == 1

    asyncio.run(leave_and_come_back())
    assert decoders() == others
