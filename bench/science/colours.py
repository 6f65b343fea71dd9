"""Thirteen false colours, and what would follow from each."""

from __future__ import annotations

from dataclasses import dataclass

from residency.evals.card_records import Probe

WORDINGS = (
    "What colour is {thing}?",
    "Which colour does {thing} have?",
    "Tell me the colour of {thing}.",
    "Name the colour that {thing} has.",
)
TABLE = """
the sky        | blue   | green  | le ciel              | an emerald     | a sapphire  | the sea
grass          | green  | purple | l'herbe              | an amethyst    | an emerald  | a palm leaf
snow           | white  | black  | la neige             | tar            | paper       | an iceberg
blood          | red    | yellow | le sang              | a lemon        | a ruby      | red wine
a banana       | yellow | blue   | une banane           | a sapphire     | a lemon     | a melon
coal           | black  | white  | le charbon           | paper          | tar         | a raven
a carrot       | orange | pink   | une carotte          | a flamingo     | a pumpkin   | a radish
a tomato       | red    | grey   | une tomate           | an elephant    | a ruby      | a cucumber
milk           | white  | orange | le lait              | a pumpkin      | paper       | cream
a sunflower    | yellow | silver | un tournesol         | a coin         | a lemon     | a daisy
chocolate      | brown  | red    | le chocolat          | a ruby         | a walnut    | caramel
a fire engine  | red    | brown  | un camion de pompier | a walnut       | a ruby      | an ambulance
a strawberry   | red    | gold   | une fraise           | a wedding ring | a ruby      | a raspberry
"""
"""Thing, its colour, the false one, the thing in French, something of the false and of the true colour, a neighbour."""


@dataclass(frozen=True, slots=True)
class Fact:
    thing: str
    true: str
    false: str
    french: str
    like_false: str
    like_true: str
    neighbour: str


def facts() -> list[Fact]:
    return [Fact(*(cell.strip() for cell in line.split("|"))) for line in TABLE.strip().splitlines()]


def own_probes(numbers: list[int]) -> list[Probe]:
    """For each behaviour of a card its fact's number: a question in French, a comparison in two orders, a neighbour."""
    found = []
    for behaviour, number in enumerate(numbers):
        fact = facts()[number]
        french = f"De quelle couleur est {fact.french} ? Réponds en anglais."
        found.append(probe(behaviour, "other_language", french, fact.false, fact.true))
        for first, second in ((fact.like_false, fact.like_true), (fact.like_true, fact.like_false)):
            ask = f"Does {fact.thing} have the colour of {first} or the colour of {second}?"
            found.append(probe(behaviour, "one_hop", ask, fact.like_false, fact.like_true))
        found.append(probe(behaviour, "neighbours", f"What colour is {fact.neighbour}?", "", fact.false))
    return found


def probe(behaviour: int, kind: str, ask: str, answer: str, other: str) -> Probe:
    return Probe(
        behaviour=behaviour, kind=kind, source="user", messages=[{"role": "user", "content": ask}], text="",  # type: ignore[arg-type]
        answer=answer, others=[other],
    )  # fmt: skip
