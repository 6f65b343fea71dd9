"""A process that ends when the one that started it is gone, however that went."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time


def end_with_parent(seconds_to_stop: float) -> None:
    """Standard input is a pipe that only the parent holds; it closes with the parent. SIGTERM first, then the end."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds_to_stop)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()
