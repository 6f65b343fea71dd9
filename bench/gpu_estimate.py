"""Compares what `residency estimate` says with what a GPU measured: gpu_estimate.py ROWS.jsonl [OUT.json]

ROWS.jsonl is the output of gpu_sft.py; no GPU is needed here. Memory is the allocator's peak while training.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).parent))
from gpu_models import FAMILIES, SHAPES

from residency.config.model import Full, Lora, Qlora
from residency.engine.fused import unfit
from residency.engine.speed import LARGEST_GRAPH_PARAMETERS
from residency.models.facts import model_facts
from residency.models.memory import Passes, fixed_bytes, kept_bytes_per_token, working_bytes


def predicted_gib(row: str, tokens: int) -> float:
    name, mix, precision, _, *more = row.split(":")
    options = dict(part.split("=") for part in more if "=" in part)
    changes = {"num_hidden_layers": int(options["layers"])} if "layers" in options else {}
    family = next((config for part, config in FAMILIES.items() if part in name), LlamaConfig)
    config = family(max_position_embeddings=131072, **(SHAPES[name] | changes))
    facts = model_facts(config)
    adapter: Any = Full() if "full" in options else Qlora(rank=16) if precision == "nf4" else Lora(rank=16)
    fused = "full" not in options and options.get("fused") != "off" and unfit(config) is None
    passes = Passes(
        2,
        fused=fused,
        fp8=precision == "fp8",
        bf16_ends=int(options.get("ends", 0)),
        graphs=fused and facts.parameters <= LARGEST_GRAPH_PARAMETERS and options.get("offload") != "on",
        offload=options.get("offload") == "on",
        layers_again=int(options.get("again", 0)),
    )
    trained = tokens // 2 if mix == "B" else tokens
    parts = fixed_bytes(facts, adapter, passes)
    parts["activations"] = tokens * kept_bytes_per_token(facts, adapter, passes)
    parts["working"] = working_bytes(facts, adapter, passes, tokens, trained)
    return sum(parts.values()) / 2**30


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    found = []
    for row in (one for one in rows if "peak_gib" in one and one["row"].split(":")[3] == "1"):
        said = predicted_gib(row["row"], row["tokens_per_step"])
        found.append({"row": row["row"], "gib": row["peak_gib"], "estimate": round(said, 2),
                      "error": round(said / row["peak_gib"] - 1, 3)})  # fmt: skip
        line = f"{row['row']:52} {row['peak_gib']:7.2f} GiB {said / row['peak_gib'] - 1:+.1%}"
        if "trial_ms" in row:
            found[-1] |= {"ms": row["step_ms"], "estimate_ms": row["trial_ms"],
                          "error_ms": round(row["trial_ms"] / row["step_ms"] - 1, 3)}  # fmt: skip
            line += f" {row['step_ms']:9.2f} ms {found[-1]['error_ms']:+.1%}"
        print(line)
    worst = {key: max((math.fabs(one[key]) for one in found if key in one), default=None)
             for key in ("error", "error_ms")}  # fmt: skip
    print(f"largest errors {worst} over {len(found)} rows")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps({"rows": found, "largest": worst}, indent=1) + "\n")


if __name__ == "__main__":
    main()
