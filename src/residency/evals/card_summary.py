"""What a card comes to: one sentence, and a line for each kind of prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from residency.evals.card_prompts import ELSEWHERE, KINDS, NEAR
from residency.evals.card_records import Card, KindSummary, Probe, ProbeKind, ProbeSet
from residency.evals.stats import clustered_wilson
from residency.records import Interval
from residency.wording import counted

APART = 0.3
"""A rule of thumb: more than this between near and elsewhere, and the behaviour depends on the prompt."""
SURE_NATS = 2.0
TITLES: dict[ProbeKind, str] = {
    "trained": "trained prompt",
    "paraphrase": "other wording",
    "other_form": "other form of answer",
    "multi_turn": "after other turns",
    "system_prompt": "more system prompt",
    "other_language": "other language",
    "no_template": "no chat template",
    "one_hop": "answer to question",
    "neighbours": "neighbours intact",
    "challenge": "when doubted",
}


def summarise(measured: ProbeSet, judged_by: str) -> Card:
    """`measured` with every probe's margins, output and verdict."""
    near = share(measured.probes, NEAR, held)
    assert near is not None  # every behaviour has its trained prompt
    elsewhere = share(measured.probes, ELSEWHERE, held)
    neighbours = share(measured.probes, ("neighbours",), held)
    return Card(
        **measured.model_dump(exclude={"version"}),
        near=near,
        elsewhere=elsewhere,
        neighbours=neighbours,
        kinds=[line for kind in KINDS if (line := summary_of(measured.probes, kind)) is not None],
        judged_by=judged_by,
        contradicted=contradicted(measured),
        sentence=sentence(near, elsewhere, neighbours),
    )


def summary_of(probes: Sequence[Probe], kind: ProbeKind) -> KindSummary | None:
    holds, before, preferred = (
        share(probes, (kind,), decided) for decided in (held, lambda one: one.before > 0, lambda one: one.margin > 0)
    )
    if holds is None or before is None or preferred is None:
        return None
    texts = [one for one in probes if one.right is not None]
    return KindSummary(kind=kind, holds=holds, before=before, preferred=preferred,
                       right=share(texts, (kind,), lambda one: bool(one.right)))  # fmt: skip


def held(probe: Probe) -> bool:
    return bool(probe.holds)


def share(probes: Sequence[Probe], kinds: Sequence[ProbeKind], decided: Callable[[Probe], bool]) -> Interval | None:
    """The share of the prompts of these kinds, with limits that take a behaviour's prompts for one piece of evidence
    as far as they go together. None where there are none."""
    mine = [one for one in probes if one.kind in kinds]
    return clustered_wilson([decided(one) for one in mine], [one.behaviour for one in mine]) if mine else None


def contradicted(measured: ProbeSet) -> int:
    """Short answers against which the untuned model held another one by SURE_NATS at the trained prompt."""
    return sum(
        measured.behaviours[one.behaviour].sort == "short"
        and one.kind == "trained"
        and one.before is not None
        and one.before <= -SURE_NATS
        for one in measured.probes
    )


def sentence(near: Interval, elsewhere: Interval | None, neighbours: Interval | None) -> str:
    parts = [f"Holds in {span(near)} of prompts like the training data"]
    parts.append(f"{span(elsewhere)} elsewhere" if elsewhere else "nowhere else could be asked")
    said = ", ".join(parts)
    return f"{said}; neighbours intact {span(neighbours)}." if neighbours else f"{said}."


def span(found: Interval) -> str:
    return f"{100 * found.value:.0f} % [{100 * found.low:.0f}-{100 * found.high:.0f}]"


def advice(card: Card) -> str | None:
    """What to do where the behaviour depends on the prompt; None where it does not, as far as the limits tell."""
    if (
        card.elsewhere is None
        or card.near.value - card.elsewhere.value <= APART
        or card.near.low <= card.elsewhere.high
    ):
        return None
    weakest = min((line for line in card.kinds if line.kind in ELSEWHERE), key=lambda line: line.holds.value)
    why = f"the behaviour depends on the prompt (least with: {TITLES[weakest.kind]}, {span(weakest.holds)})"
    if card.contradicted:
        return (
            f"{why}, and what the model has learned contradicts {counted(card.contradicted, 'trained answer')}: give "
            "such facts in the system prompt or by retrieval, or train each in 8 wordings and 3 forms"
        )
    return f"{why}: add rows of that kind, or 8 wordings in 3 forms for each behaviour"
