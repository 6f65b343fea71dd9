"""How much of the processor is free for training."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from residency.models.processor import busy_cores, cpu_cores, processor_name


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= cpu_cores() <= (os.cpu_count() or 1)
    assert processor_name()


def test_another_program_at_work_is_seen() -> None:
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        assert busy_cores() > 0.3
    finally:
        other.kill()
        other.wait()
