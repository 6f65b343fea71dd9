"""Secrets and personal data in a text: found by pattern, confirmed by checksum or numbering plan, masked on request.

What is nobody's does not count, and what a manual shows is said to look like it (`made_up.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import NamedTuple

from residency.data.audit import findings as says
from residency.data.audit.findings import Finding
from residency.data.audit.made_up import (
    EXAMPLE_HOST,
    PUBLISHED_NUMBERS,
    WHERE_IT_LIES,
    is_counted,
    is_nobodys_address,
    is_nobodys_number,
    is_nobodys_phone,
    is_placeholder,
    looks_like_example,
)
from residency.data.audit.table import Table

PLUGINS = (
    "aws", "azure_storage_key", "cloudant", "discord", "github_token", "gitlab_token",
    "ibm_cloud_iam", "ibm_cos_hmac", "jwt", "mailchimp", "npm", "openai", "pypi_token", "sendgrid", "slack",
    "softlayer", "square_oauth", "stripe", "telegram_token", "twilio",
)  # fmt: skip
"""Providers whose tokens detect-secrets knows. Its detectors of high entropy and of keywords are for source code."""
OTHER_TOKENS = (
    r"://[^:/?#\[\]@\s]+:([^/?#\[\]@\s]{4,})@",
    r"\bsk-(?:proj-|ant-|svcacct-|or-v1-)?[A-Za-z0-9_-]{32,}",
    r"\b(?:hf|npm|gsk|xai)_[A-Za-z0-9]{30,}\b",
    r"\bgithub_pat_[A-Za-z0-9_]{60,}",
    r"\bAIza[0-9A-Za-z_-]{35}",
)
SHORTEST_TOKEN, SHORTEST_PASSWORD = 18, 4
LONG_RUN = re.compile(rf"[\w/+=.:-]{{{SHORTEST_TOKEN},}}")
"""Every provider's token is, or stands in, a run like this with a digit in it; most texts have none."""
KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:(.{1,20000}?)-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
    r"|(.{0,200}?[A-Za-z0-9+/=]{32,}))", re.DOTALL,
)  # fmt: skip
"""The head alone is only a word about keys."""
ESCAPE = re.compile(r"(?:%[0-9A-Fa-f]{2}|\\[nrt])$")
ASSIGNMENT = re.compile(
    r"(?<![:/])\b(?:[a-z0-9]{1,30}[_-]){0,5}"
    r"(?:api[_ -]?key|access[_ -]?key|secret(?:[_ -]key)?|auth[_ -]?token|token|passwd|password|pwd)"
    r"['\"]?\s*(?::=|=|:|\bis\b)\s*['\"]?([^\s'\",;(){}\[\]<>]{8,}+)(?![(\[{<])", re.IGNORECASE,
)  # fmt: skip
"""In a path or a resource's name (`arn:...:secret:name`) the word is a part of it."""
ASSIGNED = re.compile(r"(?:key|secret|token|passwd|password|pwd)['\"]?\s*(?::|=|is\b)", re.IGNORECASE)
"""Without this there is no ASSIGNMENT, which takes ten times as long to look for."""
ASSIGNMENT_HINTS = ("key", "secret", "token", "passw", "pwd")
EMAIL = re.compile(
    r"(?<![\w.+/@-])[A-Za-z0-9][\w.+-]{0,63}"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w@=(])"
)
LOOK_BACK = 200
DIGITS_HINT = re.compile(r"\d[\d ().-]{7}")
PHONE = re.compile(
    r"(?<![\w.+/#-])(?:\+\d|00[1-9]|\(\d{3}\)|\d{3}[ .-]\d{3}[ .-]\d{4}\b)[\d ().-]{0,18}(?<=\d)(?![\w-]|:\w)"
)
CARD = re.compile(r"(?<![\w.-])(?:[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}|3[47]\d{2}[ -]?\d{6}[ -]?\d{5})(?![\w-])")
CARD_WORD = re.compile(r"card|visa|master|amex|credit|debit|payment", re.IGNORECASE)
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
US_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")


class Private(NamedTuple):
    start: int
    end: int
    kind: str
    """`secret`, `e-mail`, `phone`, `card`, `iban` or `ssn`."""
    is_example: bool = False
    """Whether a secret looks like one that a manual shows."""


MASKS = {
    "secret": "[SECRET]", "e-mail": "[EMAIL]", "phone": "[PHONE]", "card": "[CARD]", "iban": "[IBAN]", "ssn": "[SSN]",
}  # fmt: skip


def find_private(text: str) -> list[Private]:
    """Everything private in `text`, by place; of two that overlap the first and longer one counts, and it is an example
    where both are."""
    found = [*_secrets(text), *_personal(text)]
    found.sort(key=lambda one: (one.start, -one.end))
    kept: list[Private] = []
    for one in found:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
        elif not one.is_example:
            kept[-1] = kept[-1]._replace(is_example=False)
    return kept


def mask_private(text: str) -> str:
    """`text` with a mark in the place of everything private."""
    pieces, end = [], 0
    for one in find_private(text):
        pieces += [text[end : one.start], MASKS[one.kind]]
        end = one.end
    return "".join([*pieces, text[end:]]) if pieces else text


def _secrets(text: str) -> Iterator[Private]:
    if "PRIVATE KEY" in text:
        for match in KEY_BLOCK.finditer(text):
            if not is_placeholder(match[1] or match[2]):
                yield Private(*match.span(), "secret")
    if "://" in text or may_hold_token(text):
        for pattern in token_patterns():
            for match in pattern.finditer(text):
                if is_token(match):
                    yield Private(*match.span(), "secret")
    lower = text.lower()
    if any(hint in lower for hint in ASSIGNMENT_HINTS) and ASSIGNED.search(text):
        for match in ASSIGNMENT.finditer(text):
            if looks_random(match[1]):
                yield Private(*match.span(1), "secret", looks_like_example(*match.span(1), text))


def may_hold_token(text: str) -> bool:
    long = [part for part in text.split() if len(part) >= SHORTEST_TOKEN]
    return any(has_digit(run) for part in long for run in LONG_RUN.findall(part))


@cache
def token_patterns() -> tuple[re.Pattern[str], ...]:
    patterns = [re.compile(pattern) for pattern in OTHER_TOKENS]
    for name in PLUGINS:
        module = import_module(f"detect_secrets.plugins.{name}")
        for name_inside, detector in vars(module).items():
            if name_inside.endswith("Detector") and detector.__module__ == module.__name__:
                patterns += detector.denylist
    return tuple(patterns)


def has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def is_token(match: re.Match[str]) -> bool:
    """Not a part of a longer word or number, not a placeholder, and no password of a host that is none."""
    text, start = match.string, match.start()
    if (
        match[0][0].isalnum()
        and text[start - 1 : start].isalnum()
        and not ESCAPE.search(text[max(0, start - 3) : start])
    ):
        return False
    if match[0].endswith("@") and EXAMPLE_HOST.match(text, match.end()):
        return False
    within = max((part for part in match.groups() if part), key=len, default="")
    return not is_placeholder(within if len(within) >= SHORTEST_PASSWORD else match[0])


def looks_random(value: str) -> bool:
    """Letters and digits mixed, as no word has them, and neither code nor a placeholder."""
    has_both = has_digit(value) and any(map(str.isalpha, value))
    return has_both and not is_placeholder(value) and len(set(value)) > 5 and not WHERE_IT_LIES.match(value)


def _personal(text: str) -> Iterator[Private]:
    if "@" in text:
        for match in EMAIL.finditer(text):
            if not is_nobodys_address(match[0], text[max(0, match.start() - LOOK_BACK) : match.start()]):
                yield Private(*match.span(), "e-mail")
    if not DIGITS_HINT.search(text):
        return
    for pattern, kind, confirmed in NUMBERS:
        for match in pattern.finditer(text):
            if confirmed(match):
                yield Private(*match.span(), kind)


def is_iban(match: re.Match[str]) -> bool:
    from stdnum import iban

    return bool(iban.is_valid(match[0])) and match[0].replace(" ", "") not in PUBLISHED_NUMBERS


def is_card(match: re.Match[str]) -> bool:
    """In groups, or with a word before it that says so: one in ten long numbers has a card's check digit."""
    from stdnum import luhn

    digits = re.sub(r"\D", "", match[0])
    said = digits != match[0] or CARD_WORD.search(match.string, max(0, match.start() - 60), match.start())
    return bool(said) and not is_nobodys_number(digits) and bool(luhn.is_valid(digits))


def is_ssn(match: re.Match[str]) -> bool:
    from stdnum.us import ssn

    return bool(ssn.is_valid(match[0])) and not is_counted(re.sub(r"\D", "", match[0]))


def is_phone(match: re.Match[str]) -> bool:
    """A number of its country's plan; without a country code only in the way the United States write theirs."""
    import phonenumbers

    try:
        number = phonenumbers.parse(re.sub(r"^00", "+", match[0]), "US")
    except phonenumbers.NumberParseException:
        return False
    fictional = is_nobodys_phone(number.country_code or 0, str(number.national_number))
    return bool(phonenumbers.is_valid_number(number)) and not fictional


NUMBERS = ((IBAN, "iban", is_iban), (CARD, "card", is_card), (US_SSN, "ssn", is_ssn), (PHONE, "phone", is_phone))


class PrivateValue(NamedTuple):
    kind: str
    text: str
    is_example: bool


def private_values(text: str) -> list[PrivateValue]:
    return [PrivateValue(one.kind, text[one.start : one.end], one.is_example) for one in find_private(text)]


def private_findings(table: Table, found: Mapping[int, Sequence[PrivateValue]]) -> list[Finding | None]:
    """`found` has the rows with private values, in order."""
    secrets = {row: texts for row, values in found.items() if (texts := {v.text for v in values if v.kind == "secret"})}
    kinds = {row: named for row, values in found.items() if (named := {v.kind for v in values} - {"secret"})}
    shown = {value.text for values in found.values() for value in values if value.kind == "secret" and value.is_example}
    counted = Counter(kind for named in kinds.values() for kind in named)
    return [
        says.of_rows(
            "secrets", "warning", table, [row for row, values in secrets.items() if values - shown],
            "Keys, tokens or passwords in {rows}. A model repeats what it was trained on: renew those that are real; "
            "`--fix` masks them.",
        ),
        says.of_rows(
            "example_secrets", "note", table, [row for row, values in secrets.items() if not values - shown],
            "Keys or passwords that look like a manual's examples, in {rows}: beside names such as foo or example.com, "
            "there or in another row with the same one, or a word and 123. Renew any that is real; `--fix` masks "
            "these too.", costs=False,
        ),
        says.of_rows(
            "personal_data", "warning", table, list(kinds),
            f"Personal data ({', '.join(f'{kind}: {n}' for kind, n in counted.most_common())}) in {{rows}}. A model "
            "repeats what it was trained on; `--fix` masks them.",
        ),
    ]  # fmt: skip
