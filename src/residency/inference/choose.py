"""From logits to the next token of each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from residency.inference.rows import Row, Token

COLDEST = 1e-4
"""Temperatures below are greedy: their logits would not fit into a float."""


@torch.no_grad()
def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[Token | None]:
    """logits (rows, vocabulary). None for a row whose logits are no numbers.

    A row's own random number picks from its own distribution, so that its seed gives the same answer in any company.
    """
    logits = logits.float()
    broken = logits.isnan().any(dim=-1).tolist()
    adjusted = _adjusted(logits.clone(), rows)
    chosen = adjusted.argmax(dim=-1)
    warm = [i for i, row in enumerate(rows) if row.manner.temperature >= COLDEST and not broken[i]]
    if warm:
        chosen[warm] = _drawn(adjusted[warm], [rows[i] for i in warm])
    tokens: list[Token | None] = [Token(id) for id in chosen.tolist()]
    told = [i for i, row in enumerate(rows) if row.manner.top_logprobs is not None]
    if told:
        counts = [rows[i].manner.top_logprobs or 0 for i in told]
        for i, token in zip(told, describe(logits[told], chosen[told], counts), strict=True):
            tokens[i] = token
    return [None if bad else token for bad, token in zip(broken, tokens, strict=True)]


@torch.no_grad()
def describe(logits: torch.Tensor, chosen: torch.Tensor, counts: Sequence[int]) -> list[Token]:
    """The chosen tokens (rows,) with their log-probabilities, and each row's `counts` likeliest ones."""
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(-1, chosen[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(max(counts), dim=-1)
    return [
        Token(id, 0, logprob, tuple(zip(likely[:count], known[:count], strict=True)))
        for id, logprob, likely, known, count in zip(
            chosen.tolist(), own, ids.tolist(), values.tolist(), counts, strict=True
        )
    ]


def _adjusted(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """Penalties and biases, then what must not be chosen."""
    for one, row in zip(logits, rows, strict=True):
        manner = row.manner
        if row.counts and (manner.presence_penalty or manner.frequency_penalty):
            ids = torch.tensor(list(row.counts), device=logits.device)
            times = torch.tensor(list(row.counts.values()), device=logits.device)
            one[ids] -= manner.presence_penalty + times * manner.frequency_penalty
        if manner.logit_bias:
            ids = torch.tensor(list(manner.logit_bias), device=logits.device)
            one[ids] += torch.tensor(list(manner.logit_bias.values()), device=logits.device)
        if manner.vocabulary is not None:
            one[manner.vocabulary :] = float("-inf")
        if row.constraint is not None:
            allowed = torch.from_numpy(row.constraint.allowed(len(one))).to(logits.device)
            one.masked_fill_(~allowed, float("-inf"))
    return logits


def _drawn(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    temperatures = torch.tensor([row.manner.temperature for row in rows], device=logits.device)
    probabilities = (logits / temperatures[:, None]).softmax(dim=-1)
    top_p = torch.tensor([row.manner.top_p for row in rows], device=logits.device)
    if bool((top_p < 1).any()):
        ordered, order = probabilities.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(dim=-1) - ordered > top_p[:, None]] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    sums = probabilities.double().cumsum(dim=-1)
    drawn = torch.tensor([row.random.random() for row in rows], dtype=torch.float64, device=logits.device)
    places = torch.searchsorted(sums, drawn[:, None] * sums[:, -1:], right=True)[:, 0]
    return places.clamp(max=logits.shape[1] - 1)
