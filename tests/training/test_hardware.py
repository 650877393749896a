"""The allocator's settings, in real processes."""

import subprocess
import sys

import pytest

# Fifty times what a step does: 64 MB taken, written and freed.
STEPS = """
import resource, sys, torch
from minivgg_pl.training.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
before = faults()
for _ in range(50):
    torch.ones(2**24)
print(faults() - before)
"""


def page_faults(how):
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has these settings")
def test_the_system_hands_out_the_memory_of_a_step_once():
    assert page_faults("keep") < page_faults("leave") / 4
