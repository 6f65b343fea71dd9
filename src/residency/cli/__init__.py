"""The command line: `residency --help`. It starts without torch, so that a typing mistake is named at once."""

from residency.cli.program import app, main

__all__ = ["app", "main"]
