"""What the allocator of this process keeps between steps."""

import ctypes
from contextlib import suppress

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
NEVER = -1  # as an unsigned size, the largest
# Bytes by which the heap grows at least, so that a first step asks the system a few times and not for each tensor.
TOP_PAD = 2**28


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
