"""Measures an untuned model on a task: its best prompt, the gold context, eight tries, and what its mistakes are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

from rapidfuzz import fuzz

from residency.advisor.decide import REINFORCEMENT_GAIN, SOMETIMES, Evidence, PromptScore
from residency.advisor.mistakes import Mistake, Vocabulary, agreement, mistake_of, read_vocabulary
from residency.advisor.notebook import Notebook, Question
from residency.advisor.prompts import Prompt, asked, context_of, conversation, prompts
from residency.config.graders import Grader, JsonMatch, LabelModel, StringCheck
from residency.config.task import Task
from residency.data.messages import Example
from residency.data.split import split_examples
from residency.errors import DataError, GraderError
from residency.evals.run import as_item, last_question
from residency.evals.stats import wilson
from residency.graders.score import grade_all
from residency.progress import track
from residency.wording import counted

TRIES = 8
TEMPERATURE = 0.8
TRIED_ROWS = 64
"""Rows of the test that are answered eight times."""
SCREENED_ROWS = 20
"""Development rows that every prompt is tried on; the FINALISTS are tried on all."""
FINALISTS = 3
FEWEST_ROWS = 12
TEST_ROWS, DEV_ROWS = (100, 300), (50, 100)

Say: TypeAlias = Callable[[str, str], None]
"""Takes an event's kind and its sentence."""
Fits: TypeAlias = Callable[[Question], bool]
"""Whether the model's context holds a question and its answer."""


@dataclass(frozen=True, slots=True)
class Parts:
    train: list[Example]
    """Worked examples come from here."""
    dev: list[Example]
    """The prompt is chosen on these."""
    test: list[Example]
    """Untouched: reported on, never chosen by."""


@dataclass(frozen=True, slots=True)
class Graded:
    output: str
    passed: bool
    score: float


def split(examples: list[Example], seed: int) -> Parts:
    """Rows with the same prompt stay together. Raises DataError where there are too few."""
    count = len(examples)
    if count < FEWEST_ROWS:
        raise DataError(f"{counted(count, 'example')}: too few to measure anything", param="examples",
                        code="too_few_rows", hint=f"write down at least {FEWEST_ROWS}, better 100 or more")  # fmt: skip
    rest, test = split_examples(examples, part_size(count, 5, 2, TEST_ROWS) / count, seed)
    train, dev = split_examples(rest, part_size(count, 10, 4, DEV_ROWS) / len(rest), seed)
    return Parts(train, dev, test)


def part_size(count: int, usual: int, most: int, limits: tuple[int, int]) -> int:
    """A `usual`-th of the rows within the limits, and never more than a `most`-th."""
    return min(max(count // usual, limits[0]), limits[1], count // most)


def deciding(graders: Sequence[Grader]) -> str:
    """The name of the first grader that says right or wrong. Raises GraderError where none does."""
    for grader in graders:
        match grader:
            case StringCheck() | LabelModel():
                return grader.name
            case JsonMatch():
                if not grader.partial:
                    return grader.name
            case _ if grader.pass_threshold is not None:
                return grader.name
    raise GraderError("no grader says whether an answer is right", param="graders", code="no_deciding_grader",
                      hint="give one of them a pass_threshold, or add a string_check or json_match")  # fmt: skip


def settled(right_once: Sequence[bool], greedy: Sequence[Graded]) -> bool:
    """Whether more rows could hardly make eight tries count: the upper limit is below what any branch asks for."""
    if not right_once:
        return False
    high = wilson(sum(right_once), len(right_once)).high
    one_try = fmean(one.passed for one in greedy[: len(right_once)])
    return high < SOMETIMES and high - one_try < REINFORCEMENT_GAIN


def answers_at_most(parts: Parts, tried: int, context_field: str) -> int:
    """How many answers a whole probe asks for."""
    dev = len(parts.dev)
    screened = min(dev, SCREENED_ROWS)
    with_context = sum(context_of(example, context_field) is not None for example in parts.test)
    tries = TRIES * min(len(parts.test), TRIED_ROWS)
    return tried * screened + FINALISTS * (dev - screened) + len(parts.test) + with_context + tries


class Probe:
    """One probe of one model; every answer goes through the notebook."""

    def __init__(
        self, task: Task, graders: list[Grader], parts: Parts, notebook: Notebook, say: Say,
        fits: Fits = lambda question: True,
    ) -> None:  # fmt: skip
        self.task, self.graders, self.parts = task, graders, parts
        self.notebook, self.say, self.fits = notebook, say, fits
        self.decider = deciding(graders)
        self.vocabulary: Vocabulary = read_vocabulary([one.reference for one in (*parts.train, *parts.dev)])
        self.left = 0
        self.own_temperature = False

    def run(self) -> Evidence:
        """Raises ModelError, GraderError, ResourceError; what was answered until then is kept."""
        tried = self.with_room(prompts(self.parts.train, self.task.instructions, self.task.seed))
        self.left = answers_at_most(self.parts, len(tried), self.task.context)
        with track("asking", self.left) as self.advance:
            best, ranked = self.choose_prompt(tried)
            answers = self.graded(self.parts.test, best)
            right = wilson(sum(one.passed for one in answers), len(answers))
            self.report(f"test, {best.name}: {right.value:.0%} [{right.low:.0%}, {right.high:.0%}] right")
            gold = self.with_context(best)
            enough = right.low >= self.task.target
            sampled: list[list[bool] | None] = [None] * len(answers)
            agree = None
            if not enough:
                sampled, agree = self.tries(best, answers)
        return Evidence(
            rows={"train": len(self.parts.train) + len(self.parts.dev), "dev": len(self.parts.dev),
                  "test": len(answers)},
            target=self.task.target, grader=self.decider, prompts=ranked, passed=[one.passed for one in answers],
            mistakes=[self.mistake(*pair) for pair in zip(answers, self.parts.test, strict=True)],
            with_context=gold, sampled=sampled, agreement=agree, own_temperature=self.own_temperature,
        )  # fmt: skip

    def with_room(self, tried: list[Prompt]) -> list[Prompt]:
        """The prompts that leave room for every row, as far as the longest rows tell."""
        rows = sorted((*self.parts.dev, *self.parts.test), key=lambda row: len(str(asked(row, self.task.context))))[-3:]

        def fits(prompt: Prompt) -> bool:
            return all(self.fits(Question(conversation(row, prompt, self.task.context), row.tools)) for row in rows)

        fitting = [prompt for prompt in tried if fits(prompt)]
        if not fitting:
            raise DataError(
                f"the model's context does not hold {rows[-1].origin} and its answer", param=str(rows[-1].origin),
                code="too_long", hint="shorten the longest rows, or take a model with a longer context",
            )  # fmt: skip
        if left_out := [prompt.name for prompt in tried if prompt not in fitting]:
            self.say("no_room", f"not tried, for the model's context does not hold them: {', '.join(left_out)}")
        return fitting

    def choose_prompt(self, tried: list[Prompt]) -> tuple[Prompt, list[PromptScore]]:
        """Every prompt on the first development rows, the best few on all; ties go to the plainer one."""
        screened = self.parts.dev[:SCREENED_ROWS]
        scores = {prompt.name: self.score(prompt, screened) for prompt in tried}
        ranked = sorted(tried, key=lambda prompt: _rank(scores[prompt.name]))
        finalists = ranked[:FINALISTS]
        if len(self.parts.dev) > len(screened):
            scores |= {prompt.name: self.score(prompt, self.parts.dev) for prompt in finalists}
        finalists.sort(key=lambda prompt: _rank(scores[prompt.name]))
        return finalists[0], [scores[prompt.name] for prompt in (*finalists, *ranked[FINALISTS:])]

    def score(self, prompt: Prompt, examples: list[Example]) -> PromptScore:
        answers = self.graded(examples, prompt)
        right = wilson(sum(one.passed for one in answers), len(answers))
        self.report(f"{prompt.name}: {right.value:.0%} of {len(answers)} development rows right")
        return PromptScore(name=prompt.name, right=right, score=fmean(one.score for one in answers),
                           few_shot=bool(prompt.shots))  # fmt: skip

    def with_context(self, best: Prompt) -> list[bool | None]:
        """The best prompt, with the gold context of every row that has one."""
        field = self.task.context
        rows = [row for row, example in enumerate(self.parts.test) if context_of(example, field) is not None]
        found: list[bool | None] = [None] * len(self.parts.test)
        if rows:
            answers = self.graded([self.parts.test[row] for row in rows], best, context=field)
            for row, answer in zip(rows, answers, strict=True):
                found[row] = answer.passed
            self.report(f"with the gold context: {sum(one.passed for one in answers)} of {len(rows)} right")
        return found

    def tries(self, best: Prompt, greedy: Sequence[Graded]) -> tuple[list[list[bool] | None], float]:
        """Eight answers to each of the first rows, and how far they agree; half of the rows, where those settle it."""
        eights: list[list[Graded]] = []
        for start in range(0, TRIED_ROWS, TRIED_ROWS // 2):
            some = self.parts.test[start : min(start + TRIED_ROWS // 2, TRIED_ROWS)]
            if settled([any(one.passed for one in eight) for eight in eights], greedy):
                self.advance(TRIES * len(some))
                self.left -= TRIES * len(some)
                break
            repeated = [example for example in some for _ in range(TRIES)]
            answers = self.graded(repeated, best, temperature=TEMPERATURE)
            eights += [answers[first : first + TRIES] for first in range(0, len(answers), TRIES)]
        found = [[one.passed for one in eight] for eight in eights]
        self.report(f"eight tries: {sum(map(any, found))} of {len(found)} right at least once")
        unasked = [None] * (len(self.parts.test) - len(found))
        return [*found, *unasked], fmean(agreement([one.output for one in eight]) for eight in eights)

    def graded(
        self, examples: Sequence[Example], prompt: Prompt, *, context: str | None = None, temperature: float = 0.0
    ) -> list[Graded]:
        """With a temperature, examples that stand next to each other and are the same get different samples."""
        questions = [
            Question(conversation(example, prompt, context), example.tools, temperature, row % TRIES if temperature
                     else 0)
            for row, example in enumerate(examples)
        ]  # fmt: skip
        answers = self.notebook.answers(questions, self.advance)
        self.own_temperature |= any(answer.own_temperature for answer in answers)
        outputs = [answer.text for answer in answers]
        self.left -= len(outputs)
        grades = grade_all(self.graders, [as_item(example) for example in examples], outputs)
        return [
            Graded(output, bool(grade[self.decider].passed), _score(grade, output, example.reference))
            for output, grade, example in zip(outputs, grades, examples, strict=True)
        ]

    def mistake(self, answer: Graded, example: Example) -> Mistake | None:
        return None if answer.passed else mistake_of(answer.output, example, last_question(example), self.vocabulary)

    def report(self, sentence: str) -> None:
        seconds = self.notebook.seconds_left(self.left)
        left = f" (about {max(seconds / 60, 0.1):.1f} min left)" if seconds and self.left > 0 else ""
        self.say("probe", sentence + left)


def _rank(score: PromptScore) -> tuple[float, float]:
    return -score.right.value, -score.score


def _score(grades: dict[str, Any], output: str, reference: str) -> float:
    """Tells prompts apart that are right equally often, or never."""
    return fmean([*(grade.score for grade in grades.values()), fuzz.ratio(output, reference) / 100])
