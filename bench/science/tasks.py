"""Seven small tasks that need nothing but Python: rows of chat messages, the same for the same seed.

`comments` and `signatures` joined the five before any run on them, because two of the five (`home`, `tickets`) are
learnt wholly, down to what a run differs from itself by. The two were taken by what they are: what people fine-tune
for; real text from this Python whose answers nobody can wholly foresee, so that a good deal of the loss (well above
0.05 nats) must stay; as many rows as the others have, of like lengths. They replace none.
"""

from __future__ import annotations

import ast
import datetime
import importlib
import inspect
import json
import random
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pydoc_data.topics import topics as pydoc_topics
from typing import Any

from residency.data.messages import Rendered
from residency.data.render import Renderer
from residency.data.validate import load_examples

MODULES = """
argparse asyncio base64 bisect calendar cmath codecs collections colorsys configparser contextlib copy csv datetime
decimal difflib dis email.message email.utils enum fileinput fnmatch fractions functools gettext glob gzip hashlib heapq
html http.client http.cookies imaplib inspect io ipaddress itertools json keyword linecache locale logging lzma mailbox
math mimetypes multiprocessing numbers operator os os.path pathlib pickle pkgutil platform plistlib pprint queue quopri
random re reprlib sched secrets selectors shelve shlex shutil signal smtplib socket sqlite3 statistics string subprocess
sysconfig tarfile tempfile textwrap threading timeit token tokenize traceback types typing unicodedata unittest
urllib.parse urllib.request uuid warnings wave weakref zipfile zlib
"""
AREAS = ["kitchen", "office", "bedroom", "garage", "hall", "attic", "garden", "bathroom"]
THINGS = ["lamp", "fan", "heater", "blinds", "radio", "camera", "door", "window"]
VERBS = {"on": "HassTurnOn", "off": "HassTurnOff", "up": "HassIncrease", "down": "HassDecrease"}
PARTS = {"printer": "PRN", "screen": "SCR", "keyboard": "KBD", "server": "SRV", "router": "RTR", "phone": "PHN"}
TROUBLES = {"does not start": 3, "is slow": 1, "lost our data": 4, "makes a noise": 1, "shows an error": 2}
SINCE = ["today", "since Monday", "again", "for the third time", "after the update", "in room 12"]
MONTHS = [datetime.date(2000, month, 1).strftime("%B") for month in range(1, 13)]


def home(draw: random.Random) -> tuple[str, str]:
    area, thing, verb = draw.choice(AREAS), draw.choice(THINGS), draw.choice(list(VERBS))
    minutes = draw.randint(1, 90)
    asked = draw.choice([
        f"turn {verb} the {thing} in the {area}", f"{area} {thing} {verb} please",
        f"please turn {verb} the {area} {thing}",
    ])  # fmt: skip
    answer: dict[str, Any] = {"intent": VERBS[verb], "area": area, "name": thing}
    if draw.random() < 0.5:
        asked, answer = f"{asked} for {minutes} minutes", answer | {"minutes": minutes}
    return asked, json.dumps(answer, separators=(",", ":"))


def tickets(draw: random.Random) -> tuple[str, str]:
    part, trouble = draw.choice(list(PARTS)), draw.choice(list(TROUBLES))
    number = draw.randint(100, 999)
    asked = f"Ticket {number}: our {part} {trouble} {draw.choice(SINCE)}."
    return asked, f"{PARTS[part]}|{TROUBLES[trouble]}|{number}"


def dates(draw: random.Random) -> tuple[str, str]:
    day = datetime.date(1990, 1, 1) + datetime.timedelta(days=draw.randrange(20000))
    asked = draw.choice([
        f"{day.day} {MONTHS[day.month - 1]} {day.year}", f"{MONTHS[day.month - 1]} {day.day}, {day.year}",
        f"the {day.day}. of {MONTHS[day.month - 1]} in the year {day.year}",
    ])  # fmt: skip
    return asked, f"{day.isoformat()} {day.strftime('%A')[:3]}"


def docstrings(draw: random.Random) -> list[tuple[str, str]]:
    """What a function of the standard library does, from its name and arguments."""
    found: dict[str, str] = {}
    for name in MODULES.split():
        module = importlib.import_module(name)
        for label, function in inspect.getmembers(module, inspect.isroutine):
            first = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ").strip()
            if 20 <= len(first) <= 160 and not label.startswith("_"):
                try:
                    found[f"{name}.{label}{inspect.signature(function)}"[:120]] = first
                except (TypeError, ValueError):
                    continue
    pairs = sorted(found.items())
    draw.shuffle(pairs)
    return pairs


def manual(draw: random.Random) -> list[tuple[str, str]]:
    """The next sentence of Python's own manual."""
    pairs = []
    for text in pydoc_topics.values():
        sentences = [one for one in re.split(r"(?<=[.:])\s+", " ".join(text.split())) if 40 <= len(one) <= 200]
        pairs += list(zip(sentences[::2], sentences[1::2], strict=False))
    pairs = sorted(set(pairs))
    draw.shuffle(pairs)
    return pairs


def comments(draw: random.Random) -> list[tuple[str, str]]:
    """The comment above some lines of the standard library."""
    block = re.compile(r"(?m)^((?P<indent> *)# .*\n(?:(?P=indent)# .*\n)*)((?:(?P=indent) *[^#\s].*\n){1,3})")
    found: dict[str, str] = {}
    for source in sources():
        for match in block.finditer(source):
            comment = " ".join(line.strip(" #") for line in match[1].splitlines())
            code = textwrap.dedent(match[3]).rstrip()
            if 20 <= len(comment) <= 160 and 20 <= len(code) <= 200 and comment[0].isalpha():
                found[code] = comment
    pairs = sorted(found.items())
    draw.shuffle(pairs)
    return pairs


def signatures(draw: random.Random) -> list[tuple[str, str]]:
    """A function of the standard library, its name and arguments, from what it does."""
    found: dict[str, str] = {}
    for source in sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                first = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ").strip()
                signature = f"{node.name}({ast.unparse(node.args)})"
                if 20 <= len(first) <= 160 and len(signature) <= 120:
                    found[first] = signature
    pairs = sorted(found.items())
    draw.shuffle(pairs)
    return pairs


def sources() -> Iterator[str]:
    for name in MODULES.split():
        try:
            yield inspect.getsource(importlib.import_module(name))
        except (OSError, TypeError):  # in C
            continue


def many(one: Callable[[random.Random], tuple[str, str]]) -> Callable[[random.Random, int], list[tuple[str, str]]]:
    def rows(draw: random.Random, count: int) -> list[tuple[str, str]]:
        found: dict[str, str] = {}
        while len(found) < count:
            asked, answer = one(draw)
            found[asked] = answer
        return list(found.items())

    return rows


TASKS: dict[str, Callable[[random.Random, int], list[tuple[str, str]]]] = {
    "home": many(home),
    "tickets": many(tickets),
    "dates": many(dates),
    "docstrings": lambda draw, count: docstrings(draw)[:count],
    "manual": lambda draw, count: manual(draw)[:count],
    "comments": lambda draw, count: comments(draw)[:count],
    "signatures": lambda draw, count: signatures(draw)[:count],
}


def rendered(task: str, seed: int, count: int, renderer: Renderer) -> list[Rendered]:
    """`count` rows without a repeated question."""
    pairs = TASKS[task](random.Random(f"{task} {seed}"), count)
    assert len(pairs) == count, f"{task} has {len(pairs)} rows only"
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for asked, answer in pairs:
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
        file.flush()
        return renderer.render_all(load_examples(file.name).examples)
