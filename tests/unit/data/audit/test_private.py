"""What counts as private, and what only looks like it."""

from __future__ import annotations

import pytest

from residency.data.audit.private import find_private, mask_private
from residency.data.audit.residue import find_residue, strip_residue


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("key AKIAZ7QK3LMNPR5TUVWX.", "key [SECRET]."),
        ("use sk-proj-Ab3dEf6hIj9kLmN0pQrStUvWxYz1234567890abcd", "use [SECRET]"),
        ("OPENAI_KEY: hf_AbCdEfGhIjKlMnOpQrStUvWxYz12345678", "OPENAI_KEY: [SECRET]"),
        ("password = 'tr0ub4dor-and-3'", "password = '[SECRET]'"),
        ("postgres://admin:s3cr3tpw@db.corp.net/x", "postgres[SECRET]db.corp.net/x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "[SECRET]"),
        ("write to anna.koch@web.de or call +49 30 2345678", "write to [EMAIL] or call [PHONE]"),
        ("call 212-736-5000 now", "call [PHONE] now"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN [IBAN]"),
        ("card 4111 1111 1111 1111", "card [CARD]"),
    ],
)
def test_private_data_are_masked(text: str, masked: str) -> None:
    assert mask_private(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "write to someone@example.com",
        "password: <your-password>",
        "the token is read from os.environ",
        "api_key = get_key(name)",
        "3 + 5 = 8, and 2024-11-22 10:30",
        "1234567890123456789 is a large number",
        "version 1.2.3.4 of the package",
        "see scipy.special.function_name_in_a_long_module_path",
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:MyDatabase-1a2b3c",
        "call +1 206 555 0100 or 206-555-0199",
    ],
)
def test_what_only_looks_private_stays(text: str) -> None:
    assert find_private(text) == []


def test_masking_twice_changes_nothing_more() -> None:
    once = mask_private("mail bob.ray@gmail.com, password: h4rdToGuess!")
    assert mask_private(once) == once


@pytest.mark.parametrize(
    ("text", "answer", "stripped"),
    [
        ("Blue.<|im_end|>", True, "Blue."),
        ("[INST] Name it. [/INST]", False, "Name it."),
        ("Blue.\n\nHuman: and red?\nAssistant: no", True, "Blue."),
        ("Assistant: Blue.", True, "Blue."),
        ("### Instruction:\nName it.\n\n### Response:", False, "Name it."),
    ],
)
def test_residue_is_stripped(text: str, answer: bool, stripped: str) -> None:
    assert strip_residue(text, answer=answer) == stripped


@pytest.mark.parametrize("text", ["a < b and c | d", "<b>bold</b>", "The user: a person.", "### Results", "x[INSTALL]"])
def test_text_that_only_resembles_a_template_stays(text: str) -> None:
    assert find_residue(text, answer=True) == []


def test_a_text_about_tokens_shows_some_and_a_template_puts_them_around_one() -> None:
    shown = "Adds the special tokens of a pair: [CLS] first [SEP] second [SEP] in that order."
    assert find_residue(shown, answer=False) == []
    assert strip_residue(shown, answer=False) == shown
    assert find_residue("[INST] What is a token? [/INST] A piece of a word.", answer=False) == ["[INST]", "[/INST]"]
    assert find_residue("A token is a piece of a word.<|im_end|>", answer=True) == ["<|im_end|>"]
    assert find_residue("A piece.<|im_end|> And more.", answer=True) == ["<|im_end|>"]
