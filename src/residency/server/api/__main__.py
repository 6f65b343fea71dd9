"""The API process: `python -m residency.server.api HOME --fd N`, started by `residency serve`."""

from __future__ import annotations

import argparse
import gc
import logging
import socket
import sys
from pathlib import Path

import uvicorn

from residency.errors import ResidencyError
from residency.server.api.app import build
from residency.server.supervise_settings import read_settings
from residency.server.supervise_watch import end_with_parent

SECONDS_TO_STOP = 30
"""For the answers that are being sent."""


def main(home: Path, fd: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("alembic", "httpx", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app = build(read_settings(home))
    except ResidencyError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    end_with_parent(SECONDS_TO_STOP)
    # h11 and not httptools, which is a little faster: it bounds a request's head, which anybody may send.
    config = uvicorn.Config(
        app, http="h11", access_log=False, log_config=None, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=SECONDS_TO_STOP,
    )  # fmt: skip
    # Named by its number alone it would be taken for a socket file, and each answer's body held back for 40 ms.
    server = uvicorn.Server(config)
    gc.collect()
    gc.freeze()  # what is there now stays: going through it again and again would hold up every answer for 100 ms
    server.run(sockets=[socket.socket(fileno=fd)])
    return 0 if server.started else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m residency.server.api")
    parser.add_argument("home", type=Path)
    parser.add_argument("--fd", type=int, required=True)
    given = parser.parse_args()
    sys.exit(main(given.home, given.fd))
