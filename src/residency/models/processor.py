"""What this machine's processor is, and how much of it is free."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import psutil


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_cores() -> int:
    """Physical cores that this process may run on: two threads on one core do not multiply faster than one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def busy_cores(seconds: float = 0.3) -> float:
    """Cores that other processes keep busy, measured now: the load average lags by a minute and counts us too."""
    before, start = cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    return max(cpu_seconds() - before, 0.0) / (time.perf_counter() - start)


def cpu_seconds() -> float:
    """CPU time all processes but this one have used so far; those at a lower priority give way and do not count."""
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "nice", 0.0) + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
    # Linux counts guests in user time already.
    own = time.process_time()
    return sum(times) - waiting - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0) - own
