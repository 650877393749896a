"""Hardware: a Mac's GPU, native bfloat16, and orders in memory."""

import torch
from lightning.pytorch.accelerators import MPSAccelerator

from minivgg_pl.runs.environment import cpu_flags


def computes_bf16(device_type: str) -> bool:
    """Return whether this machine's `cuda` device or its CPU multiplies bfloat16 matrices natively."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # AVX-512 BF16, AMX, or Arm's: without them oneDNN converts each value. torch 2.6 does not tell.
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_flags())


def uses_mps(accelerator: str) -> bool:
    """Return whether `accelerator` (Lightning's name) is a Mac's GPU here."""
    return accelerator in ("auto", "gpu", "mps") and MPSAccelerator.is_available()


def choose_precision(accelerator: str) -> str:
    """Return Lightning's `precision` for a run on `accelerator` (Lightning's name) with bfloat16 where it is native."""
    if uses_mps(accelerator):
        # torch does not tell whether it is native there.
        return "32-true"
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return "bf16-mixed" if computes_bf16("cuda" if on_gpu else "cpu") else "32-true"


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Bring the state of `optimizer` into its parameters' order in memory, as a load_state_dict post hook.

    A checkpoint may come from a device with another order, which torch's fused SGD does not notice.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
