"""From a grader, a row and the model's answer to a grade.

    check_grader(grader)                      what is wrong with it, before anything runs
    grade(grader, item, output_text)          one answer
    grade_all(graders, items, outputs)        a whole test, with judges asked several at a time

A grader that is wrong raises GraderError. An answer that cannot be graded gets score 0 and the reason in `Grade.error`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeAlias

from residency.config.graders import (
    Grader,
    JsonMatch,
    LabelModel,
    Multi,
    Python,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from residency.errors import GraderError
from residency.graders import judge
from residency.graders.formula import compute, parse_formula
from residency.graders.json_match import json_match, share_of_equal_fields
from residency.graders.python_child import PythonChild
from residency.graders.similarity import check_metric, similarity
from residency.graders.template import AnswerLacks, check_template, make_sample, render
from residency.progress import track
from residency.records import Grade

Item: TypeAlias = dict[str, Any]
Sample: TypeAlias = dict[str, Any]
Scorer: TypeAlias = Callable[[Item, Sample], Grade]

JUDGE_REQUESTS_AT_ONCE = 8
LONGEST_SOURCE_BYTES = 256 * 1024


def grade(grader: Grader, item: Item, output_text: str, *, output_tools: list[Any] | None = None) -> Grade:
    """One grade. Raises GraderError where the grader is wrong or names a field that the row does not have."""
    check_grader(grader)
    with ExitStack() as resources:
        return _prepare(grader, resources)(item, make_sample(output_text, output_tools))


def grade_all(graders: list[Grader], items: list[Item], outputs: list[str]) -> list[dict[str, Grade]]:
    """For each answer its grades by the grader's name, in the order of the items."""
    check_graders(graders)
    rows = [(item, make_sample(output)) for item, output in zip(items, outputs, strict=True)]
    with ExitStack() as resources:
        columns = {grader.name: _column(grader, _prepare(grader, resources), rows) for grader in graders}
    return [{name: column[row] for name, column in columns.items()} for row in range(len(rows))]


def check_graders(graders: list[Grader]) -> None:
    """Raises GraderError with every problem of every grader, and where two would fill the same column."""
    problems = []
    for grader in graders:
        try:
            check_grader(grader)
        except GraderError as error:
            problems.append(str(error).replace("\n", "; "))
    names = [grader.name for grader in graders]
    problems += [f"two graders are named `{name}`" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise GraderError("the graders cannot be used", problems=problems, hint="correct `eval.graders`")


def check_grader(grader: Grader) -> None:
    """Raises GraderError where the grader could never work: templates, source, formula, labels, endpoint."""
    try:
        _check(grader)
    except GraderError as error:
        if error.param is None:
            error.param = grader.name
        raise


def _check(grader: Grader) -> None:
    match grader:
        case StringCheck() | JsonMatch():
            check_template(grader.input)
            check_template(grader.reference)
        case TextSimilarity():
            check_template(grader.input)
            check_template(grader.reference)
            check_metric(grader.evaluation_metric)
        case Python():
            _check_source(grader.source)
        case ScoreModel() | LabelModel():
            _check_judge(grader)
        case Multi():
            for part in grader.graders.values():
                check_grader(part)
            parse_formula(grader.calculate_output, list(grader.graders))


def _check_source(source: str) -> None:
    if len(source.encode()) > LONGEST_SOURCE_BYTES:
        raise GraderError(f"the python source is longer than {LONGEST_SOURCE_BYTES // 1024} KiB")
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GraderError(f"the python source cannot be read: {error}") from None
    if not any(isinstance(statement, ast.FunctionDef) and statement.name == "grade" for statement in body):
        raise GraderError("the python source has no function `grade`", hint="write `def grade(sample, item) -> float:`")


def _check_judge(grader: ScoreModel | LabelModel) -> None:
    for message in grader.input:
        check_template(message.content)
    if isinstance(grader, ScoreModel) and not grader.range[0] < grader.range[1]:
        raise GraderError(f"the range {grader.range} is empty", hint="give the lowest score, then the highest")
    if isinstance(grader, LabelModel):
        unknown = [label for label in grader.passing_labels if label not in grader.labels]
        if unknown or not grader.passing_labels:
            raise GraderError(
                f"passing_labels are not among the labels: {', '.join(unknown)}"
                if unknown
                else "passing_labels is empty",
                hint=f"choose from {', '.join(grader.labels)}",
            )
    judge.endpoint(grader)


def _column(grader: Grader, scorer: Scorer, rows: list[tuple[Item, Sample]]) -> list[Grade]:
    at_once = JUDGE_REQUESTS_AT_ONCE if _asks_a_model(grader) else 1
    grades = []
    with ThreadPoolExecutor(at_once) as pool, track(f"grading: {grader.name}", len(rows)) as advance:
        for graded in pool.map(lambda row: scorer(*row), rows):
            grades.append(graded)
            advance()
    return grades


def _asks_a_model(grader: Grader) -> bool:
    parts = grader.graders.values() if isinstance(grader, Multi) else [grader]
    return any(isinstance(part, ScoreModel | LabelModel) for part in parts)


def _prepare(grader: Grader, resources: ExitStack) -> Scorer:
    """The grader as a function; processes and connections it needs live as long as `resources`."""
    score = _scorer(grader, resources)

    def graded(item: Item, sample: Sample) -> Grade:
        try:
            return score(item, sample)
        except AnswerLacks as lack:
            return Grade(score=0.0, passed=_passed(grader, 0.0), error=str(lack))

    return graded


def _scorer(grader: Grader, resources: ExitStack) -> Scorer:
    match grader:
        case StringCheck():
            return lambda item, sample: _string_check(grader, *_texts(grader, item, sample))
        case TextSimilarity():
            return lambda item, sample: _graded(
                grader, similarity(grader.evaluation_metric, *_texts(grader, item, sample))
            )
        case JsonMatch():
            measure = share_of_equal_fields if grader.partial else json_match
            return lambda item, sample: _graded(grader, float(measure(*_texts(grader, item, sample))))
        case Python():
            child = resources.enter_context(PythonChild(grader.source))
            return lambda item, sample: _graded(grader, *child.score(sample, item))
        case ScoreModel():
            client = resources.enter_context(judge.open_client(grader))
            return lambda item, sample: _graded(grader, *judge.judge_score(client, grader, item, sample))
        case LabelModel():
            client = resources.enter_context(judge.open_client(grader))
            return lambda item, sample: _graded(grader, *judge.judge_label(client, grader, item, sample))
        case Multi():
            parts = {name: _prepare(part, resources) for name, part in grader.graders.items()}
            return lambda item, sample: _multi(grader, {name: part(item, sample) for name, part in parts.items()})


def _texts(grader: StringCheck | TextSimilarity | JsonMatch, item: Item, sample: Sample) -> tuple[str, str]:
    return render(grader.input, item, sample), render(grader.reference, item, sample)


def _string_check(grader: StringCheck, text: str, reference: str) -> Grade:
    match grader.operation:
        case "eq":
            passed = text == reference
        case "ne":
            passed = text != reference
        case "like":
            passed = reference in text
        case "ilike":
            passed = reference.casefold() in text.casefold()
    return _graded(grader, float(passed))


def _multi(grader: Multi, parts: dict[str, Grade]) -> Grade:
    errors = [f"{name}: {part.error}" for name, part in parts.items() if part.error]
    try:
        value = compute(
            parse_formula(grader.calculate_output, list(parts)), {name: part.score for name, part in parts.items()}
        )
    except (ArithmeticError, ValueError) as error:
        value, errors = 0.0, [*errors, f"the formula has no value here: {error}"]
    return _graded(grader, value, "; ".join(errors) or None)


def _graded(grader: Grader, score: float, error: str | None = None) -> Grade:
    return Grade(score=score, passed=_passed(grader, score), error=error)


def _passed(grader: Grader, score: float) -> bool | None:
    """Right or wrong where the grader decides that; else only with a `pass_threshold`."""
    match grader:
        case StringCheck() | LabelModel():
            return score == 1.0
        case JsonMatch():
            return None if grader.partial else score == 1.0
    return None if grader.pass_threshold is None else score >= grader.pass_threshold
