"""Answers of a model inside the engine to the rows of a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from residency.data.messages import Example, Message
from residency.data.render import Renderer
from residency.engine.engine import Engine
from residency.engine.memory import is_out_of_memory
from residency.engine.sampling import SamplingSettings, collect
from residency.errors import ResourceError
from residency.evals.run import Completion
from residency.progress import track
from residency.wording import counted


def answer_all(
    engine: Engine,
    adapter: str | None,
    renderer: Renderer,
    examples: Sequence[Example],
    settings: SamplingSettings,
    worked: Sequence[Message] = (),
) -> list[Completion]:
    """One answer per example, to everything before its last turn. `worked` is put behind the system turn."""
    prompts = [renderer.prompt_ids(with_worked(example.prompt, worked), example.tools) for example in examples]
    going = dict.fromkeys(range(len(prompts)), settings.max_new_tokens)
    with track(f"answering ({adapter or 'base'})", len(prompts)) as advance:

        def watched() -> Iterator[tuple[int, int]]:
            for row, token in engine.stream(adapter, prompts, settings):
                going[row] -= 1
                if token in settings.stop_ids or going[row] == 0:
                    advance()
                yield row, token

        try:
            answers = collect(watched(), len(prompts), settings.stop_ids)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"memory ran out generating {counted(settings.batch_size, 'answer')} at once", code="out_of_memory",
                param="eval.batch_size", hint="lower eval.batch_size, then go on with --resume",
            ) from error  # fmt: skip
    texts = [renderer.tokenizer.decode(answer.token_ids, skip_special_tokens=True) for answer in answers]
    return [
        Completion(text=text, finished=answer.finished, tokens=len(answer.token_ids))
        for text, answer in zip(texts, answers, strict=True)
    ]


def with_worked(prompt: Sequence[Message], worked: Sequence[Message]) -> list[Message]:
    head = 1 if prompt and prompt[0]["role"] in ("system", "developer") else 0
    return [*prompt[:head], *worked, *prompt[head:]]
