"""gpu.py: its refusal without a GPU, a trial of it on the CPU, its table, and a part that takes too long."""

import csv
import sys
from argparse import Namespace

import gpu
import pytest
import race
import torch

HEADER = "contender,variant,dataset,device,round,epoch,train_seconds,seconds,val_acc\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line(script_here, tmp_path, capfd):
    assert script_here("gpu.py", f"--output={tmp_path / 'out'}") == 2
    error = "error: torch finds no CUDA GPU here: --tiny tries the command without one\n"
    assert capfd.readouterr().err == error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "variant", "epochs", "contenders"),
    [
        ("modern", "wide", 0, ["modern"]),
        ("speedrun", "classic", 0, ["speedrun"]),
        ("rates", "wide", 3, ["article", "graph", "tutorial"]),
    ],
)
def test_a_parts_command_is_one_of_race(part, variant, epochs, contenders, tmp_path, monkeypatch):
    args = Namespace(tiny=False, gpus=1, root="my data", output=tmp_path)
    monkeypatch.setattr(sys, "argv", gpu.command(args, part)[1:])
    parsed = race.parse_arguments()
    assert (parsed.variant, parsed.epochs, parsed.contenders) == (variant, epochs, contenders)
    assert (parsed.gpus, parsed.dataset, parsed.root, parsed.output) == (1, "cifar10", "my data", tmp_path / part)


def test_the_table_says_what_was_met_missed_and_not_measured(tmp_path, capsys):
    # Nothing at all, then all but two.
    gpu.report(tmp_path, "H200")
    assert capsys.readouterr().out.count("not measured") == 6
    races = {
        "article": "article,wide,cifar10,H200,1,20,0.4,9.0,0.81\n",
        "speedrun": "speedrun,classic,cifar10,H200,1,1,1,1.5,0.80\nspeedrun,classic,cifar10,H200,1,2,1,3.0,0.83\n",
        "rates": "".join(f"{name},wide,cifar10,H200,1,3,{t},9,0.5\n" for name, t in (("article", 2), ("tutorial", 50))),
    }
    for name, rows in races.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "benchmark.csv").write_text(HEADER + rows)
    (tmp_path / "tests.txt").write_text("........\n8 passed, 900 deselected in 40.00s\n")
    gpu.report(tmp_path, "H200")
    with open(tmp_path / "gpu.csv", newline="") as file:
        rows = [(row["value"], row["goal"], row["verdict"]) for row in csv.DictReader(file)]
    assert rows == [
        ("8", ">= 1", "met"),
        ("9", "<= 10", "met"),
        ("-", "<= 5", "not measured"),
        ("3", "<= 2", "missed"),
        ("-", ">= 0.8", "not measured"),
        ("25", ">= 10", "met"),
    ]
    assert "seconds to 81.99%, speedrun of classic" in capsys.readouterr().out
    assert (tmp_path / "benchmark.png").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import time; time.sleep(60)", "it took longer than 0.5 s"), ("raise SystemExit('no memory')", "no memory")],
)
def test_a_part_that_fails_is_reported_and_leaves_no_earlier_numbers(code, reason, tmp_path, capfd):
    (tmp_path / "modern").mkdir()
    (tmp_path / "modern/benchmark.csv").write_text("of an earlier run")
    assert not gpu.run_part("modern", [sys.executable, "-c", code], 0.5 if "sleep" in code else 60, tmp_path)
    assert capfd.readouterr().err.startswith(f"error: modern: {reason}; see ")
    assert not (tmp_path / "modern/benchmark.csv").exists()


def test_rates_need_those_of_article(tmp_path):
    (tmp_path / "rates").mkdir()
    (tmp_path / "rates/benchmark.csv").write_text(f"{HEADER}graph,wide,cifar10,H200,1,3,2,9,0.5\n")
    gpu.report(tmp_path, "H200")
    assert (tmp_path / "gpu.csv").read_text().count("not measured") == 6


@pytest.mark.slow
def test_it_can_be_tried_without_a_gpu(script_here, tmp_path, capfd):
    assert script_here("gpu.py", "--tiny", "--parts", "speedrun", "rates", f"--output={tmp_path}") == 0
    printed = capfd.readouterr().out
    assert "a trial: the numbers mean nothing" in printed
    verdicts = [line.split()[-1] for line in printed.splitlines() if " = " in line or "<=" in line or ">=" in line]
    assert verdicts == ["measured"] * 5 + ["met"]
    assert (tmp_path / "benchmark.png").exists()
