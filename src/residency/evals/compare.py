"""Two models on the same test, row by row."""

from __future__ import annotations

from residency.errors import RunError
from residency.evals.stats import mcnemar_exact, paired_bootstrap
from residency.records import Answer, Comparison, EvalResult

SUITE = "suite:"
"""What the name of a test begins with that measures what was kept, not what was gained."""


def compare(before: EvalResult, after: EvalResult) -> list[Comparison]:
    """One comparison for each grader that both have. Raises RunError where the rows are not the same."""
    if [_key(answer) for answer in before.answers] != [_key(answer) for answer in after.answers]:
        raise RunError(
            f"`{before.model}` on {before.test} and `{after.model}` on {after.test} answered different rows",
            hint="measure both with the same test file",
        )
    return [_compare(before, after, grader) for grader in before.summaries if grader in after.summaries]


def _compare(before: EvalResult, after: EvalResult, grader: str) -> Comparison:
    pairs = [
        (old.row, old.grades[grader], new.grades[grader])
        for old, new in zip(before.answers, after.answers, strict=True)
    ]
    decided = all(old.passed is not None and new.passed is not None for _, old, new in pairs)
    wins = [row for row, old, new in pairs if decided and new.passed and not old.passed]
    losses = [row for row, old, new in pairs if decided and old.passed and not new.passed]
    gain = paired_bootstrap(
        [float(old.passed or 0) if decided else old.score for _, old, _ in pairs],
        [float(new.passed or 0) if decided else new.score for _, _, new in pairs],
    )
    return Comparison(
        test=after.test,
        grader=grader,
        before=before.summaries[grader],
        after=after.summaries[grader],
        gain=gain,
        p_value=mcnemar_exact(len(wins), len(losses)) if decided else None,
        wins=wins,
        losses=losses,
        baseline=before.model,
    )


def _key(answer: Answer) -> tuple[int, str, str]:
    return answer.row, answer.prompt, answer.reference
