"""README and the texts beside it: commands are understood, examples run, links and names are right."""

import re
import shlex
import shutil
import sys

import pytest
from PIL import Image

from minivgg_pl.cli import evaluate, export, predict
from minivgg_pl.cli.lightning_cli import MiniVGGCLI
from minivgg_pl.cli.short_names import expand_short_names
from minivgg_pl.runs.folder import METRIC_COLUMNS
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
PATTERNS = ("README.md", ".github/*.md", "minivgg_pl/*/README.md", "scripts/*/README.md")
PAGES = {str(p.relative_to(REPOSITORY)): p.read_text() for pattern in PATTERNS for p in REPOSITORY.glob(pattern)}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", "\n".join(PAGES.values()), flags=re.DOTALL | re.MULTILINE)


COMMANDS = re.findall(r"python (scripts/[\w/]+\.py)([^\n&]*)", "\n".join(blocks("(?:bash|console)")))
PARSERS = {f"scripts/{m.__name__.rpartition('.')[2]}.py": m.parse_arguments for m in (predict, evaluate, export)}


class ParserOnly(MiniVGGCLI):
    """Parses, and builds nothing."""

    def before_instantiate_classes(self):
        pass

    def instantiate_classes(self):
        pass


@pytest.mark.parametrize("options", sorted({options for script, options in COMMANDS if script == "scripts/train.py"}))
def test_every_training_command_is_understood(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_images").mkdir()
    words = shlex.split(options, comments=True)
    if "--config" in words:
        # The file is a run's, and there is none here.
        position = words.index("--config")
        del words[position : position + 2]
    expanded, _ = expand_short_names(words)
    ParserOnly(expanded)


@pytest.mark.parametrize(("script", "options"), [pair for pair in COMMANDS if pair[0] in PARSERS])
def test_every_other_command_is_understood(script, options):
    PARSERS[script](shlex.split(options, comments=True))


def test_every_script_is_explained():
    runnable = [path for path in (REPOSITORY / "scripts").rglob("*.py") if "__main__" in path.read_text()]
    assert {script for script, _ in COMMANDS} == {str(path.relative_to(REPOSITORY)) for path in runnable}


def test_the_python_examples_run(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 200)).save("cat.jpg")
    for name in ("cats", "dogs"):
        (tmp_path / "my_images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (40, 40), (number, number, number)).save(f"my_images/{name}/{number}.png")
    shutil.copytree(finished_run[0], "runs/classic/1")
    examples = blocks("python")
    assert examples
    for text in examples:
        # The Trainer prefers a GPU, and ten epochs take long.
        small = text.replace("max_epochs=10", 'max_epochs=1, accelerator="cpu"')
        exec(compile(small, "<example>", "exec"), {})


def test_the_readmes_data_are_the_commands_too(tmp_path, monkeypatch):
    text = blocks("python")[0]
    (tmp_path / "my_noise.py").write_text("import torch, minivgg_pl as mv\n" + text[text.index("class Noise") :])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert ParserOnly(["--data=my_noise.Noise", "--data.batch_size=8"]).config.data.init_args.batch_size == 8


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200
    assert len(README.split()) <= 2000


def test_every_metrics_column_is_explained():
    assert all(f"`{column}`" in README for column in METRIC_COLUMNS)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\((?!https?://)([^)#]+)", PAGES[page])
    assert [link for link in links if not (REPOSITORY / page).parent.joinpath(link).exists()] == []


def test_every_file_in_the_table_of_rooms_is_in_its_room():
    rows = re.findall(r"^\| \[\w+/\]\((minivgg_pl/\w+)\) \|(.*)", README, flags=re.MULTILINE)
    assert len(rows) == 8
    for room, content in rows:
        for name in re.findall(r"`([\w*]+\.py)`", content):
            assert (REPOSITORY / room / name).is_file(), f"{room}/{name}"


def test_the_commands_of_ci_are_in_the_readme():
    for name in re.findall(r"readme_command (\w+)", (REPOSITORY / ".ci" / "run").read_text()):
        assert f"<!-- {name} -->" in README
