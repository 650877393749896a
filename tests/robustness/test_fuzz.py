"""Damaged files of every format that may come from strangers: each is read, or refused in one line.

`python -m pytest -m fuzz` runs 900 cases of each format; MINIVGG_FUZZ_CASES and MINIVGG_FUZZ_SEED choose others.
"""

import os

import hypothesis
import pytest

from tests.robustness import fuzz_formats
from tests.robustness.fuzzing import Tally, measure_valid, run_case

FORMATS = {
    "archives": fuzz_formats.Archives,
    "checkpoints": fuzz_formats.Checkpoints,
    "safetensors": fuzz_formats.Safetensors,
    "keras": fuzz_formats.Keras,
    "images": fuzz_formats.Images,
}
# Of each format in the default run, which takes a few seconds.
FEW = 30
CASES = int(os.environ.get("MINIVGG_FUZZ_CASES", "900"))
SEED = int(os.environ.get("MINIVGG_FUZZ_SEED", "0"))


def _fuzz(name, number, tmp_path, record_property):
    canary = tmp_path / "canary"
    folder = tmp_path / "work"
    folder.mkdir()
    of_format = FORMATS[name](folder, canary)
    tally = Tally()
    measure_valid(tally, lambda: of_format.read(of_format.valid))

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=number,
        # The same cases everywhere, and none that an earlier run left.
        database=None,
        # run_case has its own limit.
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(of_format.cases())
    def each_case_is_read_or_refused(case):
        run_case(tally, lambda: of_format.read(case), canary)

    each_case_is_read_or_refused()
    record_property("fuzz", tally.line(name))
    assert tally.cases >= number
    # Neither everything nor nothing: the cases reach behind the first check.
    assert tally.refused > 0
    assert tally.accepted > 0 or number < 100


@pytest.mark.parametrize("name", FORMATS)
def test_some_damaged_files_are_read_or_refused(name, tmp_path, record_property):
    _fuzz(name, FEW, tmp_path, record_property)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files_are_read_or_refused(name, tmp_path, record_property):
    _fuzz(name, CASES, tmp_path, record_property)
