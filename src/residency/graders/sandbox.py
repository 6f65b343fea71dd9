"""The program inside a Python grader's child process. It uses the standard library only and is never imported.

    python -I sandbox.py     reads JSON lines on standard input, writes JSON lines on standard output

The first line is `{"source", "memory_bytes", "cpu_seconds"}`; each further line is `{"sample", "item"}`, answered by
`{"score", "error", "cpu_seconds"}`.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import sys
import time
from typing import Any, NoReturn

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS = 38
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # Landlock's system calls, the same on every processor
BENEATH_A_PATH = 1
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
ALL_OF_FILES, ALL_OF_TCP = (1 << 13) - 1, 0b11
ABI_WITH_TCP = 4
LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/localtime", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = (
    "socket.", "subprocess.", "ctypes.dl", "ctypes.call_function", "gc.get_", "pty.", "resource.", "shutil.",
    "os.chmod", "os.chown", "os.exec", "os.fork", "os.kill", "os.link", "os.mkdir", "os.posix_spawn", "os.remove",
    "os.rename", "os.rmdir", "os.setxattr", "os.spawn", "os.symlink", "os.system", "os.truncate", "os.utime",
)  # fmt: skip
LONGEST_ERROR_CHARACTERS = 500


def main() -> None:
    requests = sys.stdin.buffer
    replies = os.dup(sys.stdout.fileno())
    discard_prints()
    start = json.loads(requests.readline())
    leave_network()
    leave_files()
    limit(start["memory_bytes"], start["cpu_seconds"])
    sys.addaudithook(refuse)
    try:
        names: dict[str, Any] = {"__name__": "grader"}
        exec(compile(start["source"], "<grader>", "exec"), names)
        grade = names["grade"]
    except BaseException as error:
        grade, broken = None, describe(error)
    for line in requests:
        reply = {"score": 0.0, "error": broken} if grade is None else score(grade, json.loads(line))
        reply["cpu_seconds"] = time.process_time()
        os.write(replies, json.dumps(reply).encode() + b"\n")


def discard_prints() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def leave_network() -> None:
    """Moves into a network namespace with no interface, where the kernel allows that; the hook refuses sockets anyway.

    The user namespace that comes with it also shuts the parent's /proc files.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            libc.unshare(CLONE_NEWNET)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


class Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64))


class Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def leave_files() -> None:
    """Leaves nothing to read but Python and its packages, nothing to write and no TCP, where the kernel has Landlock.

    https://docs.kernel.org/userspace-api/landlock.html, Linux 5.13 and newer.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    abi = libc.syscall(CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return
    ruleset = Ruleset(ALL_OF_FILES, ALL_OF_TCP)
    size = ctypes.sizeof(ruleset) if abi >= ABI_WITH_TCP else Ruleset.tcp.offset
    rules = libc.syscall(CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    for path in {sys.prefix, sys.base_prefix, *sys.path, *LIBRARIES}:
        if os.path.exists(path):
            folder = os.open(path, os.O_PATH)
            allowed = READ_FILE | READ_FOLDER if os.path.isdir(path) else READ_FILE
            libc.syscall(ADD_RULE, rules, BENEATH_A_PATH, ctypes.byref(Rule(allowed, folder)), 0)
            os.close(folder)
    libc.syscall(RESTRICT_SELF, rules, 0)
    os.close(rules)


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, value in limits.items():
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):  # macOS refuses some; the wall clock in the parent holds there
            continue


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & WRITING:
            deny("writing files")
        if isinstance(path, str | bytes) and os.fsdecode(os.path.realpath(path)).startswith("/proc/"):
            deny("reading /proc")
    elif event.startswith(REFUSED):
        deny(event)


def deny(what: str) -> NoReturn:
    raise PermissionError(f"a grader may not use the network, files or other processes ({what})")


def score(grade: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        value = grade(request["sample"], request["item"])
        if not hasattr(value, "__float__"):
            raise TypeError(f"grade() returned {type(value).__name__}, not a number")
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"grade() returned {number}")
        return {"score": number, "error": None}
    except BaseException as error:  # SystemExit and MemoryError too: one answer, not the grader, is at fault
        return {"score": 0.0, "error": describe(error)}


def describe(error: BaseException) -> str:
    line = getattr(error.__traceback__, "tb_next", None)
    where = f" (line {line.tb_lineno})" if line is not None else ""
    message = f": {error}"[:LONGEST_ERROR_CHARACTERS] if str(error) else ""
    return f"{type(error).__name__}{message}{where}"


if __name__ == "__main__":
    main()
