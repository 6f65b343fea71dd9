"""Plants defects of known kind and place into clean rows, so that a check's recall and precision can be counted."""

from __future__ import annotations

import random
import re
import string
from collections import defaultdict
from dataclasses import dataclass, field

Row = tuple[str, str]
"""(prompt, answer)"""


@dataclass
class Planted:
    rows: list[Row] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    """By row: what was planted in it, or nothing."""
    sources: dict[int, int] = field(default_factory=dict)
    """The row that an added row copies or contradicts."""
    test: list[Row] = field(default_factory=list)


def plant(clean: list[Row], of_each: int, seed: int, test_rows: int = 500) -> Planted:
    """`clean` with `of_each` defects of every kind, in random order; the last `test_rows` of it become the test.

    Copies, contradictions and leaks are added as rows; the other kinds change a row each. No row is used twice.
    """
    chance = random.Random(seed)
    rows = list(clean)
    chance.shuffle(rows)
    test, rows = rows[len(rows) - test_rows :], rows[: len(rows) - test_rows]
    kinds = [""] * len(rows)
    unused = [i for i, (prompt, answer) in enumerate(rows) if len(words(prompt)) >= 4 and len(words(answer)) >= 3]
    chance.shuffle(unused)

    def pick() -> int:
        return unused.pop()

    for kind, change in (("secrets", with_secret), ("personal_data", with_personal), ("residue", with_residue),
                         ("format_minority", reformatted), ("cut_off", cut)):  # fmt: skip
        for number in range(of_each):
            row = pick()
            while kind == "cut_off" and len(words(rows[row][1])) < 12 and len(unused) > 20 * of_each:
                row = pick()
            rows[row], kinds[row] = change(rows[row], number, chance), kind
    answers = [rows[pick()][1] for _ in range(4 * of_each)]
    for _ in range(of_each):
        row = pick()
        rows[row], kinds[row] = (rows[row][0], another(rows[row][1], answers)), "swapped"
    added: list[tuple[Row, str, int | None]] = []
    for number in range(of_each):
        same, near, asked = pick(), pick(), pick()
        added += [
            (rows[same], "exact_duplicates", same),
            (edited(rows[near], chance), "near_duplicates", near),
            ((asked_again(rows[asked][0], number, chance), another(rows[asked][1], answers)), "contradictions", asked),
            (leaked(test[number % len(test)], number, chance), "leaks", None),
        ]
    return shuffled(rows, kinds, added, test, chance)


def shuffled(
    rows: list[Row], kinds: list[str], added: list[tuple[Row, str, int | None]], test: list[Row], chance: random.Random
) -> Planted:
    order = list(range(len(rows) + len(added)))
    chance.shuffle(order)
    place = {row: number for number, row in enumerate(order)}
    sources = {place[len(rows) + i]: place[source] for i, (_, _, source) in enumerate(added) if source is not None}
    rows, kinds = rows + [row for row, _, _ in added], kinds + [kind for _, kind, _ in added]
    return Planted([rows[i] for i in order], [kinds[i] for i in order], sources, test)


def words(text: str) -> list[str]:
    return text.split()


def another(answer: str, answers: list[str]) -> str:
    """The next of `answers` that has fewer than half of its words in common with `answer`; it is taken out."""
    said = set(re.findall(r"\w+", answer.lower()))
    for place in reversed(range(len(answers))):
        other = set(re.findall(r"\w+", answers[place].lower()))
        if 2 * len(said & other) < len(said | other):
            return answers.pop(place)
    raise ValueError(f"no answer differs from {answer!r}")


def edited(row: Row, chance: random.Random) -> Row:
    """About one word in twelve left out, doubled or exchanged with its neighbour, at least one; numbers stay."""
    parts = [words(text) for text in row]
    places = [(i, j) for i, part in enumerate(parts) for j, word in enumerate(part) if word.isalpha()]
    chance.shuffle(places)
    for i, j in places[: max(1, sum(map(len, parts)) // 12)]:
        part, change = parts[i], chance.randrange(3)
        if change == 0 and len(part) > 3:
            part[j] = ""
        elif change == 1 and j + 1 < len(part):
            part[j], part[j + 1] = part[j + 1], part[j]
        else:
            part[j] = f"{part[j]} {part[j]}"
    prompt, answer = (" ".join(word for word in part if word) for part in parts)
    return prompt, answer


def asked_again(prompt: str, number: int, chance: random.Random) -> str:
    """The same question: as it was, in other case and punctuation, more politely, or with a slip of the pen."""
    match number % 4:
        case 0:
            return prompt
        case 1:
            return prompt.upper() if chance.random() < 0.5 else prompt.rstrip(".?!") + " ?"
        case 2:
            forms = ("Please tell me: {}", "Hi, {}", "{} Thanks!", "I want to know, {}")
            return chance.choice(forms).replace("{}", prompt)
    long = list(re.finditer(r"[A-Za-z]{6,}", prompt))
    if not long:
        return prompt + "?"
    word = chance.choice(long)
    place = word.start() + chance.randrange(1, len(word[0]) - 2)
    return prompt[:place] + prompt[place + 1] + prompt[place] + prompt[place + 2 :]


def leaked(row: Row, number: int, chance: random.Random) -> Row:
    """A test row in the training data: whole, within other words, or slightly changed."""
    match number % 3:
        case 0:
            return row
        case 1:
            return f"Here is a task from my notes. {row[0]}", row[1]
    prompt, answer = edited(row, chance)
    return prompt, answer


def reformatted(row: Row, number: int, chance: random.Random) -> Row:
    prompt, answer = row
    flat = " ".join(words(answer))
    forms = [
        '{"answer": "' + flat.replace('"', "'").replace("\\", "/") + '"}',
        f"```\n{answer}\n```",
        "\n".join(f"- {part}" for part in halves(flat)),
        f"# Answer\n\n**{flat}**",
        f"Sure! {answer}",
        flat.upper(),
        f"{answer} \N{SMILING FACE WITH SUNGLASSES}",
        f"{answer}!!!",
    ]
    turned = [*forms[number % len(forms) :], *forms]
    return prompt, next(form for form in turned if form != answer)  # capitals are no change where letters have no case


def halves(text: str) -> tuple[str, str]:
    parts = words(text)
    return " ".join(parts[: len(parts) // 2]) or "-", " ".join(parts[len(parts) // 2 :])


def cut(row: Row, number: int, chance: random.Random) -> Row:
    """The answer's last third is lost, in the middle of a word where there is a long one."""
    prompt, answer = row
    for match in re.finditer(r"[A-Za-z]{6,}", answer):
        if match.start() > 0.55 * len(answer):
            return prompt, answer[: match.start() + chance.randrange(2, 5)]
    parts = words(answer)
    return prompt, " ".join(parts[: max(2, 2 * len(parts) // 3)])


def with_residue(row: Row, number: int, chance: random.Random) -> Row:
    prompt, answer = row
    forms: list[Row] = [
        (prompt, f"{answer}<|im_end|>"),
        (f"[INST] {prompt} [/INST]", answer),
        (f"### Instruction:\n{prompt}\n\n### Response:", answer),
        (prompt, f"Assistant: {answer}"),
        (prompt, f"{answer}\n\nHuman: and what else?"),
        (f"Human: {prompt}\n\nAssistant:", answer),
        (prompt, f"{answer}</s>"),
        (f"<|start_header_id|>user<|end_header_id|>\n\n{prompt}", answer),
        (prompt, f"{answer}\n### Instruction: go on"),
        (f"<start_of_turn>user\n{prompt}<end_of_turn>", answer),
    ]
    return forms[number % len(forms)]


def with_secret(row: Row, number: int, chance: random.Random) -> Row:
    def random_text(length: int, letters: str = string.ascii_letters + string.digits) -> str:
        return "".join(chance.choice(letters) for _ in range(length))

    secrets = [
        f"my key is AKIA{random_text(16, string.ascii_uppercase + string.digits)}",
        f"use ghp_{random_text(36)} to log in",
        f"OPENAI_API_KEY=sk-proj-{random_text(48)}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{random_text(64)}\n-----END RSA PRIVATE KEY-----",
        f"password: {random_text(6)}7{random_text(5)}!",
        f"connect to postgres://admin:{random_text(6)}4{random_text(4)}@db.internal.net/sales",
        f"token xoxb-{random_text(12, string.digits)}-{random_text(12, string.digits)}-{random_text(24)}",
        f"api_key = '{random_text(16)}9{random_text(15)}'",
        f"sk_live_{random_text(24)}",
        f"hf_{random_text(34)}",
    ]
    return inserted(row, secrets[number % len(secrets)], number)


def with_personal(row: Row, number: int, chance: random.Random) -> Row:
    def digits(length: int) -> str:
        return "".join(chance.choice(string.digits) for _ in range(length))

    name = chance.choice(["anna.koch", "r.silva", "mwilson88", "li.na", "o_petrov"])
    data = [
        f"write to {name}@{chance.choice(['gmail.com', 'web.de', 'orange.fr', 'firma-schmidt.de'])}",
        f"call +49 30 {chance.choice('2345')}{digits(6)}",
        f"call {chance.choice(['212', '415', '312', '617'])}-{chance.choice('23456')}{digits(2)}-{digits(4)}",
        f"my IBAN is {iban('DE', digits(18))}",
        f"card {card('4' + digits(14))}",
    ]
    return inserted(row, data[number % len(data)], number)


def inserted(row: Row, text: str, number: int) -> Row:
    prompt, answer = row
    return (f"{prompt}\n{text}", answer) if number % 2 else (prompt, f"{answer} ({text})")


def iban(country: str, account: str) -> str:
    number = int("".join(str(int(letter, 36)) for letter in f"{account}{country}00"))
    plain = f"{country}{98 - number % 97:02}{account}"
    return " ".join(plain[i : i + 4] for i in range(0, len(plain), 4))


def card(fifteen: str) -> str:
    total = sum(sum(divmod(int(digit) * (2 - i % 2), 10)) for i, digit in enumerate(fifteen))
    plain = f"{fifteen}{-total % 10}"
    return " ".join(plain[i : i + 4] for i in range(0, 16, 4))


def without_similar(rows: list[Row], at_most: float = 0.4) -> list[Row]:
    """The rows that share less than `at_most` of their runs of three words with any kept before, by exact count.

    What is planted is then all there is. It is done without the checks that are to be measured.
    """
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    kept, prompts = [], set()
    for row in rows:
        prompt = " ".join(re.findall(r"\w+", row[0].lower()))
        both = [*re.findall(r"\w+", row[0].lower()), "|", *re.findall(r"\w+", row[1].lower())]
        runs = {tuple(both[i : i + 3]) for i in range(max(1, len(both) - 2))}
        shared: defaultdict[int, int] = defaultdict(int)
        for run in runs:
            for other in holders[run][:200]:
                shared[other] += 1
        alike = any(n >= at_most * (len(runs) + sizes[other] - n) for other, n in shared.items())
        if alike or not prompt or prompt in prompts:
            continue
        prompts.add(prompt)
        for run in runs:
            holders[run].append(len(kept))
        sizes.append(len(runs))
        kept.append(row)
    return kept
