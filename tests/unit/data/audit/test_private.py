"""What counts as private, and what only looks like it."""

from __future__ import annotations

import pytest
from stdnum import iban, luhn

from residency.data.audit.made_up import PUBLISHED_NUMBERS
from residency.data.audit.private import find_private, mask_private
from residency.data.audit.residue import find_residue, strip_residue


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("key AKIAZ7QK3LMNPR5TUVWX.", "key [SECRET]."),
        ("use sk-proj-u8jzPde0IgxLd6GncfBAepfJBd0Kh8oOOL8d", "use [SECRET]"),
        ("OPENAI_KEY: hf_KLzdocJ2isAjIhKtJ0RlgLKOmxgJTeKdNn", "OPENAI_KEY: [SECRET]"),
        ("password = 'tr0ub4dor-and-3'", "password = '[SECRET]'"),
        ("postgres://admin:s3cr3tpw@db.corp.net/x", "postgres[SECRET]db.corp.net/x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "[SECRET]"),
        ("write to anna.koch@web.de or call +49 30 2345678", "write to [EMAIL] or call [PHONE]"),
        ("call 212-736-5000 now", "call [PHONE] now"),
        ("IBAN DE89 5001 0517 8264 9317 05", "IBAN [IBAN]"),
        ("card 4539 1488 0362 7131", "card [CARD]"),
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


@pytest.mark.parametrize(
    "text",
    [
        "use sk-proj-Ab3dEf6hIj9kLmN0pQrStUvWxYz1234567890abcd",
        "the key AKIAIOSFODNN7EXAMPLE",
        '"token": "abcd1234defg5678"',
        "secret: a1b2c3d4-5678-90ab-cdef",
        '"Password": "generatedpassword1"',
        "password: P@ssw0rd2024, and admin_password: changeme123",
        "token = md5_hexdigest(name)",
        "secret: /run/keys/db1.pem, token: https://login.provider.net/v2/abc, password=settings.db2.login",
        "token = ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "https://scott:tiger77@localhost:5432/sales and redis://u:h4rdToGuess@192.0.2.7/0",
        "-----BEGIN RSA PRIVATE KEY-----EXAMPLETCCAfICCQD6m7oRw0uXOjANBgkqhkiG9w0BAQUF-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "api_key: ABC123abc123ABC123abc123ABC123ab",
        'the password is "s3cretPass987"',
        "A key file opens with -----BEGIN PRIVATE KEY----- in its first line.",
    ],
)
def test_a_made_up_secret_is_nobodys(text: str) -> None:
    assert find_private(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "anna@example.co.uk, bob@contoso.com, myuser@mycompany.org, MyAdmin@MyDomain.onmicrosoft.com",
        "jane.doe@gmail.com",
        "abuse@provider.net, info@verlag.de and no-reply@shop.com",
        "root@printer.local and me@cloud.internal",
        "Message-ID: <20190814.7f89@mx.provider.net>\nReferences: <a1@mx.web.de> <b2@mx.web.de>",
        "https://anna:secret@proxy.provider.net:8080",
        "icon@2x.png beside getty@tty1.service",
        "Content@odata.type=Edm.String",
        "a@b.com, xxx@hostname.tld, my@user.com, admin2@ex.com and linuxsupport11@provider.net",
        "0123-runner@developer.gserviceaccount.com, mover@project.iam.gserviceaccount.com",
    ],
)
def test_an_address_of_nobody_stays(text: str) -> None:
    assert "e-mail" not in {one.kind for one in find_private(text)}


@pytest.mark.parametrize(
    "text",
    [
        "+1.800.555.1212", "(206) 555-0142", "+44 20 7946 0958", "+44 161 496 0018", "+33 1 99 00 12 34",
        "+49 30 23125 123", "+61 491 570 156", "234-567-8901",
        "arn:aws:mediaconvert:us-east-1:003235472598:presets/Mine",
        "card 4111 1111 1111 1111", "card 3782 822463 10005", "IBAN DE89 3704 0044 0532 0130 00", "SSN 123-45-6789",
    ],
)  # fmt: skip
def test_a_number_that_is_kept_for_films_or_published_as_an_example_is_nobodys(text: str) -> None:
    assert find_private(text) == []


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Credential%3DAKIAZ7QK3LMNPR5TUVWX%2F2026", "Credential%3D[SECRET]%2F2026"),
        ("line\\nghp_Z3h0xCVznGAkzjRz1SsqQq53cUzpd2ylT3yy", "line\\n[SECRET]"),
        ("see http://web.de?to=anna.koch@web.de", "see http://web.de?to=[EMAIL]"),
        ("mail info.koch@verlag.de or treasurer@charity.org.uk", "mail [EMAIL] or [EMAIL]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj and it ends", "[SECRET] and it ends"),
    ],
)
def test_what_stands_beside_something_made_up_is_still_private(text: str, masked: str) -> None:
    assert mask_private(text) == masked


@pytest.mark.parametrize(
    ("text", "is_example"),
    [
        ("password: Lablab123", True),
        ("password: gorilla-123!", True),
        ("password: Liverpool88!", False),
        ("name: foo, api_key: 5eb86c9896ab03919abcf03857163741", True),
        ("domain: acme.com\n  api_key: 5eb86c9896ab03919abcf03857163741", True),
        ("user: SampleUser, password: apn1242183u1298u41", True),
        ("name: myserver, api_key: 5eb86c9896ab03919abcf03857163741", True),
        ("my password: apn1242183u1298u41 on my server", False),
        ("host: 10.10.10.2, api_key: 5eb86c9896ab03919abcf03857163741", False),
        (f"foo {' word' * 100} api_key: 5eb86c9896ab03919abcf03857163741", False),
        ("foo and ghp_16C7e42F292c6912E7710c838347Ae178B4a", False),
        ("token: ghp_16C7e42F292c6912E7710c838347Ae178B4a for example.com", False),
        ("foo -----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj", False),
    ],
)
def test_a_password_or_key_beside_a_name_for_any_name_looks_like_an_example(text: str, is_example: bool) -> None:
    """Not so a token that by its form is one provider's: those of manuals are known or say that they are none."""
    assert [one.is_example for one in find_private(text)] == [is_example]


def test_a_domain_of_one_letter_is_somebodys_where_it_is_delegated() -> None:
    assert mask_private("ann.lee@q.com") == "[EMAIL]"


def test_a_number_inside_a_longer_one_is_no_token() -> None:
    assert find_private("arn:aws:ec2:us-east-1:123456789012:network-insights-access-scope-analysis/nisa-1") == []


def test_every_published_number_has_a_right_check_digit() -> None:
    assert all(luhn.is_valid(number) or iban.is_valid(number) for number in PUBLISHED_NUMBERS)


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
