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
HEADINGS = r"^#{2,3} ?(?:Instruction|Response|Input|Output|Assistant|Human|User|System)\s*:"
HOLES = r"\{\{\s*(?:name|author|user|input|output|instruction|response|question|answer|context|prompt)\s*\}\}"
SPEAKER = r"(?:Human|Assistant|User|AI|Bot|System)"
ANYWHERE = f"{UNQUOTED}|{HEADINGS}|{HOLES}"
IN_PROMPT = re.compile(rf"{ANYWHERE}|\A\s*{SPEAKER}:[ \t]|\n(?:Assistant|AI|Bot):\s*\Z", re.MULTILINE)
IN_ANSWER = re.compile(
    rf"{ANYWHERE}|\A\s*(?:Assistant|AI|Bot):[ \t]|^(?:Human|User|Assistant):(?=[ \t]|$)", re.MULTILINE
)
HINT = re.compile(
    r"<\||<\uff5c|_of_turn>|</?[bepu]|\[/?[IBEPCS]|<<|<s>|</s>|##|\{\{|(?:Human|Assistant|User|AI|Bot|System):"
)
NEXT_TURN = re.compile(r"\n(?:Human|User):|\n#{2,3} ?(?:Instruction|Human|User)\s*:")
"""Where an answer runs on into the next question; nothing behind it belongs to the answer."""


def find_residue(text: str, *, answer: bool) -> list[str]:
    """The pieces of `text` that belong to a template."""
    if not HINT.search(text):
        return []
    return [match[0].strip() for match in (IN_ANSWER if answer else IN_PROMPT).finditer(text)]


def strip_residue(text: str, *, answer: bool) -> str:
    """`text` without them; an answer ends where it runs on into the next question."""
    if not find_residue(text, answer=answer):
        return text
    if answer and (following := NEXT_TURN.search(text)):
        text = text[: following.start()]
    return (IN_ANSWER if answer else IN_PROMPT).sub("", text).strip()


def special_tokens_in(text: str, tokens: Iterable[str]) -> list[str]:
    return [token for token in tokens if token in text]
