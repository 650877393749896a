"""Help, short names and conflicts between options."""

import io
import re
import sys
import tomllib

import pytest

from minivgg_pl import __version__
from minivgg_pl.cli import main as console
from minivgg_pl.cli.command import guarded
from minivgg_pl.cli.evaluate import parse_arguments
from minivgg_pl.cli.recipes import recipe_arguments
from minivgg_pl.cli.short_names import data_arguments, expand_short_names, help_text
from tests.cli.test_recipes import ParserOnly, parse
from tests.conftest import REPOSITORY, TRAIN, output_and_imports


def test_help_fits_on_a_screen_and_gives_three_examples():
    lines = help_text().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    examples = lines[lines.index("examples:") + 1 :]
    assert len(examples) == 3
    assert all(line.startswith("  train.py ") for line in examples)


def test_help_is_printed_without_importing_torch():
    output, imported = output_and_imports(TRAIN, "--help")
    assert output == help_text()
    assert imported.isdisjoint({"torch", "lightning", "yaml", "jsonargparse"})


def exit_code(*words):
    try:
        return console.main(words)
    except SystemExit as stop:
        return stop.code


class TestMinivgg:
    @pytest.fixture(autouse=True)
    def as_installed(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/minivgg"])
        monkeypatch.setattr(sys, "path", [*sys.path])

    def test_pip_installs_it(self):
        scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
        assert scripts == {"minivgg": f"{console.__name__}:main"}

    @pytest.mark.parametrize("command", console.COMMANDS)
    def test_the_help_of_a_command_names_it_as_it_is_called(self, command, capsys):
        assert exit_code(command, "--help") == 0
        assert f"  minivgg {command} " in (text := capsys.readouterr().out)
        assert f"\n  {command}.py" not in text

    @pytest.mark.parametrize("command", [[], *([command] for command in console.COMMANDS)])
    def test_the_version(self, command, capsys):
        assert exit_code(*command, "--version") == 0
        assert capsys.readouterr().out == f"minivgg_pl {__version__}\n"

    def test_a_line_says_what_to_type(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(console, "REPRODUCE", tmp_path / "reproduce.py")
        for words, message in {
            ("fit",): "minivgg fit: there is no such command; give one of train, predict, ",
            ("reproduce",): "minivgg reproduce needs the repository: clone it",
        }.items():
            assert exit_code(*words) == 2
            assert message in capsys.readouterr().err


def test_help_names_the_defaults_that_the_code_has():
    defaults = parse().default_options()
    text = help_text()
    named = re.findall(r"--((?:data|model|trainer|seed)[\w.]*) .*?\(default: ([^);,]+)\)", text)
    assert len(named) >= 7
    assert all(str(defaults[option]) == default for option, default in named if option != "model.dense_units")
    assert "10 for classic, 20 for wide" in text
    assert "2,171,178" in text


@pytest.mark.parametrize(
    ("typed", "expanded"),
    [
        (["--variant", "wide"], ["--model.variant=wide"]),
        (["--gpus", "0"], ["--trainer.accelerator=cpu", "--trainer.devices=1"]),
        (["--gpus", "2"], ["--trainer.accelerator=gpu", "--trainer.devices=2"]),
        (["--epochs", "3", "--data.root", "x"], ["--trainer.max_epochs=3", "--data.root", "x"]),
        (["--help.full"], ["--help"]),
        (["--compile", "--epochs=3"], ["--compile=true", "--trainer.max_epochs=3"]),
        (["--compile=false"], ["--compile=false"]),
        (["--variant", "wide", "--model.variant", "classic"], ["--model.variant=wide", "--model.variant", "classic"]),
    ],
)
def test_short_names_stand_for_dotted_options(typed, expanded):
    assert expand_short_names(typed) == (expanded, None)


def test_a_recipe_comes_first_wherever_it_was_typed_and_resume_is_taken_out():
    expanded, _ = expand_short_names(["--model.lr", "0.1", "--config", "mine.yaml", "--recipe", "modern"])
    assert expanded == [*recipe_arguments("modern"), "--model.lr", "0.1", "--config", "mine.yaml"]
    expanded, resume = expand_short_names(["--resume", "runs/classic/1", "--epochs=4"])
    assert (expanded, resume) == (["--trainer.max_epochs=4"], "runs/classic/1")


def test_a_data_module_is_found_by_its_name_and_has_its_own_defaults():
    data = ParserOnly(["--data.root=x", "--data=ImageFolderDataModule"]).config.data
    assert data.class_path == "minivgg_pl.ImageFolderDataModule"
    assert (data.init_args.root, data.init_args.val_size) == ("x", None)


@pytest.mark.parametrize("typed", [["--data", "{}"], ["--data={}"], ["--data={}/"]])
def test_a_folder_is_the_users_own_images(tmp_path, typed):
    words = [word.format(tmp_path) for word in typed]
    options, _ = expand_short_names(words)
    assert parse_arguments(["wide", *words, "--tta", "flip"])[1] == options
    data = ParserOnly(options).config.data
    assert data.class_path == "minivgg_pl.ImageFolderDataModule"
    assert data.init_args.root.rstrip("/") == str(tmp_path)


@pytest.mark.parametrize("value", ["ImageFolderDataModule", "minivgg_pl.X", "data.yaml", "in/data.yml", '{"a": "b/c"}'])
def test_data_modules_and_their_configs_are_no_folders(value):
    assert data_arguments(value) == [f"--data={value}"]


def test_names_that_the_terminal_cannot_show_are_printed_escaped(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "cp1252"))
    assert guarded(lambda: print("runs/classic-\u732b", flush=True) or 0) == 0
    assert printed.getvalue().split() == [rb"runs/classic-\u732b"]
