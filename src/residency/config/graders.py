"""The graders a user may name: OpenAI's schema, and `json_match` as ours.

A grader turns `(item, sample)` into a score from 0 to 1 (`score_model`: into its own range). Templates reach the row
with `{{ item.x }}` and the model's answer with `{{ sample.output_text }}`. `residency.graders` does the scoring.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from residency.config.section import Section


class StringCheck(Section):
    type: Literal["string_check"] = "string_check"
    name: str = "string_check"
    """The column this grader fills in the results."""
    input: str = "{{ sample.output_text }}"
    """Template of the text that is checked."""
    reference: str = "{{ item.reference }}"
    """Template of the text it is compared with."""
    operation: Literal["eq", "ne", "like", "ilike"] = "eq"
    """`eq`, `ne`, or contains: `like`, and `ilike` without regard to case."""


class TextSimilarity(Section):
    type: Literal["text_similarity"] = "text_similarity"
    name: str = "text_similarity"
    """The column this grader fills in the results."""
    input: str = "{{ sample.output_text }}"
    """Template of the text that is scored."""
    reference: str = "{{ item.reference }}"
    """Template of the text it is compared with."""
    evaluation_metric: Literal[
        "fuzzy_match",
        "bleu",
        "gleu",
        "meteor",
        "rouge_1",
        "rouge_2",
        "rouge_3",
        "rouge_4",
        "rouge_5",
        "rouge_l",
    ] = "fuzzy_match"
    """The similarity measure."""
    pass_threshold: float | None = None
    """The score from which an answer counts as right; without one, only the mean score is reported."""


class JsonMatch(Section):
    type: Literal["json_match"] = "json_match"
    name: str = "json_match"
    """The column this grader fills in the results."""
    input: str = "{{ sample.output_text }}"
    """Template of the JSON text that is checked."""
    reference: str = "{{ item.reference }}"
    """Template of the JSON text it must equal."""
    partial: bool = False
    """Score the share of equal fields instead of 1 for equal and 0 for different."""


class Python(Section):
    type: Literal["python"] = "python"
    name: str = "python"
    """The column this grader fills in the results."""
    source: str
    """Python source with `def grade(sample, item) -> float`."""
    image_tag: str | None = None
    """Accepted for compatibility; the interpreter that runs Residency is used."""
    pass_threshold: float | None = None
    """The score from which an answer counts as right; without one, only the mean score is reported."""


class ModelMessage(Section):
    role: Literal["user", "assistant", "system", "developer"]
    content: str
    """Template of the message."""
    type: Literal["message"] = "message"


class ScoreModel(Section):
    type: Literal["score_model"] = "score_model"
    name: str = "score_model"
    """The column this grader fills in the results."""
    model: str
    """The judging model's name at `base_url`."""
    input: list[ModelMessage]
    """The conversation the judge answers, as templates."""
    range: tuple[float, float] = (0.0, 1.0)
    """The lowest and highest score; an answer outside is clipped."""
    sampling_params: dict[str, Any] = Field(default_factory=dict)
    """Passed to the endpoint (temperature, top_p, seed, max_completions_tokens)."""
    pass_threshold: float | None = None
    """The score from which an answer counts as right; without one, only the mean score is reported."""
    base_url: str | None = None
    """An OpenAI-style endpoint; default: the environment variable OPENAI_BASE_URL."""


class LabelModel(Section):
    type: Literal["label_model"] = "label_model"
    name: str = "label_model"
    """The column this grader fills in the results."""
    model: str
    """The judging model's name at `base_url`."""
    input: list[ModelMessage]
    """The conversation the judge answers, as templates."""
    labels: list[str]
    """The labels the judge may choose from."""
    passing_labels: list[str]
    """Those that count as right."""
    base_url: str | None = None
    """An OpenAI-style endpoint; default: the environment variable OPENAI_BASE_URL."""


SingleGrader: TypeAlias = Annotated[
    StringCheck | TextSimilarity | JsonMatch | Python | ScoreModel | LabelModel, Field(discriminator="type")
]


class Multi(Section):
    type: Literal["multi"] = "multi"
    name: str = "multi"
    """The column this grader fills in the results."""
    graders: dict[str, SingleGrader]
    """The parts, by the name the formula uses."""
    calculate_output: str
    """A formula over the parts' scores: + - * / ^, min max abs floor ceil exp sqrt log."""
    pass_threshold: float | None = None
    """The score from which an answer counts as right; without one, only the mean score is reported."""


Grader: TypeAlias = Annotated[
    StringCheck | TextSimilarity | JsonMatch | Python | ScoreModel | LabelModel | Multi,
    Field(discriminator="type"),
]
