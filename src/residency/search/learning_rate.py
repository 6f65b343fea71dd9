"""`train.learning_rate: search`: the rate found in one go, as the first part of the run it is for.

The winner goes on from where the search left it: what comes out is the run that its rate alone would have made.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from residency import durable
from residency.config.learning_rate import learning_rate
from residency.config.model import Full, ResolvedConfig
from residency.config.resolve import nothing_to_search_by
from residency.engine.adapters import peft_config
from residency.engine.checkpoint import Checkpoints
from residency.engine.engine import Engine
from residency.methods.keep import NOTHING, Keep
from residency.methods.row_losses import FILE
from residency.records import RunFolder, SearchResult
from residency.search.arms import Arm
from residency.search.ends import is_begun
from residency.search.halving import ENOUGH_HELD_OUT, Search, note_fate, search_side_by_side
from residency.search.ladder import ladder
from residency.search.race import search_one_by_one
from residency.stages.prepare import Prepared
from residency.wording import counted

RESULT = "search.json"
SAID_AGAIN = ("resumed", "best_restored")
"""By the run, when it goes on from where its rate was found."""


def with_learning_rate(prepared: Prepared, engine: Engine, run: RunFolder, keep: Keep = NOTHING) -> Prepared:
    """`prepared` with a number for its learning rate; a search that was interrupted goes on.

    `keep` is what the run does against forgetting: candidates replay as the run does, and one that keeps a budget which
    the user has set goes before others. The winner's checkpoint and metrics stand in the run folder afterwards, so that
    training goes on from them. Raises ConfigError without held-out rows, Interrupted, TrainingError.
    """
    resolved = prepared.resolved
    if resolved.train.learning_rate != "search":
        return prepared
    record = RunFolder(run / "search")
    if not (record / RESULT).exists():
        find(prepared, engine, run, keep)
    found = record.read(RESULT, SearchResult)
    train = resolved.train.model_copy(update={"learning_rate": found.chosen})
    resolved = resolved.model_copy(update={"train": train})
    reasons = prepared.reasons | {"train.learning_rate": found.reason}
    durable.write_json(run / "resolved.json", {"config": resolved.model_dump(mode="json"), "reasons": reasons})
    for folder in (*(record / name for name in ("checkpoints", "start", "now", "best")),
                   *record.path.glob("*/checkpoints")):  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
    return replace(prepared, resolved=resolved, reasons=reasons)


def find(prepared: Prepared, engine: Engine, run: RunFolder, keep: Keep) -> None:
    """Leaves the winner's checkpoint, its metrics and, last, the result in the run folder."""
    require_held_out(prepared, run)
    resolved = prepared.resolved
    full = isinstance(resolved.adapter, Full)
    base = str(engine.model.name_or_path)

    def add_adapters(names: Sequence[str]) -> None:
        if not isinstance(resolved.adapter, Full):
            config = peft_config(resolved.adapter, base, prepared.template_token_ids)
            engine.add_adapters(names, config, seed=resolved.train.seed)

    search = Search(engine, prepared.rows, prepared.held_out, resolved.train, run, add_adapters, keep)
    search.record.path.mkdir(exist_ok=True)
    centre, why = formula(resolved, engine, search.total)
    rates = ladder(centre)
    winner = search_one_by_one(search, rates) if full else search_side_by_side(search, rates)
    promote(search, winner)
    note_fate(search, winner, "chosen")
    result = summarise(search, winner, why)
    search.record.write(RESULT, result)
    if not full:
        engine.drop_adapter(winner.name)
    if winner.rate in (rates[0], rates[-1]):
        end = "lowest" if winner.rate == rates[0] else "highest"
        run.say("edge_of_search", f"the chosen learning rate {winner.rate:.2g} is the {end} candidate: one beyond it "
                f"may be better still", level="warning", learning_rate=winner.rate)  # fmt: skip
    run.say("search", result.reason, learning_rate=result.chosen, price=result.price, seconds=result.seconds,
            other_tokens=result.other_tokens)  # fmt: skip


def promote(search: Search, winner: Arm) -> None:
    """Leaves the winner where training goes on from: its checkpoints, its metrics and its rows' losses, as if it had
    trained alone. They are copied, so that a kill costs nothing."""
    if is_begun(winner):
        shutil.copytree(winner.record / "checkpoints", search.run / "checkpoints", dirs_exist_ok=True)
        for event in winner.record.events():
            if event.kind not in SAID_AGAIN:
                search.run.append("events.jsonl", event)
    else:
        checkpoints = Checkpoints(search.run, search.settings.keep_checkpoints)
        checkpoints.save(winner.state, lambda folder: search.engine.save(winner.engine_name, folder))
    durable.write_text(search.run / "metrics.jsonl", (winner.record / "metrics.jsonl").read_text())
    shutil.copyfile(winner.record / FILE, search.run / FILE)


def require_held_out(prepared: Prepared, run: RunFolder) -> None:
    count = len(prepared.held_out)
    if not count:
        raise nothing_to_search_by()  # all were too long
    if count < ENOUGH_HELD_OUT:
        run.say("few_held_out", f"the search compares learning rates on {counted(count, 'held-out row')}; with fewer "
                f"than {ENOUGH_HELD_OUT} chance decides between near ones", level="warning", rows=count)  # fmt: skip


def formula(resolved: ResolvedConfig, engine: Engine, steps: int) -> tuple[float, str]:
    """The middle of the ladder, and why."""
    return learning_rate(
        resolved.adapter.model_dump(),
        hidden_size=engine.model.config.get_text_config().hidden_size,
        parameters=engine.model.num_parameters(),
        steps=steps,
        batch_size=resolved.train.batch_size,
        multiplier=resolved.train.learning_rate_multiplier,
    )


def summarise(search: Search, winner: Arm, why: str) -> SearchResult:
    fates = sorted(search.fates.values(), key=lambda one: one.learning_rate)
    other = search.extra_tokens + sum(one.tokens for one in fates if one.name != winner.name)
    whole = winner.state.tokens / winner.state.step * search.total
    price = 1 + other / whole
    how = ("the better of the last two in the end" if is_begun(winner)
           else "the lowest within one standard error of the best when the last were compared")  # fmt: skip
    reason = (
        f"The search chose {winner.rate:.2g} among {len(fates)} rates from {fates[0].learning_rate:.2g} to "
        f"{fates[-1].learning_rate:.2g}: {how}. "
        f"{why} The others cost {other:,} tokens: the run passes {price:.2f} times as many as without a search."
    )
    return SearchResult(chosen=winner.rate, reason=reason, candidates=fates, other_tokens=other, price=price,
                        seconds=search.seconds)  # fmt: skip
