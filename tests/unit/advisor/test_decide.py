"""The rule, on figures made up for the purpose."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from residency.advisor.decide import Choice, Evidence, PromptScore, decide, what_would_change
from residency.advisor.mistakes import Mistake
from residency.evals.stats import wilson


def evidence(
    right: int, *, kind: Mistake = "content", gold: int | None = None, tries: int | None = None, target: float = 0.9,
    train: int = 100, shots: float = 0.0,
) -> Evidence:  # fmt: skip
    """A test of 100 rows, of which so many are right: with the best prompt, with the context, in one of eight tries."""

    def first(count: int) -> list[bool]:
        return [row < count for row in range(100)]

    sampled: Sequence[list[bool] | None] = [[ok] * 8 for ok in first(right if tries is None else tries)]
    scores = [("8-shot", shots, True), ("zero-shot", 0.0, False)]
    return Evidence(
        rows={"train": train, "dev": 50, "test": 100}, target=target, grader="string_check",
        prompts=[PromptScore(name=name, right=wilson(round(50 * share), 50), score=share, few_shot=few)
                 for name, share, few in scores],
        passed=first(right), mistakes=[None if ok else kind for ok in first(right)],
        with_context=[None] * 100 if gold is None else [*first(gold)], sampled=list(sampled), agreement=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "choice"),
    [
        (evidence(98), "prompt"),
        (evidence(93), "fine-tune"),
        (evidence(90, target=0.99), "fine-tune"),
        (evidence(20), "rethink"),
        (evidence(40, gold=80), "retrieval"),
        (evidence(40, gold=45), "pilot"),
        (evidence(40, kind="format"), "fine-tune"),
        (evidence(0, kind="parse"), "fine-tune"),
        (evidence(0, kind="convention"), "fine-tune"),
        (evidence(5, tries=10), "rethink"),
        (evidence(5, tries=60), "reinforcement"),
        (evidence(40, tries=75), "reinforcement"),
        (evidence(40, tries=50), "pilot"),
        (evidence(50, shots=0.5), "fine-tune"),
        (evidence(40, kind="format", train=30), "pilot"),
    ],
)
def test_the_rule(found: Evidence, choice: Choice) -> None:
    assert decide(found).choice == choice


def test_ninety_percent_can_be_tuned_to_ninety_nine_and_twenty_percent_needs_another_approach() -> None:
    assert decide(evidence(90, target=0.99)).choice == "fine-tune"
    assert decide(evidence(20, target=0.99)).choice == "rethink"


def test_a_close_call_is_shown_as_one() -> None:
    firm, close = decide(evidence(0, tries=0)).resampled, decide(evidence(40, tries=60)).resampled
    assert firm == {"rethink": 1.0}
    assert set(close) == {"reinforcement", "pilot"}
    assert all(share > 0.2 for share in close.values())


def test_with_too_few_rows_it_is_said_what_their_shares_would_mean_and_nothing_is_asked_for_that_is_there() -> None:
    """Fine-tuning does not lack mistakes of form here, but rows."""
    said = what_would_change(evidence(80, kind="format", train=20), "pilot")
    assert len(said) == 3
    assert said[-1].endswith("decide little. Were these shares those of enough rows, the choice would be fine-tune.")
    assert not any(sentence.startswith(("Fine-tuning", "Reinforcement")) for sentence in said)


def test_every_other_branch_says_what_it_would_need() -> None:
    said = what_would_change(evidence(40, kind="format"), "fine-tune")
    assert len(said) == 4
    assert any("no row has a context" in sentence for sentence in said)
    assert any("lower limit reached 90%" in sentence for sentence in said)
