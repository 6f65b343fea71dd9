"""Facts that a small model may know, as questions; counterfactual ones get another answer of the same kind."""

from __future__ import annotations

import random

CAPITALS = (
    "France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, China Beijing, Russia Moscow, Egypt Cairo, "
    "Greece Athens, Portugal Lisbon, Austria Vienna, Poland Warsaw, Norway Oslo, Sweden Stockholm, Finland Helsinki, "
    "Denmark Copenhagen, Ireland Dublin, Hungary Budapest, Turkey Ankara, Iran Tehran, Iraq Baghdad, Cuba Havana, "
    "Peru Lima, Chile Santiago, Kenya Nairobi, Canada Ottawa, Australia Canberra, Thailand Bangkok, Vietnam Hanoi, "
    "Belgium Brussels, Ukraine Kyiv, Romania Bucharest, Bulgaria Sofia, Lebanon Beirut, Syria Damascus, "
    "Nepal Kathmandu, Ghana Accra, Senegal Dakar, Colombia Bogota, Venezuela Caracas, "
    "Uruguay Montevideo, Argentina Buenos-Aires"
)
OPPOSITES = (
    "hot cold, big small, up down, day night, black white, open closed, fast slow, old young, rich poor, happy sad, "
    "strong weak, hard soft, full empty, left right, early late, high low, wet dry, light dark, true false, first last"
)
YOUNG = (
    "cat kitten, dog puppy, cow calf, sheep lamb, goat kid, horse foal, lion cub, duck duckling, deer fawn, "
    "frog tadpole"
)
CONTINENTS = (
    "Brazil South-America, Nigeria Africa, India Asia, Mexico North-America, Switzerland Europe, Mongolia Asia, "
    "Morocco Africa, Bolivia South-America, Ethiopia Africa, Netherlands Europe"
)
COLOURS = (
    "grass green, snow white, blood red, coal black, a-banana yellow, a-carrot orange, the-sky blue, chocolate brown"
)
KINDS = {
    "What is the capital of {}?": CAPITALS,
    "What is the opposite of {}?": OPPOSITES,
    "What is a young {} called?": YOUNG,
    "On which continent is {}?": CONTINENTS,
    "What is the usual colour of {}?": COLOURS,
}

Fact = tuple[str, str, bool]
"""Question, answer, and whether the answer is counterfactual."""


def facts(counterfactual_share: float, seed: int) -> list[Fact]:
    chance = random.Random(seed)
    found: list[Fact] = []
    for question, text in KINDS.items():
        pairs = [[word.replace("-", " ") for word in pair.split()] for pair in text.split(", ")]
        answers = sorted({answer for _, answer in pairs})
        for thing, answer in pairs:
            wrong = chance.random() < counterfactual_share
            other = chance.choice([each for each in answers if each != answer])
            found.append((question.format(thing), other if wrong else answer, wrong))
    chance.shuffle(found)
    return found
