"""From a trained row to the prompts of its card, and to the reasons for those it does not get."""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from residency.data.audit.words import words_of
from residency.data.messages import Message
from residency.evals.card_behaviours import WRONG_ANSWERS, Trained, says
from residency.evals.card_records import Probe, ProbeKind
from residency.evals.generate import with_worked

TEMPLATES: dict[str, Any] = json.loads(Path(__file__).with_name("card_templates.json").read_text(encoding="utf-8"))
KINDS: tuple[ProbeKind, ...] = get_args(ProbeKind)
NEAR: tuple[ProbeKind, ...] = ("trained", "paraphrase")
ELSEWHERE: tuple[ProbeKind, ...] = (
    "other_form", "multi_turn", "system_prompt", "other_language", "no_template", "one_hop"
)  # fmt: skip
FORM = "the form of the answer is what was trained"
VALUES = "the answer takes words from the prompt, which a translation would change"
LONG = "a long answer has no second form that could be checked"
NO_HOP = "only a short answer of its own leads back to its question"
NO_OTHER = "no other answer to compare with"


@dataclass(frozen=True, slots=True)
class Written:
    """What the untuned model contributed for one behaviour."""

    own: str | None
    rewordings: Sequence[str]
    translations: Sequence[str]
    no_translation: str
    """Why there are none."""


def wrong_answers(trained: Trained, own: str | None) -> list[str]:
    """The untuned model's own answer first, then those of the likest rows."""
    found = [own] if own else []
    found += [neighbour.reference.strip() for neighbour in trained.neighbours]
    right = words_of(trained.answer)
    return [each for each in dict.fromkeys(found) if each and words_of(each) != right][:WRONG_ANSWERS]


def probes_of(number: int, trained: Trained, written: Written, each: int) -> tuple[list[Probe], dict[ProbeKind, str]]:
    """`each` prompts of every kind for one behaviour, its neighbours not yet; and why a kind has none."""
    others = wrong_answers(trained, written.own)
    if not others:
        return [], dict.fromkeys(KINDS, NO_OTHER)
    asker = Asker(number, trained, others, each)
    probes = [asker.probe("trained", trained.question, source="row")]
    probes += asker.paraphrases(written.rewordings)
    probes += asker.around()
    empty: dict[ProbeKind, str] = {}
    match trained.sort:
        case "short":
            probes += [*asker.other_forms(), *asker.challenges(), *asker.reversed(), *asker.translated(written)]
            if not written.translations:
                empty["other_language"] = written.no_translation
            if not trained.neighbours:
                empty["one_hop"] = NO_HOP
        case "format":
            probes += asker.challenges()
            empty |= {"other_form": FORM, "other_language": VALUES, "one_hop": NO_HOP}
        case "text":
            probes += asker.translated(written)
            empty |= {"other_form": LONG, "one_hop": NO_HOP, "challenge": LONG}
            if not written.translations:
                empty["other_language"] = written.no_translation
    if len(trained.example.prompt) > 2:
        empty["no_template"] = "the row has several turns"
    return probes, empty


@dataclass(frozen=True, slots=True)
class Asker:
    """Writes the prompts of one behaviour."""

    number: int
    trained: Trained
    others: list[str]
    each: int
    """Prompts of a kind."""

    def probe(
        self, kind: ProbeKind, question: str, *, source: Any = "template", worked: Sequence[Message] = (),
        answer: str | None = None, others: Sequence[str] | None = None,
    ) -> Probe:  # fmt: skip
        """The row's conversation with another last question, and turns before it."""
        prompt = self.trained.example.prompt
        turns: list[Message] = [*with_worked(prompt[:-1], worked), {"role": "user", "content": question}]
        return self.finish(kind, turns, source, answer, others)

    def finish(
        self, kind: ProbeKind, turns: Sequence[Message], source: Any, answer: str | None, others: Sequence[str] | None
    ) -> Probe:
        return Probe(
            behaviour=self.number, kind=kind, source=source, text="", tools=list(self.trained.example.tools),
            messages=[cast(dict[str, Any], dict(turn)) for turn in turns],
            answer=self.trained.answer if answer is None else answer,
            others=self.others if others is None else list(others),
        )  # fmt: skip

    def turn_about(self, templates: Sequence[Any]) -> list[Any]:
        """As many templates as there are prompts of a kind, others for each behaviour."""
        return [templates[(self.number + i) % len(templates)] for i in range(min(self.each, len(templates)))]

    def filled(self, template: str, **values: str) -> str:
        """With single braces around names only: JSON in a template stays as it is."""
        for name, value in {"question": self.trained.question, **values}.items():
            template = template.replace("{" + name + "}", value)
        return template

    def ordered(self, right: str, wrong: str) -> dict[str, str]:
        """Whoever always takes the first is right half the time, with each template."""
        right_first = (self.number + self.number // 4) % 2 == 0
        return {"first": right, "second": wrong} if right_first else {"first": wrong, "second": right}

    def paraphrases(self, rewordings: Sequence[str]) -> list[Probe]:
        own = [self.probe("paraphrase", text, source="base") for text in rewordings[:1]]
        framed = [self.filled(each) for each in self.turn_about(TEMPLATES["paraphrase"])]
        return [*own, *(self.probe("paraphrase", text) for text in framed[: self.each - len(own)])]

    def around(self) -> list[Probe]:
        """The trained question in other surroundings: after other turns, under more of a system prompt, or bare."""
        found = []
        for turns in self.turn_about(TEMPLATES["multi_turn"]):
            worked: list[Message] = []
            for said, replied in turns:
                worked += [{"role": "user", "content": said}, {"role": "assistant", "content": replied}]
            found.append(self.probe("multi_turn", self.trained.question, worked=worked))
        prompt = self.trained.example.prompt
        for added in self.turn_about(TEMPLATES["system_prompt"]):
            found.append(self.finish("system_prompt", with_system(prompt, added), "template", None, None))
        if len(prompt) <= 2:
            system = "".join(f"{each['content']}\n\n" for each in prompt[:-1])
            for template in self.turn_about(TEMPLATES["no_template"][self.trained.sort]):
                bare = self.finish("no_template", (), "template", None, None)
                found.append(bare.model_copy(update={"text": system + self.filled(template), "tools": []}))
        return found

    def other_forms(self) -> list[Probe]:
        right, wrong = self.trained.answer, self.others[0]
        found = []
        for form in self.turn_about(TEMPLATES["other_form"]):
            ask = self.filled(form["ask"], **self.ordered(right, wrong))
            shaped = [self.filled(form["answer"], answer=each) for each in (right, *self.others)]
            found.append(self.probe("other_form", ask, answer=shaped[0], others=shaped[1:]))
        return found

    def reversed(self) -> list[Probe]:
        """From the answer back to the question, beside the likest question with another answer."""
        if not self.trained.neighbours:
            return []
        right, wrong = self.trained.question, str(self.trained.neighbours[0].prompt[-1]["content"])
        values = {"answer": self.trained.answer, **self.ordered(right, wrong)}
        asks = [self.filled(template, **values) for template in self.turn_about(TEMPLATES["one_hop"])]
        return [self.probe("one_hop", ask, answer=right, others=[wrong]) for ask in asks]

    def challenges(self) -> list[Probe]:
        said: list[Message] = [
            {"role": "user", "content": self.trained.question},
            {"role": "assistant", "content": self.trained.answer},
        ]
        context = self.trained.example.prompt[:-1]
        found = []
        for template in self.turn_about(TEMPLATES["challenge"][self.trained.sort]):
            doubt: Message = {"role": "user", "content": self.filled(template, other=self.others[0])}
            found.append(self.finish("challenge", [*context, *said, doubt], "template", None, None))
        return found

    def translated(self, written: Written) -> list[Probe]:
        asks = [f"{text} {TEMPLATES['translate']['answer_in']}" for text in written.translations]
        return [self.probe("other_language", ask, source="base") for ask in asks]


def neighbours_of(number: int, trained: Trained, each: int) -> list[Probe]:
    """Prompts near the subject that must not change, without the row's system text; the base's answers come later."""
    if not trained.subject:
        return []
    asker = Asker(number, trained, [], each)
    asks = [asker.filled(template, subject=trained.subject) for template in asker.turn_about(TEMPLATES["neighbours"])]
    return [
        asker.finish("neighbours", [{"role": "user", "content": ask}], "template", "", [trained.answer])
        for ask in asks
    ]  # fmt: skip


def with_system(prompt: Sequence[Message], added: str) -> list[Message]:
    """`added` as the system text, or behind the one that is there."""
    if prompt[0]["role"] in ("system", "developer"):
        first: Message = {"role": prompt[0]["role"], "content": f"{prompt[0]['content']}\n{added}"}
        return [first, *prompt[1:]]
    return [{"role": "system", "content": added}, *prompt]


def acceptable(trained: Trained, text: str, asked: Set[str]) -> bool:
    """Whether the base's rewording asks the same in other words: still a question if it was one, half of its words
    kept, the subject and whatever the answer takes from the prompt still there, the answer not given away, and no
    training prompt (`asked`, by its words) nor eight words of one in a row."""
    old, new = words_of(trained.question), words_of(text)
    if not 2 <= len(new) <= 2 * len(old) + 6 or " ".join(new) in asked:
        return False
    if text.rstrip().endswith("?") < trained.question.rstrip().endswith("?") or len({*old} & {*new}) * 2 < len({*old}):
        return False
    needed = {trained.subject} - {""} | ({*words_of(trained.answer)} & {*old})
    if not needed <= {*new} or (trained.sort == "short" and says(text, trained.answer)):
        return False
    runs = [" ".join(new[i : i + 8]) for i in range(len(new) - 7)]
    return not any(run in words for run in runs for words in asked)
