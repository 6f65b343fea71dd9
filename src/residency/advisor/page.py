"""An advice as one page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from residency.advisor.advice import Advice, Proposal
from residency.advisor.decide import Choice, Evidence, Figures, figures_of
from residency.advisor.mistakes import FORM, MISTAKES
from residency.advisor.pilots import LEAST_ROWS
from residency.advisor.probe import TEMPERATURE
from residency.evals.stats import paired_bootstrap
from residency.records import Interval
from residency.wording import counted, duration, memory, points

TITLES: dict[Choice, str] = {
    "prompt": "The prompt is enough",
    "retrieval": "Retrieval",
    "fine-tune": "Fine-tune",
    "reinforcement": "Reinforcement",
    "rethink": "Rethink",
    "pilot": "Pilot first",
}
NEXT: dict[Choice, str] = {
    "prompt": "Use the best prompt as it stands. Tuning would only pay for a smaller model, or for shorter prompts.",
    "retrieval": "Put the text that holds the answer into the prompt. Facts that change, or differ from one request to "
    "the next, belong there and not in the weights.",
    "fine-tune": "Train on the examples; the report of the run compares with the best prompt on the same test.",
    "reinforcement": "Reward the model's own right answers, with the task's grader. Residency trains on reference "
    "answers so far, and run.yaml does that: the nearest run, not the advised one.",
    "rethink": "Do not train. Take a larger model, split the task into steps that the model can do, give it a tool, or "
    "check that the grader judges what you mean.",
    "pilot": "Tune on small subsets and let the slope decide: the same command with --pilots.",
}
METHODS = {"full": "all weights", "lora": "LoRA", "qlora": "QLoRA"}
WHAT = {
    "parse": "does not parse",
    "format": "format",
    "style": "style",
    "convention": "the task's conventions",
    "content": "content",
}


def page(advice: Advice) -> str:
    """Markdown: the choice first, then the numbers, the run, and what would change the advice."""
    evidence, decision = advice.evidence, advice.decision
    found = figures_of(evidence, range(len(evidence.passed)))
    rows = evidence.rows
    parts = [
        f"# {TITLES[decision.choice]}",
        " ".join(decision.reasons),
        _next(decision.choice, rows["train"]),
        _firmness(advice),
        "## What was measured",
        f"{advice.model} on {rows['test']} untouched rows, judged by {evidence.grader} ({advice.grader_reason}). The "
        f"prompt was chosen on {rows['dev']} other rows. Intervals are 95 %.{_own_temperature(evidence)}",
        _numbers(advice, found),
        _mistakes(advice),
        "## The run",
        _run(advice.proposal, decision.choice),
        _ceiling(advice, found),
        "## What would change this advice",
        "\n".join(f"- {sentence}" for sentence in advice.would_change),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _next(choice: Choice, train: int) -> str:
    if choice == "pilot" and train < LEAST_ROWS:
        return (
            f"Write down more examples first, and ask again: pilots (--pilots) need {LEAST_ROWS} rows to train on, and "
            f"there are {train}."
        )
    return NEXT[choice]


def _firmness(advice: Advice) -> str:
    said = [f"{TITLES[name].lower()} in {share:.0%}" for name, share in advice.decision.resampled.items()]  # type: ignore[index]
    return f"Were other rows drawn for the test, the rule would say: {', '.join(said)} of 200 resamples."


def _own_temperature(evidence: Evidence) -> str:
    said = " The model takes no temperature: it answered at its own, one try and each of eight."
    return said if evidence.own_temperature else ""


def _numbers(advice: Advice, found: Figures) -> str:
    evidence = advice.evidence
    best = evidence.prompts[0].name
    lines = ["| | right | interval | rows |", "|---|--:|--:|--:|", _line(f"**test, {best}**", found.right)]
    if found.context:
        lines.append(_line("test, with the gold context", found.context))
    if found.tries:
        temperature = "the model's own temperature" if evidence.own_temperature else f"T = {TEMPERATURE}"
        lines.append(_line(f"test, one of 8 tries at {temperature}", found.tries))
    lines += [_line(f"dev, {score.name}", score.right) for score in evidence.prompts]
    return "\n".join(lines) + "\n\n" + " ".join(_gains(evidence))


def _gains(evidence: Evidence) -> list[str]:
    """Paired with the best prompt on the same rows."""
    said = []
    gold = [(before, after) for before, after in zip(evidence.passed, evidence.with_context, strict=True)
            if after is not None]  # fmt: skip
    tries = [(before, any(eight)) for before, eight in zip(evidence.passed, evidence.sampled, strict=True) if eight]
    for name, pairs in (("The gold context gains", gold), ("Eight tries gain", tries)):
        if pairs:
            said.append(f"{name} {_gain([before for before, _ in pairs], [after for _, after in pairs])}.")
    if evidence.agreement is not None:
        said.append(f"Of two of the eight tries {evidence.agreement:.0%} say the same.")
    return said


def _gain(before: Sequence[float], after: Sequence[float]) -> str:
    gain = paired_bootstrap(before, after)
    return f"{points(gain.value)} points ({points(gain.low)} to {points(gain.high)})"


def _line(name: str, interval: Interval) -> str:
    return f"| {name} | {interval.value:.0%} | {interval.low:.0%} to {interval.high:.0%} | {interval.n} |"


def _mistakes(advice: Advice) -> str:
    evidence = advice.evidence
    wrong = [(row, mistake) for row, mistake in enumerate(evidence.mistakes) if mistake]
    counts = {kind: [row for row, mistake in wrong if mistake == kind] for kind in MISTAKES}
    said = [f"{WHAT[kind]} {len(rows)}" for kind, rows in counts.items() if rows]
    if not said:
        return "No answer was wrong."
    with_context = [evidence.with_context[row] for row in counts["content"]]
    known = [right for right in with_context if right is not None]
    mended = f" Of those of content, the context mends {sum(known)} of {len(known)}." if known else ""
    return f"{counted(len(wrong), 'mistake')}: {', '.join(said)}.{mended}"


def _run(proposal: Proposal | None, choice: Choice) -> str:
    if proposal is None:
        return "None is proposed." if choice == "rethink" else "None is needed."
    said = f"`residency train {proposal.run_file}`: {proposal.rows} rows"
    if proposal.steps is None or proposal.seconds is None or proposal.memory_bytes is None or proposal.adapter is None:
        return f"{said}; {proposal.basis}."
    return (
        f"{said}, {proposal.steps} steps, about {duration(proposal.seconds)} of training here and "
        f"{memory(proposal.memory_bytes)} of memory; measuring and answering not counted. ({proposal.basis})\n\n"
        f"`adapter.kind: auto` trains {METHODS[proposal.adapter]} here. {proposal.adapter_reason} Another "
        "machine may choose another; `residency estimate` shows the same for the run file."
    )


def _ceiling(advice: Advice, found: Figures) -> str:
    """What the choice can bring at best."""
    evidence, now = advice.evidence, f"{found.right.value:.0%} now"
    match advice.decision.choice:
        case "fine-tune" | "pilot":
            mended = [float(right or evidence.mistakes[row] in FORM) for row, right in enumerate(evidence.passed)]
            return (
                f"Were every mistake of form mended and nothing else: {_gain(evidence.passed, mended)} over "
                f"{now}. What training makes of it, the run measures."
            )
        case "reinforcement" if found.tries:
            return (
                f"The honest ceiling is what 8 tries reach: {found.tries.value:.0%} ({found.tries.low:.0%} to "
                f"{found.tries.high:.0%}; {now})."
            )
        case "retrieval" if found.context:
            return (
                f"The ceiling is the gold context: {found.context.value:.0%} ({found.context.low:.0%} to "
                f"{found.context.high:.0%}; {now}). A real search finds it less often."
            )
    return ""
