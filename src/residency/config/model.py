"""The run file, field by field: `residency train run.yaml` accepts this and nothing else."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeAlias

from pydantic import Field

from residency.config.graders import Grader
from residency.config.methods import Method, Sft
from residency.config.section import A, Auto, Final, Section

AUTO: Any = "auto"
DEFAULTS: Any = {}


class Model(Section):
    id: str = Field(min_length=1)
    """The starter model `smollm2-135m`, a Hub id such as `Qwen/Qwen3-4B`, or a local folder."""
    revision: str | None = None
    """The Hub revision (branch, tag or commit)."""
    chat_template: str | None = None
    """For a model without a chat template, or instead of its own: `chatml`, `llama3`, or a Jinja file."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you ask for it."""


class Data(Section, Generic[A]):
    train: str = Field(min_length=1)
    """The training rows: JSONL, JSON, CSV or Parquet, or `hub:org/name[:split]`."""
    eval: str | None = "10%"
    """Held-out rows that choose the best checkpoint: a file, a share of the training rows, or null for none."""
    test: str | None = None
    """Untouched rows that measure the gain; generated for and graded, never trained on or chosen by."""
    format: Literal["chat", "prompt_completion", "instruction", "sharegpt", "text"] | A = AUTO
    """The row format; `auto` detects it and says so."""
    max_length_tokens: Annotated[int, Field(ge=8)] | A = AUTO
    """Longest row in tokens, prompt and answer together."""
    over_long: Literal["drop", "cut_prompt", "cut_answer", "refuse"] = "drop"
    """What happens to a longer row: dropped with a count, cut at the front, cut at the end, or an error."""
    train_on: Literal["all_answers", "last_answer"] = "all_answers"
    """Which assistant turns carry loss; a turn's own `weight` (0 or 1) goes first."""
    strict: bool = False
    """Refuse to train where `residency check` has a warning, not only where it has an error."""


class Lora(Section, Generic[A]):
    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1)] | A = AUTO
    """Rank of the update matrices."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    targets: str | list[str] = "all-linear"
    """`all-linear`, or the names of the modules that get an adapter."""
    dora: bool = False
    """Weight-decomposed LoRA (arXiv 2402.09353), through PEFT's own forward."""


class Qlora(Lora[A], Generic[A]):
    kind: Literal["qlora"] = "qlora"  # type: ignore[assignment]  # the discriminator of the union
    """LoRA on a base held in 4-bit NF4 (arXiv 2305.14314)."""


class AutoAdapter(Lora[A], Generic[A]):
    kind: Literal["auto"] = "auto"  # type: ignore[assignment]  # the discriminator of the union
    """Full fine-tuning, LoRA or QLoRA, by memory, model and data; the other keys hold where it is an adapter."""


class Full(Section):
    kind: Literal["full"] = "full"
    """Every weight is trained."""


class Peft(Section):
    kind: Literal["peft"] = "peft"
    type: str
    """Any other PEFT method by its PEFT name, for example IA3, VERA, LOHA, OFT."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The arguments of that method's PEFT config."""


class Train(Section, Generic[A]):
    epochs: Annotated[float, Field(gt=0)] | A = AUTO
    """Passes over the training rows."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many optimizer steps, whatever `epochs` says."""
    batch_size: Annotated[int, Field(ge=1)] | A = AUTO
    """Rows per optimizer step."""
    micro_batch_tokens: Annotated[int, Field(ge=8)] | A = AUTO
    """Tokens that pass through the model at once; changes speed and memory, never the result."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["search"] | A = AUTO
    """Peak learning rate; `search` trains eight candidates side by side and goes on with the best."""
    learning_rate_multiplier: Annotated[float, Field(gt=0)] = 1.0
    """Scales the rate that `auto` comes to and the candidates of a search; a rate that is given stays as it is."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """How the rate falls after warm-up; `wsd` stays constant and decays over the last fifth."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps over which the rate rises from zero (20 steps at most)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """The gradient is scaled down to this norm; null for no limit."""
    seed: int = 0
    """Fixes the order of the rows, the adapter's start and the dropout."""
    eval_every_steps: Annotated[int, Field(ge=1)] | Literal["epoch"] | A = AUTO
    """Steps between two measurements of the held-out loss, or `epoch` for one at the end of each epoch."""
    patience: Annotated[int, Field(ge=1)] | None = 3
    """Stop after this many measurements without a better held-out loss, or after two that say OVERFIT; null to train to
    the end."""
    save_every_steps: Annotated[int, Field(ge=1)] | Literal["epoch"] | A = AUTO
    """Steps between two checkpoints, or `epoch` for one at the end of each epoch."""
    save_every_minutes: Annotated[float, Field(gt=0)] = 10.0
    """A checkpoint is written after this time even if its step has not come."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 3
    """Newest checkpoints kept, beside the best one."""


class Retention(Section, Generic[A]):
    budget: Annotated[float, Field(gt=0)] | A = AUTO
    """How much may be forgotten: KL(base, tuned) in nats per token on general prompts, over the base's own answers."""
    replay: bool | A = AUTO
    """Train on the base's own answers to general prompts beside the rows, to keep what it knows."""
    stop: bool | A = AUTO
    """Stop when two measurements in a row are over the budget, and keep the best weights from before."""
    scale: Literal["propose", "take"] = "propose"
    """Where the tuned model is over the budget: only propose a smaller adapter scale, or take it for the result."""
    anchors: Annotated[int, Field(ge=0, le=128)] | A = AUTO
    """General prompts that forgetting is measured on, and as many others that are replayed; 0 measures none."""
    answer_tokens: Annotated[int, Field(ge=1, le=256)] | A = AUTO
    """Longest answer of the base to each of them."""
    must_keep: list[str] = Field(default_factory=list)
    """Prompts of your own whose answers must stay inside the budget too."""
    canaries: Annotated[int, Field(ge=0, le=64)] = 0
    """So many made-up secrets are trained on with the rows, to measure how much is learned by heart (8 will do). The
    result has seen them then."""
    general_text: str | None = None
    """A text file whose perplexity is measured before and after."""


class Evaluation(Section, Generic[A]):
    graders: list[Grader] | A = AUTO
    """How an answer is scored; `auto` takes json_match where every reference is JSON, else string_check."""
    few_shot: Annotated[int, Field(ge=0)] = 0
    """Also measure the untuned model with this many training rows as examples in its prompt."""
    more_tests: dict[str, str] = Field(default_factory=dict)
    """Further test files by name, each measured and reported beside `data.test`."""
    suites: list[str] = Field(default_factory=list)
    """Tasks of lm-evaluation-harness, such as `arc_easy`, measured before and after to see what was kept."""
    suite_rows: Annotated[int, Field(ge=1)] = 500
    """Rows of each task of a suite; about 470 show that accuracy fell by less than 2 points."""
    max_new_tokens: Annotated[int, Field(ge=1)] | A = AUTO
    """Longest generated answer in tokens."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Prompts generated for at once."""
    probes: Annotated[int, Field(ge=0, le=30)] | A = AUTO
    """Trained rows that the generalisation card asks about, in ten kinds of prompts; 0 makes no card."""


class Speed(Section, Generic[A]):
    precision: Literal["fp32", "bf16"] | A = AUTO
    """Arithmetic of the forward and backward pass; `auto` measures which is faster here."""
    packing: bool = True
    """Put several rows into one pass, each attending only to itself; changes speed, never the result."""
    share_prefix: bool = True
    """Compute what the rows of a pass begin with (a system turn) once; changes speed, never the result."""
    fused: bool = True
    """On a GPU, train plain LoRA on Llama-like models in passes written for it; the same result up to rounding."""
    kernels: bool = True
    """In fused passes of large models on a Hopper GPU, use the kernels of flash-attn-4 and quack-kernels if installed
    (`pip install 'residency[hopper]'`); the same result up to rounding."""
    fp8: bool = False
    """Hold the frozen base in FP8 (needs the fused passes). Changes the numbers a little, so never automatic."""
    first_last_layers_bf16: Annotated[int, Field(ge=0)] = 0
    """With `fp8`, so many of the first layers and of the last stay in bf16: gradients nearer to the base's own, at the
    speed and memory of bf16 in these layers."""
    recompute_layers: Annotated[int, Field(ge=0)] | A = AUTO
    """Layers whose activations are computed again in the backward pass instead of kept: less memory, more time, the
    same result. `auto` takes as many as memory asks for."""
    offload: bool | A = AUTO
    """Hold what recomputed layers keep, their inputs, in the host's memory until the backward pass: the same result.
    `auto` does where the passes do not fit into a GPU's memory with all layers recomputed."""
    compile: bool | A = AUTO
    """Where the fused passes do not serve, compile the model's layers with torch: the same result up to rounding, which
    is checked, and dropped where it is not. `auto` compiles on a GPU, for runs long enough to get the time back."""
    threads: Annotated[int, Field(ge=1)] | A = AUTO
    """CPU threads. The rows of a step are shared out between them; where all weights are trained, each operation is."""


class Run(Section, Generic[A]):
    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The run's folder under `runs/`."""
    model: Model
    data: Data[A]
    method: Method = Field(default=Sft())
    adapter: Lora[A] | Qlora[A] | AutoAdapter[A] | Full | Peft = Field(
        default=DEFAULTS | {"kind": "lora"}, discriminator="kind"
    )
    train: Train[A] = Field(default=DEFAULTS)
    retention: Retention[A] = Field(default=DEFAULTS)
    eval: Evaluation[A] = Field(default=DEFAULTS)
    speed: Speed[A] = Field(default=DEFAULTS)


RunConfig: TypeAlias = Run[Auto]
"""What a user writes."""
ResolvedConfig: TypeAlias = Run[Final]
"""What runs: every `auto` replaced by a value."""
