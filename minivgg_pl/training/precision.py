"""Which devices compute bfloat16 themselves, and not by emulation that is slower than float32."""

import torch

from minivgg_pl.runs.environment import cpu_flags


def computes_bf16(device_type: str) -> bool:
    """Tell whether this machine's `cuda` device or its CPU multiplies bfloat16 matrices natively."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # AVX-512 BF16, AMX, or Arm's: oneDNN falls back to converting each value on everything less. The processor's own
    # flags, since torch 2.6 does not tell.
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_flags())


def choose_precision(accelerator: str) -> str:
    """Return Lightning's `precision` for a run that wants bfloat16 where it is native.

    Args:
        accelerator: Lightning's name, such as `cpu`, `gpu`, `cuda` or `auto`.
    """
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return "bf16-mixed" if computes_bf16("cuda" if on_gpu else "cpu") else "32-true"
