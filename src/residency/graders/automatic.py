"""Which graders to take when the user names none."""

from __future__ import annotations

from residency.config.graders import Grader, JsonMatch, StringCheck, TextSimilarity
from residency.graders.json_match import parse

CLEAN_OUTPUT = "{{ sample.output_text }}"


def choose_graders(references: list[str]) -> tuple[list[Grader], str]:
    """The graders and the reason, as a sentence."""
    objects = sum(isinstance(parse(reference), dict | list) for reference in references)
    if references and objects == len(references):
        graders: list[Grader] = [JsonMatch(), JsonMatch(name="json_fields", partial=True)]
        return graders, f"all {objects} reference answers are JSON objects or arrays, so they are compared as JSON"
    reason = (
        f"{objects} of {len(references)} reference answers are JSON objects or arrays, so all are compared as text: "
        "exactly, and by fuzzy similarity"
    )
    return [StringCheck(), TextSimilarity(name="fuzzy_match")], reason
