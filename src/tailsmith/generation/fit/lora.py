"""Low-rank adapters (Hu et al. 2021) on a denoiser's attention, by peft; and merging them into its weights."""

from __future__ import annotations

from typing import Any

from tailsmith.errors import UserError

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # the projections of every attention, as in diffusers' own scripts


def add_lora(denoiser: Any, rank: int) -> None:
    """Only the adapters are trained; ValueError without peft."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise UserError(
            "fine-tuning a large generator takes peft, which is not installed: pip install 'tailsmith[finetune]'"
        ) from error
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS)
    denoiser.add_adapter(config)


def merge_lora(denoiser: Any) -> None:
    """Into the weights; the denoiser is what it was, but for their values."""
    from diffusers.utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in denoiser.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
    recurse_remove_peft_layers(denoiser)
    denoiser.peft_config = {}
    denoiser._hf_peft_config_loaded = False
