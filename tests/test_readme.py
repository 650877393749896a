"""What the README tells people to type is what the command understands."""

import re
import shlex
import shutil

import pytest
from PIL import Image

from minivgg_pl.cli import evaluate, export, predict
from minivgg_pl.cli.lightning_cli import MiniVGGCLI
from minivgg_pl.cli.options import expand_short_names
from minivgg_pl.runs.folder import METRIC_COLUMNS
from tests.conftest import REPOSITORY, needs_onnx_export

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
SHELL = "\n".join(text for language, text in BLOCKS if language == "bash")
COMMANDS = re.findall(r"python (scripts/[\w/]+\.py)([^\n&]*)", SHELL)
PARSERS = {
    f"scripts/{module.__name__.rpartition('.')[2]}.py": module.parse_arguments for module in (predict, evaluate, export)
}
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


@pytest.mark.parametrize(("script", "options"), [pair for pair in COMMANDS if pair[0] in PARSERS])
def test_every_other_command_is_understood(script, options):
    PARSERS[script](shlex.split(options, comments=True))


PYTHON = [text for language, text in BLOCKS if language == "python"]


@pytest.fixture
def workplace(finished_run, tmp_path, monkeypatch):
    """A folder with all that the README's Python takes for granted, as small as it can be."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 200)).save("cat.jpg")
    for name in ("cats", "dogs"):
        (tmp_path / "my_images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (40, 40), (number, number, number)).save(f"my_images/{name}/{number}.png")
    shutil.copytree(finished_run[0], "runs/classic/1")


@needs_onnx_export
def test_the_python_examples_run(workplace, capsys):
    assert export.main(["wide", "--to=onnx"]) == 0
    assert len(PYTHON) == 5
    for text in PYTHON:
        # The Trainer prefers a GPU, and ten epochs take long.
        small = text.replace("max_epochs=10", 'max_epochs=1, accelerator="cpu", enable_progress_bar=False')
        exec(compile(small, "README.md", "exec"), {})
        assert len(text.splitlines()) <= 10


def test_every_script_that_can_be_run_is_there_and_explained():
    runnable = [p for p in (REPOSITORY / "scripts").rglob("*.py") if "__main__" in p.read_text()]
    assert {script for script, _ in COMMANDS} == {str(p.relative_to(REPOSITORY)) for p in runnable}


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
