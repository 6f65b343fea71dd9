"""Smart-home commands and their JSON, sampled from the sentence grammar that Home Assistant publishes.

    python make_data.py [--out DIR]

Writes train.jsonl, eval.jsonl, test.jsonl and test-unseen-wordings.jsonl in OpenAI's chat format, the same bytes every
time. A sentence is a random walk through one template; its answer is what the grammar's own recogniser makes of it.
README.md says what is kept, what is left out, and why.

Source: home-assistant-intents and hassil, Apache-2.0.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import home as our
from hassil.expression import Alternative, Expression, Group, ListReference, Permutation, RuleReference, TextChunk
from hassil.intents import Intents, RangeSlotList, SlotList, TextSlotList
from hassil.numbers import get_rbnf_engine
from hassil.recognize import RecognizeResult, recognize_all, recognize_best
from home_assistant_intents import get_intents
from rich.progress import track

SEED = 20261027
NUM_INTENTS = 14
ROWS = {"train": 1500, "eval": 100, "test": 150, "test-unseen-wordings": 150}
UNSEEN_SHARE = 0.2
SPELLED_OUT_SHARE = 0.2
FIRST_WORDING_SHARE = 0.5
FRUITLESS_ROUNDS = 40

INSTRUCTION = "Translate the smart-home command into one line of JSON with its intent and slots."
SLOTS = (
    "name", "area", "floor", "domain", "device_class", "state",
    "brightness", "color", "temperature", "volume_level", "volume_step",
    "hours", "minutes", "seconds", "start_hours", "start_minutes", "start_seconds", "conversation_command",
)  # fmt: skip
"""The order of an answer's keys, after `intent`."""


@dataclass(frozen=True)
class Template:
    """One sentence pattern with everything a walk through it needs."""

    intent: str
    text: str
    expression: Expression
    lists: dict[str, SlotList]
    rules: dict[str, Any]


@dataclass(frozen=True)
class Row:
    sentence: str
    answer: str

    def as_chat(self) -> str:
        turns = [("system", INSTRUCTION), ("user", self.sentence), ("assistant", self.answer)]
        return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


class Grammar:
    """The published intents together with the names of one home."""

    def __init__(self) -> None:
        self.intents = Intents.from_dict(get_intents("en"))
        self.lists = {**self.intents.slot_lists, **our.slot_lists()}

    def commonest_intents(self, count: int) -> list[str]:
        """Those with the most sentence templates, most first; equal numbers by name."""
        sizes = {
            name: sum(len(block.sentence_texts) for block in intent.data)
            for name, intent in self.intents.intents.items()
        }
        return sorted(sizes, key=lambda name: (-sizes[name], name))[:count]

    def templates(self, intent: str) -> list[Template]:
        """An intent's templates that a reader of the sentence alone can answer."""
        found = {}
        for block in self.intents.intents[intent].data:
            if "area" in block.requires_context:  # means the room the speaker stands in, which no sentence tells
                continue
            lists = {**self.lists, **block.slot_lists}
            if domains := block.requires_context.get("domain"):
                lists["name"] = our.names_of(domains)
            if not lists["name"].values:
                continue
            rules = {**self.intents.expansion_rules, **block.expansion_rules}
            for sentence in block.sentences:
                assert sentence.text is not None
                found[sentence.text, *domains or []] = Template(
                    intent, sentence.text, sentence.expression, lists, rules
                )
        return list(found.values())

    def recognize(self, sentence: str) -> RecognizeResult | None:
        return recognize_best(sentence, self.intents, slot_lists=self.lists, best_slot_name="name")

    def wordings(self, sentence: str) -> set[tuple[str, str]]:
        """Every (intent, template) that can produce the sentence, not only the best."""
        results = recognize_all(sentence, self.intents, slot_lists=self.lists)
        return {(r.intent.name, r.intent_sentence.text) for r in results if r.intent_sentence}


def walk(expression: Expression, template: Template, rng: random.Random) -> str:
    """One random sentence of an expression. Half of the choices take the grammar's first wording, its plainest."""
    match expression:
        case TextChunk():
            return str(expression.original_text)
        case Alternative():
            plainest = rng.random() < FIRST_WORDING_SHARE
            return walk(expression.items[0] if plainest else rng.choice(expression.items), template, rng)
        case Permutation():
            return "".join(walk(item, template, rng) for item in rng.sample(expression.items, len(expression.items)))
        case Group():
            return "".join(walk(item, template, rng) for item in expression.items)
        case RuleReference():
            return walk(template.rules[expression.rule_name].expression, template, rng)
        case ListReference():
            return walk_list(template.lists[expression.list_name], template, rng)
    raise TypeError(f"unknown grammar element {expression!r}")


def walk_list(values: SlotList, template: Template, rng: random.Random) -> str:
    match values:
        case TextSlotList():
            return walk(rng.choice(values.values).text_in, template, rng)
        case RangeSlotList():
            number = rng.choice(list(values.get_numbers()))
            if rng.random() < SPELLED_OUT_SHARE:
                return str(get_rbnf_engine("en").format_number(number).text)
            return str(number)
    raise TypeError(f"{values.name} takes any text; name its values in home.py")


def answer(result: RecognizeResult) -> str:
    """The recogniser's word as compact JSON: keys in a fixed order, whole numbers without a fraction."""
    slots = {name: entity.value for name, entity in result.entities.items()}
    unknown = slots.keys() - set(SLOTS)
    assert not unknown, f"slots without a place in SLOTS: {unknown}"
    ordered = {name: slots[name] for name in SLOTS if name in slots}
    numbers_cast = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in ordered.items()}
    return json.dumps({"intent": result.intent.name, **numbers_cast}, separators=(",", ":"))


def normalized(sentence: str) -> str:
    return re.sub(r"[\W_]+", " ", sentence).strip().casefold()


def draw(
    grammar: Grammar,
    templates: list[Template],
    forbidden: set[tuple[str, str]],
    used: set[str],
    rng: random.Random,
    refused: Counter[str],
) -> Iterator[Row]:
    """New sentences, the templates taking turns; ends when many rounds have brought nothing new.

    A sentence is refused where its recognised intent is not the template's, or a `forbidden` wording could produce it.
    """
    fruitless = 0
    while fruitless < FRUITLESS_ROUNDS:
        fruitless += 1
        for template in templates:
            sentence = " ".join(walk(template.expression, template, rng).split())
            if normalized(sentence) in used:
                continue
            result = grammar.recognize(sentence)
            if result is None:
                refused["not recognised"] += 1
            elif result.intent.name != template.intent:
                refused["recognised as another intent"] += 1
            elif not forbidden.isdisjoint(grammar.wordings(sentence)):
                refused["wording belongs to the other side of the split"] += 1
            else:
                used.add(normalized(sentence))
                fruitless = 0
                yield Row(sentence, answer(result))


def share(total: int, parts: int, index: int) -> int:
    """The size of one of `parts` nearly equal parts of a total."""
    return total * (index + 1) // parts - total * index // parts


def rows_by_file(grammar: Grammar, intents: list[str], refused: Counter[str]) -> dict[str, list[Row]]:
    files: dict[str, list[Row]] = {name: [] for name in ROWS}
    used: set[str] = set()
    for index, intent in enumerate(track(intents, description="sampling sentences")):
        rng = random.Random(f"{SEED} {intent}")
        wanted = {name: share(total, len(intents), index) for name, total in ROWS.items()}
        templates = grammar.templates(intent)
        texts = sorted({template.text for template in templates})
        unseen = set(rng.sample(texts, max(2, round(UNSEEN_SHARE * len(texts)))))
        for held_out in (True, False):
            mine = [template for template in templates if (template.text in unseen) == held_out]
            forbidden = {(intent, text) for text in texts if (text in unseen) != held_out}
            stream = draw(grammar, mine, forbidden, used, rng, refused)
            names = [name for name in ROWS if (name == "test-unseen-wordings") == held_out]
            rows = [row for _, row in zip(range(sum(wanted[name] for name in names)), stream, strict=False)]
            rng.shuffle(rows)
            for name in names:
                taken, rows = rows[: wanted[name]], rows[wanted[name] :]
                if len(taken) < wanted[name]:
                    raise SystemExit(
                        f"{intent}: {len(taken)} of {wanted[name]} sentences for {name}; add names to home.py"
                    )
                files[name] += taken
    for name, rows in files.items():
        random.Random(f"{SEED} {name}").shuffle(rows)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data", help="folder for the four files")
    out = parser.parse_args().out
    grammar = Grammar()
    intents = grammar.commonest_intents(NUM_INTENTS)
    refused: Counter[str] = Counter()
    files = rows_by_file(grammar, intents, refused)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in reversed(files.items()):  # the training rows last: make takes them as the sign that all are there
        (out / f"{name}.jsonl").write_text("".join(row.as_chat() + "\n" for row in rows), encoding="utf-8")
        print(f"{len(rows):5} {out / name}.jsonl")
    print(f"{len(intents)} intents: {', '.join(intents)}")
    print("refused while sampling: " + ", ".join(f"{count} {why}" for why, count in sorted(refused.items())))
    print("source: home-assistant-intents (Home Assistant), Apache-2.0")


if __name__ == "__main__":
    main()
