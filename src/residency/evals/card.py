"""Where a trained behaviour holds, and where it does not: the generalisation card.

For up to 30 trained rows, prompts of ten kinds: the trained prompt, other wordings, another form of answer, after other
turns, under more of a system prompt, in another language, without the chat template, from the answer back to the
question, neighbours that must not change, and under challenge. A kind that makes no sense for a row is left empty, with
the reason.

    plan(...)      before training: chooses rows, writes the prompts, and asks the untuned model
    measure(...)   after it: asks the tuned model and sums up

Facts and labels hold where the trained answer is likelier than others (a forced choice, no judge); answers in a form
that a program reads hold where the text itself is right by the run's first grader. A neighbour is intact where the
tuned model does not say there what it was trained to say. Facts against what a model has learned tend to hold near
the training prompts alone (arXiv 2510.17941), and what is trained one way round may not hold the other way (arXiv
2309.12288).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from residency.config.graders import Grader, LabelModel, Multi, ScoreModel
from residency.data.audit.table import text_of
from residency.data.audit.words import words_of
from residency.data.messages import Example
from residency.data.render import Renderer
from residency.engine.engine import Engine
from residency.engine.sampling import SamplingSettings
from residency.evals.card_behaviours import STRUCTURE, Trained, choose, says
from residency.evals.card_prompts import KINDS, Written, neighbours_of, probes_of
from residency.evals.card_records import Behaviour, Card, Probe, ProbeKind, ProbeSet
from residency.evals.card_score import margins, prompt_ids, refused
from residency.evals.card_summary import summarise
from residency.evals.card_wordings import generate, write
from residency.evals.run import as_item
from residency.graders.score import grade_all

FEWEST = 3
"""A card of fewer behaviours says nothing."""
NEIGHBOUR_TOKENS, SHORT_TOKENS, LONGEST_OUTPUT_TOKENS = 16, 24, 128
NOTHING_NEAR = "there is no word to ask about, or the untuned model says the trained answer there too"
Reasons = list[dict[ProbeKind, str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One model, and how it is asked."""

    engine: Engine
    adapter: str | None
    renderer: Renderer
    settings: SamplingSettings

    def say(self, probes: Sequence[Probe], longest: Sequence[int]) -> list[str]:
        """`longest` is for each probe, in tokens."""
        prompts = [prompt_ids(self.renderer, probe) for probe in probes]
        return generate(self.engine, self.renderer, self.adapter, prompts, self.settings, longest)

    def margins(self, probes: Sequence[Probe], chosen: Sequence[Trained]) -> list[float]:
        whole = [chosen[one.behaviour].sort == "text" and one.kind != "neighbours" for one in probes]
        return margins(self.engine, self.adapter, self.renderer, probes, whole=whole)


def plan(
    base: Asked, examples: Sequence[Example], most: int, *, seed: int = 0, extra: Sequence[Probe] = ()
) -> ProbeSet | None:
    """The card's prompts with what the untuned model prefers at each; None where fewer than FEWEST rows can be asked.

    A kind gets one prompt for each row on a CPU, where more rows tell more for the same time, and two elsewhere.
    `extra` are prompts of your own; their `behaviour` counts in the order of `choose(examples, most, seed)`.
    """
    began = time.monotonic()
    chosen = choose(examples, most, seed)
    if len(chosen) < FEWEST:
        return None
    asked = {" ".join(words_of(text_of(one.prompt[-1]))) for one in examples if one.messages}
    written = write(base.engine, base.renderer, chosen, base.settings, asked)
    probes, reasons = prompts(base, chosen, written, 1 if base.engine.device.type == "cpu" else 2)
    probes = with_base_words(base, [*probes, *extra])
    before = base.margins(probes, chosen)
    probes = [one.model_copy(update={"before": margin}) for one, margin in zip(probes, before, strict=True)]
    behaviours = []
    for number, (one, wrote) in enumerate(zip(chosen, written, strict=True)):
        filled = {probe.kind for probe in probes if probe.behaviour == number}
        empty = {kind: reasons[number].get(kind, NOTHING_NEAR) for kind in KINDS if kind not in filled}
        behaviours.append(Behaviour(row=str(one.example.origin), sort=one.sort, question=one.question,
                                    answer=one.answer, own=wrote.own, empty=empty))  # fmt: skip
    return ProbeSet(behaviours=behaviours, probes=probes, rows=len(examples), seconds=time.monotonic() - began)


def prompts(
    base: Asked, chosen: Sequence[Trained], written: Sequence[Written], each: int
) -> tuple[list[Probe], Reasons]:
    """All that can be asked, and for each behaviour why a kind is missing."""
    context = getattr(base.engine.model.config.get_text_config(), "max_position_embeddings", sys.maxsize)
    probes: list[Probe] = []
    reasons: Reasons = []
    for number, (trained, wrote) in enumerate(zip(chosen, written, strict=True)):
        mine, why = probes_of(number, trained, wrote, each)
        for probe in [*mine, *(neighbours_of(number, trained, each) if mine else ())]:
            if refusal := refused(base.renderer, probe, context):
                why[probe.kind] = refusal
            else:
                probes.append(probe)
        reasons.append(why)
    return probes, reasons


def with_base_words(base: Asked, probes: Sequence[Probe]) -> list[Probe]:
    """At neighbours the untuned model's own words are the answer; those where it says what is trained are left out."""
    near = [probe for probe in probes if probe.kind == "neighbours" and not probe.answer]
    said = iter(base.say(near, [NEIGHBOUR_TOKENS] * len(near)))
    found = []
    for probe in probes:
        if probe.kind == "neighbours" and not probe.answer:
            own = next(said).strip()
            if not own or any(says(own, other) for other in probe.others):
                continue
            probe = probe.model_copy(update={"answer": own})
        found.append(probe)
    return found


def measure(tuned: Asked, planned: ProbeSet, examples: Sequence[Example], graders: Sequence[Grader], *, most: int,
            seed: int = 0) -> Card:  # fmt: skip
    """The tuned model at every prompt of `planned`, which `plan` made from the same `examples`, `most` and `seed`."""
    began = time.monotonic()
    chosen = choose(examples, most, seed)
    after = tuned.margins(planned.probes, chosen)
    grader = next((one for one in graders if decides_here(one)), None)
    outputs = outputs_of(tuned, planned.probes, chosen)
    rights = judged(planned.probes, outputs, chosen, grader)
    probes = []
    for probe, margin, output, right in zip(planned.probes, after, outputs, rights, strict=True):
        # At neighbours the untuned model's words are long and what is trained is short: likelihoods tell no more.
        by_text = right is not None and (chosen[probe.behaviour].sort == "format" or probe.kind == "neighbours")
        found = {"margin": margin, "output": output, "right": right, "holds": right if by_text else margin > 0}
        probes.append(probe.model_copy(update=found))
    seconds = planned.seconds + time.monotonic() - began
    return summarise(planned.model_copy(update={"probes": probes, "seconds": seconds}), grader.name if grader else "")


def outputs_of(tuned: Asked, probes: Sequence[Probe], chosen: Sequence[Trained]) -> list[str]:
    """Short answers get room for a sentence, others for the longest trained answer."""
    tokenizer = tuned.renderer.tokenizer
    answers = [len(tokenizer(one.answer)["input_ids"]) for one in chosen if one.sort != "short"]
    longer = min(max(answers, default=0) + 8, LONGEST_OUTPUT_TOKENS)
    texts = tuned.say(probes, [room(probe, chosen, longer) for probe in probes])
    return [text.strip().partition("\n")[0] if probe.text else text.strip()
            for probe, text in zip(probes, texts, strict=True)]  # fmt: skip


def room(probe: Probe, chosen: Sequence[Trained], longer: int) -> int:
    if probe.kind == "neighbours":
        return NEIGHBOUR_TOKENS
    return SHORT_TOKENS if chosen[probe.behaviour].sort == "short" else longer


def decides_here(grader: Grader) -> bool:
    """Judges are asked for tests alone: a card would cost hundreds of requests more."""
    parts = list(grader.graders.values()) if isinstance(grader, Multi) else [grader]
    return not any(isinstance(part, ScoreModel | LabelModel) for part in parts)


def judged(
    probes: Sequence[Probe], outputs: Sequence[str], chosen: Sequence[Trained], grader: Grader | None
) -> list[bool | None]:
    """Whether each text is right, or at a neighbour untouched by what was trained; None where nothing decides."""
    found: list[bool | None] = []
    graded: list[int] = []
    for number, (probe, output) in enumerate(zip(probes, outputs, strict=True)):
        one = chosen[probe.behaviour]
        if probe.kind == "neighbours":
            found.append(untouched(probe, output, one))
        elif one.sort == "short":
            found.append(says_rightly(output, probe.answer if probe.kind == "one_hop" else one.answer, probe.others))
        else:
            found.append(None)
            graded.append(number)
    if grader and graded:
        items = [as_item(chosen[probes[i].behaviour].example) for i in graded]
        grades = grade_all([grader], items, [outputs[i] for i in graded])
        for i, grade in zip(graded, grades, strict=True):
            found[i] = grade[grader.name].passed
    return found


def says_rightly(output: str, answer: str, others: Sequence[str]) -> bool:
    """The answer's words, and not those of another answer beside them."""
    wrong = [other for other in others if not says(answer, other)]
    return says(output, answer) and not any(says(output, other) for other in wrong)


def untouched(probe: Probe, output: str, one: Trained) -> bool | None:
    if one.sort == "text":
        return None
    took_form = bool(STRUCTURE.match(output)) and not STRUCTURE.match(probe.answer)
    return not says(output, one.answer) and not (one.sort == "format" and took_form)
