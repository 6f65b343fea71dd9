"""Linear layers in bitsandbytes' 4-bit NF4 with doubly quantised scales (arXiv 2305.14314)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def nf4(compute_dtype: torch.dtype) -> Any:
    """transformers' settings to hold a model's linears so while it is loaded."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def hold_in_nf4(model: PreTrainedModel) -> None:
    """The same for a model that is there already; its output layer stays as it is."""
    import bitsandbytes as bnb
    from torch import nn

    output = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, one in parent.named_children():
            if type(one) is not nn.Linear or one is output:
                continue
            held = bnb.nn.Linear4bit(
                one.in_features, one.out_features, bias=one.bias is not None, compute_dtype=one.weight.dtype,
                compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            weight: Any = bnb.nn.Params4bit(
                one.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=held
            )
            held.weight, held.bias = weight.to(one.weight.device), one.bias
            setattr(parent, name, held)
    keep_differentiable(model)


def keep_differentiable(model: PreTrainedModel) -> None:
    """In evaluation mode bitsandbytes' CPU layers turn their weights into a layout that has no gradient, for good."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
