"""What the untuned model writes for its card: its own answers, other wordings, translations where it is able to."""

from __future__ import annotations

from collections.abc import Sequence, Set

from rapidfuzz.fuzz import ratio

from residency.data.audit.words import words_of
from residency.data.messages import Message
from residency.data.render import Renderer
from residency.engine.engine import Engine
from residency.engine.sampling import SamplingSettings
from residency.evals.card_behaviours import Trained
from residency.evals.card_prompts import TEMPLATES, Written, acceptable
from residency.evals.generate import with_worked

WORKED_ROWS = 4
LONGEST_WORDING_TOKENS = 40
ALIKE, ENOUGH = 60.0, 4
"""A translation is right where it is so much (of 100) like the known one; so many of the six must be."""
CANNOT = "the untuned model cannot translate: it got {right} of {n} known sentences right"
NOT_ASKED = "the answer's form leaves nothing to translate"


def write(
    engine: Engine, renderer: Renderer, trained: Sequence[Trained], settings: SamplingSettings, asked: Set[str]
) -> list[Written]:
    """For each behaviour the base's own answer in the rows' style, a rewording that passes, and a translation.

    `asked` has the training questions by their words. `settings` gives the stop tokens and the batch.
    """
    own, reworded = own_and_reworded(engine, renderer, trained, settings)
    translated, reason = translations(engine, renderer, trained, settings)
    return [
        Written(answer, [text] if acceptable(one, text, asked) else [], [french] if french else [], reason)
        for one, answer, text, french in zip(trained, own, reworded, translated, strict=True)
    ]


def own_and_reworded(
    engine: Engine, renderer: Renderer, trained: Sequence[Trained], settings: SamplingSettings
) -> tuple[list[str | None], list[str]]:
    """Together, as on a CPU few answers take as long as many."""
    asked = [i for i, one in enumerate(trained) if one.sort != "text"]
    prompts = [own_prompt(renderer, trained, i) for i in asked]
    room = max((len(renderer.tokenizer(trained[i].answer)["input_ids"]) for i in asked), default=0) + 8
    rewording = [renderer.prompt_ids(instructed("reword", one.question)) for one in trained]
    written = generate(engine, renderer, None, [*prompts, *rewording], settings,
                       [room] * len(asked) + [LONGEST_WORDING_TOKENS] * len(trained))  # fmt: skip
    own: list[str | None] = [None] * len(trained)
    for i, answer in zip(asked, written, strict=False):
        own[i] = shaped(answer, trained[i].sort)
    return own, [first_line(text) for text in written[len(asked) :]]


def own_prompt(renderer: Renderer, trained: Sequence[Trained], which: int) -> list[int]:
    """Behind rows chosen for the card with other answers: they show the form, not the answer.

    Each half of the behaviours is asked behind rows of the other, so that many prompts begin alike.
    """
    middle = len(trained) // 2
    half, rest = (trained[:middle], trained[middle:]) if which < middle else (trained[middle:], trained[:middle])
    taken = {one.answer.casefold() for one in half}
    others = [one for one in rest if one.answer.casefold() not in taken][:WORKED_ROWS]
    worked = [turn for one in others for turn in one.example.messages[-2:]]
    example = trained[which].example
    return renderer.prompt_ids(with_worked(example.prompt, worked), example.tools)


def shaped(answer: str, sort: str) -> str | None:
    """A short answer is its first line."""
    return (answer.strip() if sort == "format" else answer.strip().partition("\n")[0].strip()) or None


def follow(
    engine: Engine, renderer: Renderer, task: str, texts: Sequence[str], settings: SamplingSettings
) -> list[str]:
    """`reword` or `translate`, as its worked examples show; one line each."""
    prompts = [renderer.prompt_ids(instructed(task, text)) for text in texts]
    answers = generate(engine, renderer, None, prompts, settings, [LONGEST_WORDING_TOKENS] * len(texts))
    return [first_line(answer) for answer in answers]


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip().strip('"')


def instructed(task: str, text: str) -> list[Message]:
    """The instruction as a user's turn, since not every template knows a system's; worked examples; the text."""
    turns: list[Message] = [
        {"role": "user", "content": TEMPLATES[task]["instruction"]},
        {"role": "assistant", "content": "Yes, send me the sentences one by one."},
    ]
    for before, after in TEMPLATES[task]["worked"]:
        turns += [{"role": "user", "content": before}, {"role": "assistant", "content": after}]
    return [*turns, {"role": "user", "content": text}]


def translations(
    engine: Engine, renderer: Renderer, trained: Sequence[Trained], settings: SamplingSettings
) -> tuple[list[str], str]:
    """Each question in French, and nothing for all where the model does not know the language; then also why."""
    nothing = [""] * len(trained)
    wanted = [i for i, one in enumerate(trained) if one.sort != "format"]
    if not wanted:
        return nothing, NOT_ASKED
    known = TEMPLATES["translate"]["known"]
    tried = follow(engine, renderer, "translate", [english for english, _ in known], settings)
    right = sum(
        ratio(given.casefold(), french.casefold()) >= ALIKE for given, (_, french) in zip(tried, known, strict=True)
    )
    if right < ENOUGH:
        return nothing, CANNOT.format(right=right, n=len(known))
    for i, text in zip(
        wanted, follow(engine, renderer, "translate", [trained[i].question for i in wanted], settings), strict=True
    ):
        nothing[i] = "" if words_of(text) == words_of(trained[i].question) else text
    return nothing, "the untuned model gave the question back as it was"


def generate(
    engine: Engine, renderer: Renderer, adapter: str | None, prompts: Sequence[Sequence[int]],
    settings: SamplingSettings, longest: Sequence[int],
) -> list[str]:  # fmt: skip
    """Greedy text behind each prompt, at most so many tokens of each."""
    if not prompts:
        return []
    chosen = SamplingSettings(max(longest), settings.stop_ids, seed=settings.seed, batch_size=settings.batch_size)
    answers = engine.sample(adapter, prompts, chosen)
    cut = (one.token_ids[:most] for one, most in zip(answers, longest, strict=True))
    return [str(renderer.tokenizer.decode(ids, skip_special_tokens=True)) for ids in cut]
