"""Which graders to take when the user names none."""

from __future__ import annotations

from residency.config.graders import Grader, JsonMatch, StringCheck, TextSimilarity
from residency.graders.json_match import parse
from residency.wording import counted

CLEAN_OUTPUT = "{{ sample.output_text }}"


def choose_graders(references: list[str]) -> tuple[list[Grader], str]:
    """The graders and the reason, as a sentence."""
    objects = sum(isinstance(parse(reference), dict | list) for reference in references)
    if references and objects == len(references):
        graders: list[Grader] = [JsonMatch(), JsonMatch(name="json_fields", partial=True)]
        return graders, f"every reference answer ({objects}) is a JSON object or array, so they are compared as JSON"
    some = f"{objects} of {counted(len(references), 'reference answer')}"
    reason = f"JSON objects or arrays are {some}, so all are compared as text: exactly, and by fuzzy similarity"
    return [StringCheck(), TextSimilarity(name="fuzzy_match")], reason
