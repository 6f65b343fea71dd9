"""What templates left in the text: special tokens, headings of other prompt formats, holes nobody filled."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPECIAL = (
    r"<\|[a-z_0-9]{2,40}\|>|<\uff5c[^\uff5c\n]{1,40}\uff5c>|<(?:start|end)_of_turn>|</?(?:bos|eos|pad|unk)>|\[/?INST\]|<</?SYS>>"
    r"|\[(?:BOS|EOS|PAD|CLS|SEP)\]|\A\s*<s>|</s>\s*\Z"
)
QUOTE = "[\"'`]"
UNQUOTED = f"(?:(?<!{QUOTE})(?:{SPECIAL})|(?:{SPECIAL})(?!{QUOTE}))"
"""A token in quotes is talked about."""
TOKEN = re.compile(SPECIAL)
ABOUT_TOKENS = re.compile(r"token", re.IGNORECASE)
HEADINGS = r"^#{2,3} ?(?:Instruction|Response|Input|Output|Assistant|Human|User|System)\s*:"
HOLES = r"\{\{\s*(?:name|author|user|input|output|instruction|response|question|answer|context|prompt)\s*\}\}"
SPEAKER = r"(?:Human|Assistant|User|AI|Bot|System)"
ANYWHERE = f"{UNQUOTED}|{HEADINGS}|{HOLES}"
IN_PROMPT = re.compile(rf"{ANYWHERE}|\A\s*{SPEAKER}:[ \t]|\n(?:Assistant|AI|Bot):\s*\Z", re.MULTILINE)
IN_ANSWER = re.compile(
    rf"{ANYWHERE}|\A\s*(?:Assistant|AI|Bot):[ \t]|^(?:Human|User|Assistant):(?=[ \t]|$)", re.MULTILINE
)
HINTS = {
    "<": ("<|", "<\uff5c", "_of_turn>", "<s>", "</s>", "bos>", "eos>", "pad>", "unk>", "SYS>>"),
    "]": ("INST]", "BOS]", "EOS]", "PAD]", "CLS]", "SEP]"),
    "#": ("##",),
    "{": ("{{",),
    ":": ("Human:", "Assistant:", "User:", "AI:", "Bot:", "System:"),
}
"""By a character that they hold. Most texts have none of these, and are passed over."""
NEXT_TURN = re.compile(r"\n(?:Human|User):|\n#{2,3} ?(?:Instruction|Human|User)\s*:")
"""Where an answer runs on into the next question; nothing behind it belongs to the answer."""


def find_residue(text: str, *, answer: bool) -> list[str]:
    """The pieces of `text` that belong to a template."""
    return [match[0].strip() for match in matches(text, answer=answer)]


def matches(text: str, *, answer: bool) -> list[re.Match[str]]:
    """A template puts tokens around a text. Where none stands at its beginning or end, one about tokens shows some."""
    if not any(mark in text and any(hint in text for hint in hints) for mark, hints in HINTS.items()):
        return []
    found = list((IN_ANSWER if answer else IN_PROMPT).finditer(text))
    tokens = [match for match in found if TOKEN.fullmatch(match[0])]
    wrapped = any(not text[: match.start()].strip() or not text[match.end() :].strip() for match in tokens)
    if tokens and not wrapped and ABOUT_TOKENS.search(text):
        return [match for match in found if match not in tokens]
    return found


def strip_residue(text: str, *, answer: bool) -> str:
    """`text` without them; an answer ends where it runs on into the next question."""
    if not matches(text, answer=answer):
        return text
    if answer and (following := NEXT_TURN.search(text)):
        text = text[: following.start()]
    for match in reversed(matches(text, answer=answer)):
        text = text[: match.start()] + text[match.end() :]
    return text.strip()


def special_tokens_in(text: str, tokens: Iterable[str]) -> list[str]:
    return [token for token in tokens if token in text]
