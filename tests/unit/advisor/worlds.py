"""Six worlds as real rows, and the endpoint's model that lives in each of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    choice: str
    rows: Callable[[random.Random], list[Row]]
    answer: Callable[[Body, Row], str]
    """What the model says, given a request and the row that it asks about."""
    graders: list[dict[str, Any]]


def chance(*parts: object) -> float:
    """From 0 to 1, the same for the same parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6]) / 2**48


def question(row: Row) -> str:
    return str(row["messages"][-2]["content"])


def reference(row: Row) -> str:
    return str(row["messages"][-1]["content"])


def row(text: str, answer: str, system: str | None = None, **fields: str) -> Row:
    head = [{"role": "system", "content": system}] if system else []
    return {"messages": [*head, {"role": "user", "content": text}, {"role": "assistant", "content": answer}], **fields}


def said(body: Body) -> str:
    return "\n".join(message["content"] for message in body["messages"])


# 1. The prompt is enough: the model says too much, until it is told to give the answer alone.


def sentiment(rng: random.Random, count: int = 260) -> list[Row]:
    things, good, bad = ["phone", "kettle", "chair", "lamp", "book"], ["works well", "is lovely"], ["broke", "is ugly"]
    rows = []
    for number in range(count):
        label = rng.choice(["positive", "negative"])
        what = rng.choice(good if label == "positive" else bad)
        rows.append(row(f"Review {number}: the {rng.choice(things)} {what}. Sentiment?", label))
    return rows


def says_too_much(body: Body, about: Row) -> str:
    right = reference(about) if chance(question(about)) > 0.01 else "unsure"
    return right if "only the answer" in said(body) else f"I would call this one {right}, I think."


# 2. Retrieval: the model cannot know the price list, but reads it off where it is shown.


def prices(rng: random.Random, count: int = 220) -> list[Row]:
    rows = []
    for number in range(count):
        price = rng.randrange(10_000, 99_999)
        rows.append(
            row(
                f"What does part K{number} cost?",
                f"{price}",
                context=f"Price list: part K{number} costs {price} euros.",
            )
        )
    return rows


def reads(body: Body, about: Row) -> str:
    if about["context"] in body["messages"][-1]["content"] and chance(question(about)) > 0.1:
        return reference(about)
    return str(10_000 + int(chance(question(about), body["temperature"], body.get("seed")) * 89_999))


# 3. Fine-tune: the model understands, but not in the house's own JSON.


def tickets(rng: random.Random, count: int = 240) -> list[Row]:
    system = "File the ticket as JSON."
    codes = {"printer": "PRN-7", "network": "NET-2", "login": "IAM-1", "screen": "DSP-4"}
    rows = []
    for number in range(count):
        thing, floor = rng.choice(list(codes)), rng.randrange(1, 9)
        answer = {"code": codes[thing], "floor": floor, "prio": rng.choice(["p1", "p2"])}
        rows.append(
            row(f"Ticket {number}: {thing} trouble on floor {floor}, {answer['prio']}", json.dumps(answer), system)
        )
    return rows


def own_json(body: Body, about: Row) -> str:
    right = json.loads(reference(about))
    if len(body["messages"]) < 6:
        return f"The ticket is about {right['code']} on floor {right['floor']}."
    luck = chance(question(about), body["temperature"] and body.get("seed"))
    if luck < 0.3:
        return reference(about)
    code = "TKT" if luck < 0.9 else right["code"]
    return f"```json\n{json.dumps(right | {'code': code})}\n```"


# 4. Reinforcement: sums that come out right now and then.


def sums(rng: random.Random, count: int = 220) -> list[Row]:
    rows = []
    for _ in range(count):
        a, b, c = (rng.randrange(100, 999) for _ in range(3))
        rows.append(row(f"{a} + {b} - {c} = ?", str(a + b - c)))
    return rows


def now_and_then(body: Body, about: Row) -> str:
    luck = chance(question(about), body["temperature"] and body.get("seed"))
    return reference(about) if luck < 0.35 else str(int(reference(about)) + 1 + int(1000 * luck))


# 5. Rethink: products of three-digit numbers, never right.


def products(rng: random.Random, count: int = 220) -> list[Row]:
    pairs = [(rng.randrange(100, 999), rng.randrange(100, 999)) for _ in range(count)]
    return [row(f"{a} times {b}?", str(a * b)) for a, b in pairs]


def never(body: Body, about: Row) -> str:
    return str(10_000 + int(chance(question(about), body["temperature"] and body.get("seed")) * 900_000))


# 6. Too little data: half of twenty-four.


def few(rng: random.Random) -> list[Row]:
    return sums(rng, 24)


def half(body: Body, about: Row) -> str:
    return reference(about) if chance(question(about)) < 0.5 else never(body, about)


EXACT = [{"type": "string_check"}]
WORLDS = {
    "prompt enough": World("prompt", sentiment, says_too_much, EXACT),
    "retrieval": World("retrieval", prices, reads, EXACT),
    "fine-tune for format": World("fine-tune", tickets, own_json, [{"type": "json_match"}]),
    "reinforcement": World("reinforcement", sums, now_and_then, EXACT),
    "rethink": World("rethink", products, never, EXACT),
    "too little data": World("pilot", few, half, EXACT),
}
