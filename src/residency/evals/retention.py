"""Forgetting, measured: how far a tuned model is from its base on prompts that are not the task's.

The base answers general prompts itself (T = 1, so that its whole range shows, and not its favourite words alone), and
what it expected at every token is remembered. KL(base || tuned) over those answers is what forgetting follows (Shenfeld
et al. 2025, "RL's Razor", arXiv 2509.04259): a forward pass, no judge, and no second model in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from residency import durable
from residency.data.messages import Message, Origin, Rendered
from residency.data.render import Renderer
from residency.engine.divergence import TOP_K, Distributions, Remembered
from residency.engine.engine import Engine
from residency.engine.sampling import SamplingSettings
from residency.errors import ResourceError
from residency.evals.stats import bootstrap_ratio
from residency.models.starter import cache_folder
from residency.progress import track
from residency.records import Interval, PromptDivergence

T = TypeVar("T")
PROMPTS = Path(__file__).with_name("anchors")
LONGEST_ANSWER = 64
ASKED_AT_ONCE = 64
"""Prompts; part of what is cached, since what is drawn depends on it."""
SHARED_WORDS = 8
"""A prompt that shares so many words in a row with the task is part of the task."""
TEXT_TOKENS, WINDOW_TOKENS = 20_000, 512
"""How much of a general text is read, and in what pieces."""


@dataclass(frozen=True, slots=True)
class GeneralPrompt:
    topic: str
    format: str
    """`question`, `task`, `list` or `talk`."""
    prompt: str


def general_prompts(kind: str) -> list[GeneralPrompt]:
    """`anchors`, which are only measured on, or `replay`, which are only trained on; never the same prompt."""
    lines = (PROMPTS / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [GeneralPrompt(**json.loads(line)) for line in lines]


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many of them, evenly over all: the prompts are ordered by topic and format."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def without_overlap(prompts: Sequence[str], task_texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """The prompts that share no SHARED_WORDS words in a row (shorter ones: all of theirs) with the task; the others."""
    grams = {gram for text in task_texts for n in (4, 5, 6, 7, SHARED_WORDS) for gram in ngrams(text, n)}
    kept: list[str] = []
    left_out: list[str] = []
    for prompt in prompts:
        length = min(SHARED_WORDS, max(4, len(words(prompt))))
        (left_out if grams & ngrams(prompt, length) else kept).append(prompt)
    return kept, left_out


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(len(found) - n + 1)}


# ---- what the base says


def remember(
    engine: Engine,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    *,
    longest: int = LONGEST_ANSWER,
    seed: int = 0,
) -> list[Remembered]:
    """`remember_sets` of one."""
    return remember_sets(engine, renderer, [prompts], longest=longest, seed=seed)[0]


def remember_sets(
    engine: Engine,
    renderer: Renderer,
    sets: Sequence[Sequence[Sequence[int]]],
    *,
    longest: int = LONGEST_ANSWER,
    seed: int = 0,
) -> list[list[Remembered]]:
    """The base's own answers to sets of prompts of tokens, and what it expected at each of their tokens.

    The same for the same base, prompts and seed: each set is kept in the user's cache, and those that are not there yet
    are answered together. Call before anything is trained.
    """
    settings = SamplingSettings(longest, renderer.stop_ids, temperature=1.0, seed=seed, batch_size=ASKED_AT_ONCE)
    if not any(sets):
        return [[] for _ in sets]
    base = engine.base_fingerprint()
    paths = [
        cache_folder() / "retention" / f"{cache_key(base, engine.autocast, prompts, settings)}.npz" for prompts in sets
    ]
    known = [read_cached(path) if prompts else [] for prompts, path in zip(sets, paths, strict=True)]
    asked = [place for place, one in enumerate(known) if one is None]
    answers = iter(answered_by_base(engine, renderer, [sets[place] for place in asked], settings))
    for place in asked:
        known[place] = [next(answers) for _ in sets[place]]
        write_cached(paths[place], known[place] or [])
    return [one or [] for one in known]


def answered_by_base(
    engine: Engine, renderer: Renderer, sets: Sequence[Sequence[Sequence[int]]], settings: SamplingSettings
) -> list[Remembered]:
    """All prompts of all sets in a row, each drawn by its number within its own set."""
    prompts = [prompt for one in sets for prompt in one]
    if not prompts:
        return []
    numbers = tuple(number for one in sets for number in range(len(one)))
    with track("the base answers general prompts", len(prompts)) as advance:
        answers = engine.sample(None, prompts, replace(settings, numbers=numbers))
        advance(len(prompts))
    end = [renderer.stop_ids[0]] if renderer.stop_ids else []
    rows = [
        answered(prompt, answer.token_ids + (end if answer.finished else []), number + 1)
        for prompt, answer, number in zip(prompts, answers, numbers, strict=True)
    ]
    return [Remembered(row, rounded(base)) for row, base in zip(rows, engine.distributions(None, rows), strict=True)]


def prompt_tokens(renderer: Renderer, prompt: str) -> list[int]:
    """As a user turn; for a base model without a chat template, the text alone."""
    if renderer.tokenizer.chat_template:
        return renderer.prompt_ids([Message(role="user", content=prompt)])
    return list(renderer.tokenizer(prompt, verbose=False)["input_ids"])


def answered(prompt: Sequence[int], answer: Sequence[int], number: int) -> Rendered:
    ids = np.array([*prompt, *answer], dtype=np.int32)
    return Rendered(ids, np.arange(len(ids)) >= len(prompt), Origin("anchors", number))


def rounded(base: Distributions) -> Distributions:
    """As it is stored, so that a fresh and a cached one are the same to the bit."""
    return Distributions(
        base.token_ids,
        base.logprobs.astype(np.float16).astype(np.float32),
        base.log_tail.astype(np.float16).astype(np.float32),
    )


def cache_key(
    base: str, autocast: torch.dtype | None, prompts: Sequence[Sequence[int]], settings: SamplingSettings
) -> str:
    what = [base, str(autocast), [list(map(int, p)) for p in prompts], TOP_K]
    return hashlib.sha256(json.dumps([*what, repr(settings)]).encode()).hexdigest()[:32]


def read_cached(path: Path) -> list[Remembered] | None:
    """None where nothing is cached, or it cannot be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            ids, logprobs, tail = stored["ids"], stored["logprobs"], stored["log_tail"]
            tokens, starts, lengths = stored["tokens"], stored["starts"], stored["lengths"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    rows: list[Remembered] = []
    token = target = 0
    for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True), 1):
        row = answered(tokens[token : token + start].tolist(), tokens[token + start : token + length].tolist(), number)
        part = slice(target, target := target + length - start)
        base = Distributions(ids[part], logprobs[part].astype(np.float32), tail[part].astype(np.float32))
        rows.append(Remembered(row, base))
        token += length
    return rows


def write_cached(path: Path, rows: Sequence[Remembered]) -> None:
    """Where the cache cannot be written, the next run asks the base again."""
    file = io.BytesIO()
    np.savez(
        file,
        ids=np.concatenate([one.base.token_ids for one in rows]),
        logprobs=np.concatenate([one.base.logprobs for one in rows]).astype(np.float16),
        log_tail=np.concatenate([one.base.log_tail for one in rows]).astype(np.float16),
        tokens=np.concatenate([one.row.input_ids for one in rows]),
        starts=np.array([int(one.row.trained.argmax()) for one in rows]),
        lengths=np.array([len(one.row) for one in rows]),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_bytes(path, file.getvalue())
    except (OSError, ResourceError):
        return


# ---- how far the tuned model is from it


def divergence_of(engine: Engine, adapter: str | None, rows: Sequence[Remembered]) -> tuple[Interval, list[float]]:
    """Nats per token over all rows, with limits over the prompts; and each prompt's own."""
    found = engine.divergences(adapter, rows)
    totals, sizes = [float(each.sum(dtype=np.float64)) for each in found], [float(len(each)) for each in found]
    return bootstrap_ratio(totals, sizes), [total / size for total, size in zip(totals, sizes, strict=True)]


def measure(
    engine: Engine, adapter: str | None, sets: Mapping[str, Sequence[Remembered]], decode: Any
) -> tuple[dict[str, Interval], list[PromptDivergence]]:
    """Every set's divergence and every prompt's; `decode` turns the tokens of a prompt into text."""
    intervals: dict[str, Interval] = {}
    prompts: list[PromptDivergence] = []
    for name, rows in sets.items():
        if rows:
            intervals[name], each = divergence_of(engine, adapter, rows)
            prompts += [
                PromptDivergence(set=name, prompt=decode(one.row.input_ids[~one.row.trained]), tokens=len(one.base),
                                 divergence=value)
                for one, value in zip(rows, each, strict=True)
            ]  # fmt: skip
    return intervals, prompts


def text_windows(renderer: Renderer, text: str) -> list[Rendered]:
    """Pieces of WINDOW_TOKENS tokens in which every token but the first is predicted; TEXT_TOKENS at most."""
    ids = np.array(renderer.tokenizer(text, verbose=False)["input_ids"][:TEXT_TOKENS], dtype=np.int32)
    pieces = [ids[start : start + WINDOW_TOKENS] for start in range(0, len(ids), WINDOW_TOKENS)]
    return [
        Rendered(piece, np.arange(len(piece)) > 0, Origin("text", i))
        for i, piece in enumerate(pieces)
        if len(piece) > 1
    ]


def losses_of(engine: Engine, adapter: str | None, rows: Sequence[Rendered]) -> NDArray[np.float64]:
    """The summed negative log-likelihood of each row, in nats."""
    return np.array([-one.logprobs.sum(dtype=np.float64) for one in engine.logprobs(adapter, rows)])


def perplexity_ratio(before: NDArray[np.float64], after: NDArray[np.float64], rows: Sequence[Rendered]) -> Interval:
    """Tuned / base; 1 is unchanged."""
    change = bootstrap_ratio((after - before).tolist(), [float(row.trained.sum()) for row in rows])
    value, low, high = (float(np.exp(each)) for each in (change.value, change.low, change.high))
    return Interval(value=value, low=low, high=high, n=change.n)
