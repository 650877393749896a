"""What the README tells people to type is what the command understands."""

import re
import shlex
import shutil

import pytest
from PIL import Image

from minivgg_pl.cli import MiniVGGCLI
from minivgg_pl.command import expand_short_names
from minivgg_pl.runs import METRIC_COLUMNS
from tests.conftest import REPOSITORY, SYNTHETIC_SIZE

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
SHELL = "\n".join(text for language, text in BLOCKS if language == "bash")
COMMANDS = re.findall(r"python (scripts/\w+\.py)([^\n&]*)", SHELL)
TRAIN_COMMANDS = [options for script, options in COMMANDS if script == "scripts/train.py"]


class ParserOnly(MiniVGGCLI):
    """Parses, and builds nothing."""

    def before_instantiate_classes(self):
        pass

    def instantiate_classes(self):
        pass


def test_there_are_commands_to_check():
    assert len(TRAIN_COMMANDS) >= 5


@pytest.mark.parametrize("options", TRAIN_COMMANDS)
def test_every_training_command_is_understood(options):
    words = shlex.split(options, comments=True)
    if "--help" in words or "--help.full" in words:
        return
    if "--config" in words:
        # The file is a run's, and there is none here.
        position = words.index("--config")
        del words[position : position + 2]
    expanded, _ = expand_short_names(words)
    ParserOnly(expanded)


PYTHON = [text for language, text in BLOCKS if language == "python"]


def test_the_python_examples_run(synthetic_root, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 200)).save("cat.jpg")
    shutil.copytree(finished_run[0], "runs/classic/1")
    data = f'{str(synthetic_root)!r}, dataset="synthetic", synthetic_size={SYNTHETIC_SIZE}, val_size=50'
    assert len(PYTHON) == 2
    for text in PYTHON:
        small = text.replace('"data", val_size=5000', data).replace("max_epochs=10", 'max_epochs=1, accelerator="cpu"')
        exec(compile(small, "README.md", "exec"), {})


def test_every_script_that_can_be_run_is_there_and_explained():
    runnable = [p.name for p in (REPOSITORY / "scripts").glob("*.py") if "__main__" in p.read_text()]
    assert {script for script, _ in COMMANDS} == {f"scripts/{name}" for name in runnable}


def test_every_metrics_column_is_explained():
    assert all(f"`{column}`" in README for column in METRIC_COLUMNS)


def test_every_file_it_links_to_exists():
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert links
    assert all((REPOSITORY / link).exists() for link in links)


def test_the_commands_that_land_a_change_are_there():
    check = (REPOSITORY / ".ci" / "run").read_text()
    for name in re.findall(r"readme_command (\w+)", check):
        assert f"<!-- {name} -->" in README
