"""Ids in OpenAI's shapes. Nothing reads a meaning out of one."""

from __future__ import annotations

import secrets
import string

ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    """`new_id("file-")` gives `file-` and 24 letters and digits, unguessable."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(length))
