"""Real rows that are on every machine: the documentation of installed Python packages, as question and answer.

The question is a function's name and the body of its docstring, the answer the docstring's first sentence. Nobody wrote
them for a bench, they need no download, and an answer follows from its question and from no other.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from residency.data.messages import Message

QUESTION = "Summarise what this Python {kind} does in one sentence.\n\n{name}\n{body}"
KINDS = {ast.FunctionDef: "function", ast.AsyncFunctionDef: "function", ast.ClassDef: "class"}
LONGEST_BODY, SHORTEST_BODY, LONGEST_SUMMARY, SHORTEST_SUMMARY = 700, 80, 160, 15


def docstring_rows(
    packages: tuple[str, ...], count: int, seed: int = 0, folder: Path | None = None
) -> list[dict[str, list[Message]]]:
    """Chat rows, no answer twice; fewer than `count` where the packages, installed or in `folder`, have no more."""
    pairs = {answer: question for package in packages for question, answer in pairs_of(package, folder)}
    rows: list[dict[str, list[Message]]] = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for answer, question in pairs.items()
    ]
    random.Random(seed).shuffle(rows)
    return rows[:count]


def pairs_of(package: str, folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """`stdlib` is Python's own library; another name is a package in site-packages."""
    if package == "stdlib":
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    else:
        files = sorted(((folder or Path(sysconfig.get_path("purelib"))) / package).rglob("*.py"))
    for file in files:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if type(node) in KINDS and (doc := ast.get_docstring(node)):
                yield from pair(node, doc)


def pair(node: ast.AST, doc: str) -> Iterator[tuple[str, str]]:
    summary, _, body = doc.partition("\n\n")
    summary, body = " ".join(summary.split()), body.strip()[:LONGEST_BODY]
    if SHORTEST_SUMMARY <= len(summary) <= LONGEST_SUMMARY and len(body) >= SHORTEST_BODY and summary.endswith("."):
        yield QUESTION.format(kind=KINDS[type(node)], name=node.name, body=body), summary  # type: ignore[attr-defined]
