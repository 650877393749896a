"""Hardware: a Mac's GPU, native bfloat16, orders in memory, and what the allocator keeps between steps."""

import ctypes
from contextlib import suppress

import torch

from minivgg_pl.runs.environment import cpu_flags

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
NEVER = -1  # as an unsigned size, the largest
# Bytes by which the heap grows at least, so that a first step asks the system a few times and not for each tensor.
TOP_PAD = 2**28


def computes_bf16(device_type: str) -> bool:
    """Return whether this machine's `cuda` device or its CPU multiplies bfloat16 matrices natively."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # AVX-512 BF16, AMX, or Arm's: without them oneDNN converts each value. torch 2.6 does not tell.
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_flags())


def uses_mps(accelerator: str) -> bool:
    """Return whether `accelerator` (Lightning's name) is a Mac's GPU here."""
    # Late: it takes seconds, and predict.py needs this file but no Lightning.
    from lightning.pytorch.accelerators import MPSAccelerator

    return accelerator in ("auto", "gpu", "mps") and MPSAccelerator.is_available()


def choose_precision(accelerator: str) -> str:
    """Return Lightning's `precision` for a run on `accelerator` (Lightning's name) with bfloat16 where it is native."""
    if uses_mps(accelerator):
        # torch does not tell whether it is native there.
        return "32-true"
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return "bf16-mixed" if computes_bf16("cuda" if on_gpu else "cpu") else "32-true"


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees; change nothing where there is no glibc.

    By default glibc maps each tensor of more than 32 MB anew, unmaps it after use, and trims the heap's end. The system
    then clears every page in every step: a quarter of a step of `wide` in bfloat16 on an AMD EPYC. The peak stays the
    same, but memory that is free between two steps does not go back to the system.
    """
    # Windows raises a TypeError. macOS and musl have no mallopt.
    with suppress(AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD)):
            mallopt(name, value)


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Bring the state of `optimizer` into its parameters' order in memory, as a load_state_dict post hook.

    A checkpoint may come from a device with another order, which torch's fused SGD does not notice.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
