"""The generalisation card of a run: planned with the untuned model, measured with the tuned one."""

from __future__ import annotations

from residency.data.audit.schema import languages
from residency.data.messages import Example
from residency.evals import card
from residency.evals.card_records import ProbeSet
from residency.evals.card_summary import advice
from residency.stages.prepare import Prepared
from residency.stages.session import Session
from residency.wording import counted

PLANNED, MEASURED = "eval/probes.json", "eval/card.json"


def plan_card(session: Session, prepared: Prepared) -> None:
    """Writes the card's prompts and what the untuned model makes of them; a resumed run keeps its first."""
    settings, run = prepared.resolved.eval, session.run
    if not settings.probes or (run / PLANNED).exists():
        return
    found = card.plan(asked(session), trained_examples(prepared), settings.probes, seed=prepared.resolved.train.seed)
    if found is None:
        run.say("no_card", f"no generalisation card: fewer than {card.FEWEST} training rows end with an answer to a "
                "user's question")  # fmt: skip
        return
    run.write(PLANNED, found)
    run.say("probes", f"the card asks about {len(found.behaviours)} of {counted(found.rows, 'training row')}, in "
            f"{counted(len(found.probes), 'prompt')}", behaviours=[one.row for one in found.behaviours])  # fmt: skip
    language = languages([" ".join(one.question for one in found.behaviours)])[0]
    if language not in ("", "en"):
        run.say("card_in_english", f"the words that the card puts around your prompts are English, and the prompts are "
                f"not (`{language}`): read its other kinds as prompts of two languages", level="warning")  # fmt: skip


def measure_card(session: Session, prepared: Prepared) -> None:
    """Where the behaviour holds; `session` is the tuned one. Writes card.json."""
    settings, run = prepared.resolved.eval, session.run
    if not (run / PLANNED).exists():
        return
    found = card.measure(asked(session), run.read(PLANNED, ProbeSet), trained_examples(prepared), settings.graders,
                         most=settings.probes, seed=prepared.resolved.train.seed)  # fmt: skip
    run.write(MEASURED, found)
    run.say("card", found.sentence)
    if warning := advice(found):
        run.say("context_dependent", warning, level="warning")


def asked(session: Session) -> card.Asked:
    return card.Asked(session.engine, session.adapter, session.renderer, session.settings())


def trained_examples(prepared: Prepared) -> list[Example]:
    """Those of the training rows that were not left out for their length."""
    origins = {row.origin for row in prepared.rows}
    return [example for example in prepared.train_examples if example.origin in origins]
