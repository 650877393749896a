"""How the C library's allocator treats the memory that a step frees: it keeps it for the next step."""

import ctypes
import sys

# Parameters of glibc's mallopt, from its malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
NEVER = -1  # as a size, the largest
# Bytes by which the heap grows at least, so that a first step asks the system a few times and not for each tensor.
TOP_PAD = 2**28


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, in place of giving it back to the system; tell whether it could.

    By default glibc maps each tensor of more than 32 MB anew and unmaps it after use, and trims the heap's end. The
    system then clears every page again in every step, for what batch norm, ReLU and pooling write once and read once:
    a quarter of a step of `wide` in bfloat16 on an AMD EPYC (README). The peak stays the same; only what lies
    free between two steps is no longer the system's. Other C libraries, and systems other than Linux, stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        # musl has none.
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD))
    answers = [mallopt(name, value) for name, value in settings]
    return all(answer == 1 for answer in answers)
