"""The tutorial: the notebook runs, and is committed with the outputs of a CIFAR-10 run."""

import copy
import os
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import REPOSITORY

PATH = REPOSITORY / "scripts" / "tutorial.ipynb"
# What a test cannot wait for, or has no network for.
SMALLER = {
    'DATASET = "cifar10"': 'DATASET = "synthetic"',
    "dataset=DATASET": "dataset=DATASET, synthetic_size=1000",
    "EPOCHS = 3": "EPOCHS = 1",
}


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(PATH, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_runs_without_gpu_and_network(notebook, tmp_path, monkeypatch):
    notebook = copy.deepcopy(notebook)
    for old, new in SMALLER.items():
        assert any(old in cell.source for cell in code_cells(notebook))
        for cell in code_cells(notebook):
            cell.source = cell.source.replace(old, new)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # The package of this clone, installed or not.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    NotebookClient(notebook, timeout=170, resources={"metadata": {"path": tmp_path}}).execute()
    assert sorted(path.name for path in tmp_path.glob("runs/*/*")) == ["1", "2"]


def test_the_committed_outputs_are_complete_and_of_cifar10(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8
    texts = [output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs]
    assert any("50,000 training images" in text for text in texts)
    assert not [text for text in texts if re.search(r"(^|[\s'\"=(])(/\w|[A-Z]:\\)", text)], "a path of one machine"
    assert PATH.stat().st_size < 700_000
