"""Shared by the fuzz tests: damage to bytes, and the limits of time and memory for one case."""

import faulthandler
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from minivgg_pl.errors import InputError

LIMIT_S = 10
# For the allocator's caches and lazily imported modules.
MEMORY_SLACK_MB = 48

# Lengths and counts at the edges of what 1, 2, 4 and 8 bytes hold, in both orders.
EDGES = [b"\0", b"\xff", b"\x80", b"\x7f"] + [
    value.to_bytes(size, order)
    for size in (2, 4, 8)
    for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
    for order in ("little", "big")
]


@st.composite
def damaged(draw: Callable, valid: bytes, same_size: bool = False) -> bytes:
    """Draw `valid` with one to four places damaged; a size that stays lets it pass a parser's first look."""
    content = bytearray(valid)
    kinds = ["flip", "overwrite", "zeros"] + ["insert", "cut", "truncate", "splice"] * (not same_size)
    for _ in range(draw(st.integers(1, 4))):
        at = _place(draw, len(content))
        kind = draw(st.sampled_from(kinds))
        if kind == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "overwrite":
            new = draw(st.sampled_from(EDGES) | st.binary(min_size=1, max_size=8))
            content[at : at + len(new)] = new[: len(content) - at]
        elif kind == "insert":
            content[at:at] = draw(st.sampled_from(EDGES) | st.binary(min_size=1, max_size=64))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 300))]
        elif kind == "truncate":
            del content[at:]
        elif kind == "splice":
            start = _place(draw, len(valid))
            content[at:at] = valid[start : start + draw(st.integers(1, 3000))]
        elif kind == "zeros":
            size = draw(st.integers(1, 500))
            content[at : at + size] = bytes(len(content[at : at + size]))
    return bytes(content)


def _place(draw: Callable, size: int) -> int:
    """Draw a position; headers and directories stand at both ends, and are what parsers trip over."""
    near = st.integers(0, min(size, 400))
    return draw(st.integers(0, size) | near | near.map(lambda distance: size - distance))


@dataclass
class Tally:
    """What the cases of one format came to."""

    accepted: int = 0
    refused: int = 0
    longest_s: float = 0.0
    valid_mb: float = 0.0
    worst_mb: float = 0.0
    messages: set[str] = field(default_factory=set)

    @property
    def cases(self) -> int:
        """How many there were."""
        return self.accepted + self.refused

    def line(self, name: str) -> str:
        """Return what the end of the run prints."""
        return (
            f"{name:<12} {self.cases:>5} cases: {self.accepted} read, {self.refused} refused in one line, longest "
            f"{self.longest_s:.2f} s, peak memory {self.worst_mb:.0f} MB (valid file: {self.valid_mb:.0f} MB)"
        )


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fail what takes longer; code in C that never comes back ends the process, with its traceback."""

    def stop(*_) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(6 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(read: Callable[[], object]) -> str | None:
    """Return the message with which `read` refuses its file, or None if it takes it; everything else is raised."""
    try:
        read()
    except InputError as error:
        message = " ".join(str(error).split())
        assert message
        return message
    return None


def run_case(tally: Tally, read: Callable[[], object], canary: Path) -> None:
    """Run one case within its limits, and add it to the tally."""
    _forget_peak()
    before, start = _memory_mb("VmRSS"), time.monotonic()
    with time_limit(LIMIT_S):
        message = outcome(read)
    tally.longest_s = max(tally.longest_s, time.monotonic() - start)
    tally.worst_mb = max(tally.worst_mb, _memory_mb("VmHWM") - before)
    if message is None:
        tally.accepted += 1
    else:
        tally.refused += 1
        tally.messages.add(message)
    assert not canary.exists(), "a payload was run"
    assert tally.worst_mb <= 2 * tally.valid_mb + MEMORY_SLACK_MB


def measure_valid(tally: Tally, read: Callable[[], object]) -> None:
    """Note what the valid file costs, once everything is imported; it must be read."""
    assert outcome(read) is None
    _forget_peak()
    before = _memory_mb("VmRSS")
    read()
    tally.valid_mb = _memory_mb("VmHWM") - before


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
