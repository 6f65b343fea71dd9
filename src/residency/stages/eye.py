"""The model's eye on a run's training rows, before anything is trained."""

from __future__ import annotations

from residency.config.model import RunConfig
from residency.data.audit.findings import Finding
from residency.data.render import Renderer
from residency.engine.engine import Engine
from residency.evals.model_eye import ROWS_ON_CPU, look
from residency.models.chat import fit_embeddings
from residency.models.load import load_model
from residency.stages.facts import device
from residency.stages.model import DTYPES
from residency.stages.prepare import Data


def model_findings(config: RunConfig, data: Data, renderer: Renderer) -> list[Finding]:
    """What the untuned model sees in the rows: a sample of ROWS_ON_CPU of them on a CPU, all on a GPU.

    Raises ModelError, ResourceError.
    """
    here = device()
    slow = here.type == "cpu"
    model = load_model(config.model, dtype=DTYPES["fp32" if slow else "bf16"], device=here)
    fit_embeddings(model, len(renderer.tokenizer))
    return look(Engine(model), renderer, data.train, ROWS_ON_CPU if slow else None, config.train.seed)
