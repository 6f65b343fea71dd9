"""One thread that decodes: requests hand it rows, and it tells them what came of each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from residency.engine.memory import is_out_of_memory, release_memory
from residency.errors import RequestError, ResourceError, TrainingError
from residency.inference.batch import Batch
from residency.inference.problems import TOO_MANY, is_device_error
from residency.inference.rows import Row
from residency.wording import counted

log = logging.getLogger(__name__)
LONGEST_WAIT_SECONDS = 60


class Decoder:
    """`on_device_lost` is called in the decoding thread when the device does not work any more: no later pass would."""

    def __init__(self, batch: Batch, max_waiting: int, on_device_lost: Callable[[], None]) -> None:
        self.batch = batch
        self.max_waiting = max_waiting
        self._on_device_lost = on_device_lost
        self._wake = threading.Condition()
        self._stopping = False
        self._row_seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> None:
        """Raises RequestError (429) while too many rows wait already."""
        with self._wake:
            if self._stopping:
                raise ResourceError("the model is being unloaded", code="unloading", hint="try again in a moment")
            if len(self.batch.waiting) >= self.max_waiting:
                raise RequestError(
                    f"{counted(len(self.batch.waiting), 'answer')} waiting already", status=429, code=TOO_MANY,
                    hint="try again later, or start the inference process with a higher --max-waiting",
                )  # fmt: skip
            self.batch.waiting.extend(rows)
            self._wake.notify()

    def wait_seconds(self) -> int:
        """A guess at when a refused request would be let in."""
        seconds = self._row_seconds * len(self.batch.waiting) / max(1, self.batch.limits.rows)
        return max(1, min(LONGEST_WAIT_SECONDS, round(seconds)))

    def stop(self) -> None:
        """Ends what is running; returns when the thread holds the model no more."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or not self.batch.idle)
                if self._stopping:
                    break
            self._step()
        self.batch.fail_all(ResourceError("the inference process is stopping", code="stopping", hint="try again"))

    def _step(self) -> None:
        began, before = time.monotonic(), len(self.batch.rows)
        try:
            self.batch.step()
        except Exception as error:  # whatever it was, the requests must hear of it and the thread go on
            self._failed(error)
        ended = max(0, before - len(self.batch.rows))
        if ended:
            self._row_seconds = 0.9 * self._row_seconds + 0.1 * (time.monotonic() - began) * before / ended

    def _failed(self, error: Exception) -> None:
        lost = is_device_error(error)
        log.exception("a decoding step failed")
        if is_out_of_memory(error):
            self.batch.fail_all(ResourceError("memory ran out", code="out_of_memory", hint="shorten the prompt"))
            release_memory()
            return
        self.batch.fail_all(
            TrainingError(
                f"decoding failed on the {'device' if lost else 'model'}: {type(error).__name__}",
                code="device_error" if lost else "decoding_failed",
                hint="try again: the inference process is restarted" if lost else "see the inference process's log",
            )
        )
        if lost:
            self._on_device_lost()
