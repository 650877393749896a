"""The allocator's settings, in a process of their own."""

import subprocess
import sys

import pytest

# Fifty times what a step does: 64 MB taken, written and freed.
STEPS = """
import resource, torch
from minivgg_pl.memory import keep_freed_memory
def count_page_faults():
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
by_default = count_page_faults()
keep_freed_memory()
print(count_page_faults(), by_default)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has these settings")
def test_the_system_hands_out_the_memory_of_a_step_once():
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    kept, by_default = map(int, done.stdout.split())
    assert kept < by_default / 4
