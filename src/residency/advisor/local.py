"""Asks a model on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from residency.advisor.notebook import Ask, Question
from residency.config.model import Model
from residency.engine.engine import Engine
from residency.engine.memory import is_out_of_memory
from residency.engine.sampling import SamplingSettings
from residency.errors import ResourceError
from residency.evals.run import Completion
from residency.models.load import load_model
from residency.models.processor import busy_cores, cpu_cores
from residency.wording import counted

if TYPE_CHECKING:
    from residency.data.render import Renderer


def local_model(
    model: Model, renderer: Renderer, *, max_new_tokens: int, batch_size: int, seed: int
) -> tuple[Ask, Callable[[Question], bool]]:
    """The untuned model as it is served: bf16 on a GPU, fp32 on a processor. Also tells what its context holds.

    Raises ModelError, ResourceError.
    """
    cuda = torch.cuda.is_available()
    dtype, device = (torch.bfloat16, torch.device("cuda")) if cuda else (torch.float32, torch.device("cpu"))
    torch.set_num_threads(cpu_cores() - min(round(busy_cores()), cpu_cores() - 1))
    engine = Engine(load_model(model, dtype=dtype, device=device))

    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Completion]]:
        prompts = [renderer.prompt_ids(question.messages, question.tools) for question in questions]
        # Like lengths together; the order does not depend on what is known already, so that a resumed advice goes on
        # with the batches, and so with the samples, of one that was never stopped.
        order = sorted(range(len(prompts)), key=lambda i: (questions[i].temperature, len(prompts[i]), prompts[i]))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            settings = SamplingSettings(
                max_new_tokens, renderer.stop_ids, temperature=questions[batch[0]].temperature, batch_size=batch_size,
                seed=_seed(seed, prompts[batch[0]], questions[batch[0]].sample),
            )  # fmt: skip
            yield from zip(batch, _answer(engine, renderer, [prompts[i] for i in batch], settings), strict=True)

    def fits(question: Question) -> bool:
        length = len(renderer.prompt_ids(question.messages, question.tools)) + max_new_tokens
        return length <= int(engine.model.config.get_text_config().max_position_embeddings)

    return ask, fits


def _answer(
    engine: Engine, renderer: Renderer, prompts: list[list[int]], settings: SamplingSettings
) -> list[Completion]:
    try:
        sampled = engine.sample(None, prompts, settings)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"memory ran out generating {counted(len(prompts), 'answer')} at once", code="out_of_memory",
            param="batch_size", hint="go on with --set batch_size=8; what was answered is kept",
        ) from error  # fmt: skip
    decode = renderer.tokenizer.decode
    return [
        Completion(decode(one.token_ids, skip_special_tokens=True), one.finished, len(one.token_ids)) for one in sampled
    ]


def _seed(seed: int, prompt: Sequence[int], sample: int) -> int:
    digest = hashlib.sha256(f"{seed} {sample} {list(prompt)}".encode()).digest()
    return int.from_bytes(digest[:4])
