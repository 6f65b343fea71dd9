"""What looks private and is nobody's: placeholders, reserved names and numbers, published examples; and what looks like
an example and may be somebody's."""

from __future__ import annotations

import re
from itertools import pairwise

NO_SECRET = re.compile(r"(?:pass|pwd|none|key|string|value|(?:user|admin|root|test|demo|guest)[\d!]{0,4})")
"""A value that only says what stands there, or with which many things are delivered."""
NO_SECRET_INSIDE = re.compile(
    r"your|example|p[a@4][s$5]{2}w[o0]?r?d|s[e3]cret|token|change[_-]?(?:me|it)|placeholder|dummy|redacted|foobar|qwerty"
    r"|letmein|x{6}|\.{3}|\u2026|\*{3}"
)
WHERE_IT_LIES = re.compile(
    r"[a-z]+://|arn:|~?\.{0,2}/[\w.-]+[/.]|[^\W\d]\w{0,24}(?:\.[^\W\d]\w{0,24})+$|.+\.(?:pem|key|crt|json|ya?ml|txt|cfg|conf|env)$"
)
"""An address, a resource's name, a path, or names joined by dots, which are code."""
SEQUENCE_SHARE, FEWEST_STEPS = 0.7, 4
"""Of the steps from letter to letter and from digit to digit in a value that was counted out. Chance has 0.1."""
LONGEST_UNIT, FEWEST_UNITS = 8, 3
"""A value that says so few letters over and over was typed, not drawn."""
SHOWN_AROUND = re.compile(
    r"\b(?:foo|baz|qux)\b|/path/to/|\b(?:example|acme|contoso|fabrikam)\.(?:com|org|net)\b"
    r"|\b(?:sample|example|dummy|fake)[-_ ]?(?:user|host|domain|server|account)"
    r"|[:=]\s*['\"]?(?:example|bar|my[-_]?(?:app|domain|group|host|org|project|server|user|volume))\b", re.IGNORECASE,
)  # fmt: skip
"""Names that stand for any name (RFC 3092, RFC 2606): the text around them shows how something is written."""
NEARBY = 400
"""Characters."""
WORD_AND_COUNT = re.compile(r"(?:[^\W\d]|[-*@.+])+(?:123(?:4(?:5(?:6)?)?)?|321)[^\w\s]?")
"""`Cisco123`: a password that is guessed first."""
PUBLISHED_TOKENS = (
    "eyJzdWIiOiIxMjM0NTY3ODkwIi",  # jwt.io: {"sub":"1234567890"
    "4eC39HqLyjWDarjtT1zdp7dc",  # Stripe's documentation
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq",  # Azure's storage emulator
)
EXAMPLE_LABEL = (
    r"(?:examples?|(?:(?:your|my|some)-?)?(?:domain|company)|(?:your|my|some)-?(?:organi[sz]ation|org|site|mail)"
    r"|foo|bar|acme|contoso|fabrikam)"
)
EXAMPLE_HOST = re.compile(
    rf"(?:[\w-]+\.)*(?:(?:example|test|invalid|localhost|local|internal|localdomain)\.?|{EXAMPLE_LABEL}(?:\.[a-z]{{2,4}}){{1,2}})"
    r"(?![\w.-])|(?:127\.|192\.0\.2\.|198\.51\.100\.|203\.0\.113\.)\d|\[?(?:::1\b|2001:0?db8:)", re.IGNORECASE,
)  # fmt: skip
"""Reserved by RFC 2606, 5737, 6761, 6762 and 3849, or such as manuals write (the last two are Microsoft's)."""
NO_DOMAIN = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|pdf|json|txt|ya?ml|html?|css|xml|csv|gz|whl|conf|cfg|log|type|server"
    r"|service|timer|socket|mount|tld)$|(?:^|\.)gserviceaccount\.com$"
    r"|^(?![iqxz])[a-z0-9]\.(?:com|net|org)$", re.IGNORECASE,
)  # fmt: skip
"""`icon@2x.png` is a file, `getty@tty1.service` a unit: no such top-level domain is delegated. Google's service
accounts are programs; and nobody has a domain of one letter (`a@b.com`), but for the few that stand here."""
NOBODYS_MAILBOX = re.compile(
    r"(?:git|my|user(?:name)?\d*|x{3,}|name|someone|e-?mail|(?:no|do-?not)-?reply|first\W?last|j(?:ohn|ane)?[._-]?doe\d*|foo|bar|baz"
    r"|abc|xyz|test(?:er|user|ing)?\d*"
    r"|info|marketing|sales|abuse|noc|security|postmaster|hostmaster|webmaster|usenet|news|www|uucp|ftp"
    r"|root|admin(?:istrator)?\d*|[a-z]*support\d*|contact|office|help|hello|service|team|jobs|press|billing|feedback)@"
    r"|[^@]*(?:your|example)|my(?:(?-i:[A-Z])|[_-]?(?:e?mail|user|name|admin|account))", re.IGNORECASE,
)  # fmt: skip
"""How an address begins that stands for any address, or for a service (RFC 2142)."""
MY_TENANT = re.compile(r"@(?:[\w-]+\.)*[Mm]y[A-Z]")
MESSAGE_ID = re.compile(r"(?:Message-ID|In-Reply-To|References|Content-ID)\W{1,6}(?:<\S+\s+)*<?$", re.IGNORECASE)
IN_URL = re.compile(r"://[^\s/?#]*$")
FICTIONAL_PHONES = {
    1: r"\d{3}555(?:01\d\d|1212)",
    33: r"(?:19900|26191|35301|46571|53649|63998)\d{4}",
    44: r"7700900\d{3}|1632960\d{3}|2079460\d{3}|1(?:13|14|15|16|17|18|21|31|41|51|61)4960\d{3}|1914980\d{3}"
        r"|2890180\d{3}|2896496\d{3}|2920180\d{3}|8081570\d{3}|9098790\d{3}|3069990\d{3}",
    49: r"3023125\d{3}|6990009\d{3}|4066969\d{3}|2214710\d{3}|8999998\d{3}",
    61: r"[2378](?:5550|7010)\d{4}|491570(?:006|15[6-9]|110)|1800160401",
}  # fmt: skip
"""By country, the numbers kept for films and manuals: of the North American plan (with directory assistance), ARCEP,
Ofcom, Bundesnetzagentur and ACMA."""
DIGITS_UP = "0123456789" * 2
FEW_DIGITS = 4
"""Of a card; among the sixteen digits of chance there are more in 9,999 of 10,000."""
PUBLISHED_NUMBERS = frozenset(
    {
        "378282246310005", "371449635398431", "378734493671000", "6011000990139424", "3530111333300000",
        "3566002020360505", "30569309025904", "38520000023237", "4012888888881881", "5200828282828210",
        "DE89370400440532013000", "DE75512108001245126199", "GB29NWBK60161331926819", "GB82WEST12345698765432",
        "GB33BUKB20201555555555", "FR1420041010050500013M02606", "FR7630006000011234567890189", "NL91ABNA0417164300",
        "ES9121000418450200051332", "IT60X0542811101000000123456", "CH9300762011623852957", "AT611904300234573201",
        "SE4550000000058398257466", "DK5000400440116243", "FI2112345600000785", "PL61109010140000071219812874",
        "PT50000201231234567890154", "IE29AIBK93115212345678", "LU280019400644750000", "CZ6508000000192000145399",
        "NO9386011117947",
    }
)  # fmt: skip
"""Cards that payment providers give for tests, and the accounts of the IBAN registry's examples."""


def is_placeholder(value: str) -> bool:
    """`<your-token>`, `xxxx`, `$TOKEN`, `abcd1234`, a word that only says what stands there, or a published example."""
    plain = value.strip("<>{}[]()$%'\"").lower()
    return (
        bool(NO_SECRET.fullmatch(plain))
        or len(set(plain)) <= 3
        or value[:1] in "<{$%["
        or bool(NO_SECRET_INSIDE.search(plain))
        or is_counted(plain)
        or says_one_thing_over(plain)
        or any(token in value for token in PUBLISHED_TOKENS)
    )


def is_counted(value: str) -> bool:
    """`abcd1234`, `a1b2c3d4-5678-90ab` or `9876543210`: letters and digits in their order, each for itself."""
    steps = []
    for ordered in ([c for c in value.lower() if c.isalpha()], [c for c in value if c.isdigit()]):
        steps += [(ord(b) - ord(a) + 1) % (10 if a.isdigit() else 26) - 1 for a, b in pairwise(ordered)]
    return len(steps) >= FEWEST_STEPS and max(steps.count(1), steps.count(-1)) >= SEQUENCE_SHARE * len(steps)


def says_one_thing_over(value: str) -> bool:
    """`ABC123abc123ABC123abc1`."""
    longest = min(LONGEST_UNIT, len(value) // FEWEST_UNITS)
    return any((value[:size] * len(value)).startswith(value) for size in range(2, longest + 1))


def looks_like_example(start: int, end: int, text: str) -> bool:
    """Whether the password or key at this place is such as manuals show: a word and 123, or beside a name that stands
    for any name. It may be real all the same."""
    around = text[max(0, start - NEARBY) : end + NEARBY]
    return bool(WORD_AND_COUNT.fullmatch(text[start:end]) or SHOWN_AROUND.search(around))


def is_nobodys_address(address: str, before: str) -> bool:
    """`before` is what the text says before the address: that it is a message's name, or a URL's password."""
    _, host = address.rsplit("@", 1)
    return bool(
        NOBODYS_MAILBOX.match(address)
        or EXAMPLE_HOST.match(host)
        or NO_DOMAIN.search(host)
        or MY_TENANT.search(address)
        or IN_URL.search(before)
        or MESSAGE_ID.search(before)
    )


def is_nobodys_number(digits: str) -> bool:
    return digits in PUBLISHED_NUMBERS or is_counted(digits) or len(set(digits)) <= FEW_DIGITS


def is_nobodys_phone(country: int, number: str) -> bool:
    fictional = FICTIONAL_PHONES.get(country)
    counted = number in DIGITS_UP or number in DIGITS_UP[::-1]
    return bool(fictional and re.fullmatch(fictional, number)) or counted or len(set(number)) <= 2
