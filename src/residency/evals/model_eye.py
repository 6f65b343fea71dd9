"""The untuned model's eye on the data: answers that do not follow from their prompts, facts it holds otherwise.

Both are review queues. Wrong answers stand near the top of the first (the instruction-following difficulty of Li et al.
2308.12032, beside what the rows themselves say goes together), and so do right answers that are merely surprising. The
second says what a model knows by asking it with worked examples (SliCK, Gekhman et al. 2405.05904), where a bare chat
prompt would mostly measure its style.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from residency.data.audit.findings import Finding
from residency.data.audit.misfits import standardised
from residency.data.audit.subjects import answer_fits
from residency.data.audit.table import table_of, text_of
from residency.data.audit.words import words_of
from residency.data.messages import Example, Message, Rendered
from residency.data.render import Renderer, renderer_for
from residency.engine.engine import Engine
from residency.engine.sampling import SamplingSettings
from residency.evals.generate import answer_all, with_worked
from residency.progress import track
from residency.wording import counted

ROWS_ON_CPU = 500
DOES_NOT_FOLLOW = 0.9
"""The prompt makes the answer hardly more likely: 90 % of its negative log-likelihood is left."""
ROWS_AT_ONCE = 32

CONTEXTS, WORKED_EXAMPLES, SAMPLES, TEMPERATURE = 2, 4, 2, 0.5
MOST_FACT_WORDS, LABEL_SHARE = 8, 0.05
FEWEST_FACTS = 3 * WORKED_EXAMPLES
REPEATED, GAP_NATS = 2 / 3, 2.0
TOO_MANY_UNKNOWN = 0.05

Knowledge = Literal["known", "maybe_known", "unknown", "conflict"]


@dataclass(frozen=True, slots=True)
class Belief:
    """What the model holds of one row's fact."""

    knowledge: Knowledge
    own_answer: str
    """The answer it gives most often."""
    gap: float
    """How much likelier its own answer is than the row's where the two part, in nats, mean over the contexts."""


@dataclass(frozen=True, slots=True, eq=False)
class Following:
    """How much an answer follows from its prompt; both of shape (rows,)."""

    ratios: NDArray[np.float64]
    """The mean negative log-likelihood behind the prompt over that behind an empty question."""
    gains: NDArray[np.float64]
    """By how many nats the prompt makes the whole answer likelier."""


def look(
    engine: Engine, renderer: Renderer, examples: Sequence[Example], most: int | None, seed: int = 0
) -> list[Finding]:
    """All findings of the model's eye, on at most `most` rows drawn by `seed`; `most` None looks at all."""
    rows = [example for example in examples if example.text is None]
    if not rows:
        return []
    fits = answer_fits(table_of(rows), seed)
    if most is not None and len(rows) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))
        rows, fits = [rows[i] for i in chosen], fits[chosen]
    return [*check_following(engine, renderer, rows, fits), *check_knowledge(engine, renderer, rows, seed)]


def check_following(
    engine: Engine, renderer: Renderer, examples: Sequence[Example], fits: NDArray[np.float64]
) -> list[Finding]:
    """`fits`: how well each answer goes with its question by the other rows (`answer_fits`)."""
    read = follow(engine, renderer, examples)
    ratios = read.ratios
    order = np.argsort(-doubts(read, fits), kind="stable")
    queue = [int(i) for i in order if ratios[i] >= DOES_NOT_FOLLOW]
    if not queue:
        return []
    return [Finding(
        "does_not_follow", "note",
        f"Answers that hardly follow from their prompts, as the untuned model reads them: {len(queue):,} of "
        f"{counted(len(examples), 'row')} looked at. Look at them, the first ones first; labels may stand here though "
        "right.",
        [examples[i].origin for i in queue],
        {"looked_at": len(examples), "ratios": [round(float(ratios[i]), 3) for i in queue]},
    )]  # fmt: skip


def doubts(read: Following, fits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape (rows,): how much speaks against each answer, by the model and by the other rows in equal parts. Where
    answers are short talk neither tells enough alone.

    The model's part is the gain of the whole answer: its mean over the tokens would set a long right answer, of which
    the question foretells a part, beside a short wrong one.
    """
    return -standardised(read.gains) - standardised(fits)


def follow(engine: Engine, renderer: Renderer, examples: Sequence[Example]) -> Following:
    """Reads each answer behind its prompt and behind an empty question.

    The empty question keeps the system text and the chat's frame, so that only what was asked makes the difference.
    """
    asked = last_answers(renderer, [example.messages for example in examples], examples)
    unasked = last_answers(renderer, [unasked_messages(example) for example in examples], examples)
    losses = mean_losses(engine, asked + unasked)
    with_prompt, without = losses[: len(examples)], losses[len(examples) :]
    tokens = np.array([row.trained.sum() for row in asked])
    return Following(with_prompt / np.maximum(without, 1e-6), tokens * (without - with_prompt))


def unasked_messages(example: Example) -> tuple[Message, ...]:
    system = tuple(message for message in example.prompt if message["role"] in ("system", "developer"))
    return (*system, {"role": "user", "content": ""}, example.messages[-1])


def last_answers(
    renderer: Renderer, conversations: Sequence[Sequence[Message]], examples: Sequence[Example]
) -> list[Rendered]:
    """Each conversation with loss on its last turn and on nothing else."""
    last = renderer_for(renderer.tokenizer, train_on="last_answer")
    rows = []
    for messages, example in zip(conversations, examples, strict=True):
        plain = tuple(cast(Message, {k: v for k, v in one.items() if k != "weight"}) for one in messages)
        rows.append(last.render(replace(example, messages=plain))[-1])
    return rows


def mean_losses(engine: Engine, rows: Sequence[Rendered]) -> NDArray[np.float64]:
    found = np.zeros(len(rows))
    with track("reading with the model", len(rows)) as advance:
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[first : first + ROWS_AT_ONCE]
            found[first : first + len(part)] = [
                -score.logprobs.mean(dtype=float) for score in engine.logprobs(None, part)
            ]
            advance(len(part))
    return found


# ---- what the model knows


def check_knowledge(engine: Engine, renderer: Renderer, examples: Sequence[Example], seed: int = 0) -> list[Finding]:
    """Known, MaybeKnown, Unknown and Conflict among the rows with short answers that state a fact."""
    facts = factual(examples)
    if len(facts) < FEWEST_FACTS:
        return []
    beliefs = ask(engine, renderer, facts, seed)
    counts = Counter(belief.knowledge for belief in beliefs)
    known = f"{counts['known']:,} known, {counts['maybe_known']:,} perhaps"
    findings = [Finding("knowledge", "note", f"Of {len(facts):,} rows that state a short fact the model has {known}, "
                        f"{counts['unknown']:,} unknown and {counts['conflict']:,} otherwise.",
                        data={"facts": len(facts), **{str(name): n for name, n in counts.items()}})]  # fmt: skip
    conflicts = [i for i, belief in enumerate(beliefs) if belief.knowledge == "conflict"]
    if conflicts:
        conflicts.sort(key=lambda i: -beliefs[i].gap)
        findings.append(Finding(
            "conflicts", "warning",
            f"Facts that the model has learned otherwise: {counted(len(conflicts), 'row')}. If the rows are right, "
            "tuning will hold only near their prompts, and a system prompt or retrieval holds better; if not, correct "
            "them.",
            [facts[i].origin for i in conflicts],
            {"rows": [{"row": str(facts[i].origin), "answer": facts[i].reference, "model": beliefs[i].own_answer,
                       "gap_nats": round(beliefs[i].gap, 2)} for i in conflicts]},
        ))  # fmt: skip
    unknown = [i for i, belief in enumerate(beliefs) if belief.knowledge == "unknown"]
    if len(unknown) > TOO_MANY_UNKNOWN * len(facts):
        findings.append(Finding(
            "unknown_facts", "warning",
            f"Facts that are new to the model: {len(unknown):,} of {len(facts):,} rows with a short one. Such rows are "
            "learned slowly and teach it to invent; give facts in the prompt (retrieval) rather than by tuning.",
            [facts[i].origin for i in unknown],
        ))  # fmt: skip
    return findings


def factual(examples: Sequence[Example]) -> list[Example]:
    """Rows whose answer is short, is no label that many rows share, no JSON, and does not stand in the prompt."""
    answers = Counter(example.reference.strip().casefold() for example in examples)
    most = max(2, LABEL_SHARE * len(examples))
    return [
        example
        for example in examples
        if states_a_fact(example) and answers[example.reference.strip().casefold()] <= most
    ]


def states_a_fact(example: Example) -> bool:
    answer = example.reference.strip()
    length = len(words_of(answer))
    asked = " ".join(text_of(message) for message in example.prompt)
    return (
        0 < length <= MOST_FACT_WORDS
        and not example.tools
        and not re.match(r"[\[{<`]", answer)
        and not says(asked, answer)
    )


def says(text: str, answer: str) -> bool:
    """Whether the words of `answer` stand in `text`, in order and together."""
    return f" {' '.join(words_of(answer))} " in f" {' '.join(words_of(text))} "


def ask(engine: Engine, renderer: Renderer, facts: Sequence[Example], seed: int = 0) -> list[Belief]:
    """What the model holds of each row, asked behind CONTEXTS sets of worked examples out of the other rows."""
    drawn = np.random.default_rng(seed).permutation(len(facts))[: CONTEXTS * WORKED_EXAMPLES].reshape(CONTEXTS, -1)
    outputs: list[list[str]] = [[] for _ in facts]
    gaps: list[list[float]] = [[] for _ in facts]
    for number, context in enumerate(drawn):
        worked = [turn for i in context for turn in facts[i].messages[-2:]]
        rows = [i for i in range(len(facts)) if i not in context]
        given = answers_to(engine, renderer, [facts[i] for i in rows], worked, seed + number)
        greedy = [answers[0] for answers in given]
        parted = gaps_between(engine, renderer, [facts[i] for i in rows], greedy, worked)
        for i, answers, gap in zip(rows, given, parted, strict=True):
            outputs[i] += answers
            gaps[i].append(gap)
    return [belief(fact.reference, given, gap) for fact, given, gap in zip(facts, outputs, gaps, strict=True)]


def answers_to(
    engine: Engine, renderer: Renderer, facts: Sequence[Example], worked: Sequence[Message], seed: int
) -> list[list[str]]:
    """For each row the greedy answer and SAMPLES sampled ones."""
    longest = max(len(renderer.tokenizer(fact.reference)["input_ids"]) for fact in facts) + 4
    rounds = []
    for number in range(1 + SAMPLES):
        temperature = TEMPERATURE if number else 0.0
        settings = SamplingSettings(longest, renderer.stop_ids, temperature, seed=seed * (1 + SAMPLES) + number)
        rounds.append([answer.text.strip() for answer in answer_all(engine, None, renderer, facts, settings, worked)])
    return [list(answers) for answers in zip(*rounds, strict=True)]


def gaps_between(
    engine: Engine, renderer: Renderer, facts: Sequence[Example], own: Sequence[str], worked: Sequence[Message]
) -> list[float]:
    """How much likelier the model's own answer is than the row's, at the first token where they part; 0 where never."""

    def rendered(answers: Sequence[str]) -> list[Rendered]:
        turns: list[Message] = [{"role": "assistant", "content": answer} for answer in answers]
        talks = [[*with_worked(fact.prompt, worked), turn] for fact, turn in zip(facts, turns, strict=True)]
        return last_answers(renderer, talks, facts)

    theirs, mine = rendered([fact.reference for fact in facts]), rendered(own)
    scores = engine.logprobs(None, theirs + mine)
    gaps = []
    for i, (row, answer) in enumerate(zip(theirs, mine, strict=True)):
        left, right = row.input_ids[row.trained], answer.input_ids[answer.trained]
        parting = next((k for k, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
        gaps.append(0.0 if parting is None else
                    float(scores[len(facts) + i].logprobs[parting] - scores[i].logprobs[parting]))  # fmt: skip
    return gaps


def belief(reference: str, given: Sequence[str], gaps: Sequence[float]) -> Belief:
    """`given` holds the greedy answer first, then the samples, for each context."""
    right = [says(answer, reference) for answer in given]
    counts = Counter(" ".join(words_of(answer)) for answer in given)
    favourite, times = counts.most_common(1)[0]
    own = next(answer for answer in given if " ".join(words_of(answer)) == favourite)
    gap = float(np.mean(gaps))
    greedy_right = right[:: 1 + SAMPLES]
    if times >= REPEATED * len(given) and not says(own, reference) and gap >= GAP_NATS:
        return Belief("conflict", own, gap)
    return Belief("known" if all(greedy_right) else "maybe_known" if any(right) else "unknown", own, gap)
