"""The measuring scripts, on a handful of images: that they run and say what they measured."""

import copy
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.autograd import DeviceType
from torch.nn import functional

from minivgg_pl import CIFAR10DataModule, LitMiniVGG
from minivgg_pl.data.loader import ImageDataset, ShuffledBatchSampler
from minivgg_pl.models.minivgg import MiniVGG
from tests.conftest import BENCHMARKS, REPOSITORY, SYNTHETIC_SIZE


def run(script, *options):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("tiny", [[], ["--tiny"]])
def test_the_loops_overhead_is_measured_against_a_bare_loop(tiny, script_here, monkeypatch, capfd):
    monkeypatch.setattr("minivgg_pl.training.module.MiniVGG", MiniVGG)  # put back what --tiny replaces
    assert script_here("loop_overhead.py", "--images=130", "--rounds=1", *tiny) == 0
    printed = capfd.readouterr().out
    assert ("one linear layer, " if tiny else "classic, ") in printed
    assert "130 random images, 3 steps" in printed
    assert "overhead" in printed
    assert "us a step" in printed


@pytest.mark.parametrize("option", ["--images=65"])
def test_bad_options_of_the_overhead_script_are_one_line(option, script_here, capfd):
    assert script_here("loop_overhead.py", option) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")


@pytest.mark.slow
def test_the_race_prints_a_row_each_and_keeps_csv_and_image(tmp_path, synthetic_root, script_here, capfd):
    # Batches that leave a rest of one image, on which batch norm cannot train.
    options = f"--contenders modern tutorial --images {SYNTHETIC_SIZE} --rounds 1 --epochs 2 --batch-size 199"
    assert script_here("race.py", *options.split(), f"--root={synthetic_root}", f"--output={tmp_path}") == 0
    printed = capfd.readouterr().out
    assert "158 MFLOP an image" in printed
    assert "drawn images, not CIFAR-10" in printed
    assert "matrix rate: float32" in printed
    rows = printed.splitlines()[-2:]
    assert [row.split()[0] for row in rows] == ["modern", "tutorial"]
    assert [row.split()[3] for row in rows][0] == "1.00"
    with open(tmp_path / "benchmark.csv", newline="") as file:
        table = list(csv.DictReader(file))
    races = [(row["contender"], row["epoch"]) for row in table]
    assert races[:3] == [("modern", "1"), ("modern", "2"), ("tutorial", "1")]
    assert all(0 < float(row["train_seconds"]) < float(row["seconds"]) for row in table)
    assert {row["dataset"] for row in table} == {"synthetic"}
    assert Image.open(tmp_path / "benchmark.png").size[0] >= 1800


@pytest.mark.slow
def test_a_contender_that_fails_is_left_out_and_the_others_are_kept(tmp_path, synthetic_root, script_here, capfd):
    options = f"--contenders modern bare --images {SYNTHETIC_SIZE} --rounds 1 --option=--model.lr=-1"
    assert script_here("race.py", *options.split(), f"--root={synthetic_root}", f"--output={tmp_path}") == 1
    printed, errors = capfd.readouterr()
    failure, race = errors.splitlines()[-2:]
    assert failure.startswith("error: modern failed, and is left out: ")
    assert race.startswith("bare: ")
    row = printed.splitlines()[-1].split()
    assert (row[0], row[3]) == ("bare", "1.00")
    assert (tmp_path / "benchmark.csv").read_text().count("bare,classic,synthetic,1,1,") == 1
    assert (tmp_path / "benchmark.png").exists()


@pytest.mark.slow
def test_sigterm_ends_the_race_and_its_contender_and_keeps_what_is_finished(tmp_path, synthetic_root):
    options = (
        f"--contenders bare article --images {SYNTHETIC_SIZE} --rounds 9 --root={synthetic_root} --output={tmp_path}"
    )
    command = [sys.executable, str(BENCHMARKS / "race.py"), *options.split()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True) as process:
        try:
            assert any(line.startswith("bare: ") for line in process.stderr)
            # The next contender is on its way.
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 143
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "bare,classic,synthetic,1,1," in (tmp_path / "benchmark.csv").read_text()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(KeyboardInterrupt(), 130, "interrupted"), (OSError(28, "No space left on device"), 2, "No space left on device")],
)
def test_what_stops_a_race_is_one_line(error, code, message, monkeypatch, script_here, capfd):
    import contenders

    def stop(*_):
        raise error

    monkeypatch.setattr(contenders, "store_arrays", stop)
    # As pytest's own stdout must stay open.
    monkeypatch.setattr("minivgg_pl.cli.command._drop_output", lambda: None)
    assert script_here("race.py", "--contenders=bare") == code
    line = capfd.readouterr().err
    assert line.startswith("error: ")
    assert message in line
    assert line.count("\n") == 1


def test_an_output_folder_that_cannot_be_made_is_refused_before_the_data_are_drawn(tmp_path, script_here, capfd):
    (tmp_path / "file").write_text("")
    assert script_here("race.py", f"--output={tmp_path}/file/folder", f"--root={tmp_path}/data") == 2
    assert "file/folder cannot be made" in capfd.readouterr().err
    (tmp_path / "raced" / "benchmark.csv").mkdir(parents=True)
    assert script_here("race.py", f"--output={tmp_path}/raced", f"--root={tmp_path}/data") == 2
    assert "benchmark.csv: that is a folder" in capfd.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_bare_loop_moves_nothing_by_iterating_and_has_a_new_order_each_epoch(monkeypatch, synthetic_root):
    from bare_loops import run_bare

    moves, orders = [], []
    move, draw = ImageDataset.to, ShuffledBatchSampler._order
    monkeypatch.setattr(ImageDataset, "to", lambda data, device: moves.append(device) or move(data, device))
    monkeypatch.setattr(ShuffledBatchSampler, "_order", lambda sampler: orders.append(draw(sampler)) or orders[-1])
    options = {"root": synthetic_root, "dataset": "synthetic", "images": SYNTHETIC_SIZE, "gpus": 0}
    race = run_bare(Namespace(**options, variant="classic", batch_size=None, epochs=2))
    assert len(race.seconds) == 2
    # The training images, the validation images: each once.
    assert len(moves) == 2
    warm_up, first, second = orders
    assert torch.equal(warm_up, first)
    assert not torch.equal(first, second)


def test_no_batch_of_the_graphs_loop_is_a_single_image(monkeypatch):
    from bare_loops import random_batches

    batches = random_batches(129, 64, torch.device("cpu"))
    assert [len(batch) for batch in batches] == [64, 65]
    assert sorted(torch.cat(batches).tolist()) == list(range(129))


RACES = """contender,variant,dataset,round,epoch,train_seconds,seconds,val_acc,peak_mb
keras,wide,cifar10,1,1,50.000,60.000,0.5000,900
keras,wide,cifar10,1,2,50.000,120.000,0.8250,900
keras,wide,cifar10,2,1,55.000,65.000,0.5100,900
tutorial,wide,cifar10,1,1,70.000,90.000,0.5500,900
"""


def compared(printed):
    """The cells of each row of the table that `--runs` prints."""
    return [line.split() for line in printed.splitlines()[1:]]


def test_finished_runs_and_earlier_races_are_compared(finished_run, tmp_path, script_here, capsys):
    (tmp_path / "races.csv").write_text(RACES.replace("cifar10", "synthetic"))
    assert script_here("race.py", "--runs", finished_run[0], tmp_path / "races.csv", f"--output={tmp_path}") == 0
    rows = compared(capsys.readouterr().out)
    assert [row[:2] for row in rows] == [["article", "classic,"], ["keras", "wide,"], ["tutorial", "wide,"]]
    # The time to the article's best is one on CIFAR-10 alone.
    assert [row[-4:] for row in rows[1:]] == [["2", "2.0", "-", "0.8250"], ["1", "1.5", "-", "0.5500"]]
    assert (tmp_path / "benchmark.png").exists()


def test_races_on_cifar10_have_a_time_to_the_articles_best(tmp_path, script_here, capsys):
    (tmp_path / "races.csv").write_text(RACES)
    assert script_here("race.py", "--runs", tmp_path / "races.csv") == 0
    rows = compared(capsys.readouterr().out)
    assert [row[-4:] for row in rows] == [["2", "2.0", "2.0", "0.8250"], ["1", "1.5", "-", "0.5500"]]


@pytest.mark.parametrize(("dataset", "words"), [("cifar10", "on CIFAR-10"), ("synthetic", "on drawn images, not")])
def test_the_image_says_what_the_races_were_on(dataset, words, tmp_path, script_here, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "minivgg_pl.plots.curves.draw_accuracy_against_time", lambda *words, **_: titles.append(words[2])
    )
    monkeypatch.delitem(sys.modules, "race_report", raising=False)
    (tmp_path / "races.csv").write_text(RACES.replace("cifar10", dataset))
    code = script_here("race.py", "--runs", tmp_path / "races.csv", f"--output={tmp_path}")
    # The module keeps the function that it imported.
    del sys.modules["race_report"]
    assert code == 0
    assert words in titles[0]


def test_no_image_has_runs_on_several_data_sets(tmp_path, script_here, capfd):
    (tmp_path / "races.csv").write_text(RACES.replace("tutorial,wide,cifar10", "tutorial,wide,synthetic"))
    assert script_here("race.py", "--runs", tmp_path / "races.csv") == 0
    assert script_here("race.py", "--runs", tmp_path / "races.csv", f"--output={tmp_path}/compared") == 2
    assert "one image cannot show runs on cifar10 and on synthetic" in capfd.readouterr().err
    assert not (tmp_path / "compared").exists()


def test_entries_of_one_name_are_told_apart_by_their_paths(tmp_path, script_here, capsys):
    for name in ("here", "there"):
        (tmp_path / f"{name}.csv").write_text("".join(RACES.splitlines(keepends=True)[:3]))
    paths = [tmp_path / "here.csv", tmp_path / "there.csv", tmp_path / "here.csv"]
    assert script_here("race.py", "--runs", *paths) == 0
    rows = compared(capsys.readouterr().out)
    assert [row[4] for row in rows] == [str(path) for path in paths[:2]]


@pytest.mark.parametrize("recipe", ["null", '"\\u001b[2J"'])
def test_a_run_of_no_known_recipe_is_one_of_own_options(recipe, finished_run, tmp_path, script_here, capsys):
    for name in ("metrics.csv", "summary.json"):
        (tmp_path / name).write_text(
            (finished_run[0] / name).read_text().replace('"recipe": "article"', f'"recipe": {recipe}')
        )
    assert script_here("race.py", "--runs", tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("own options classic, 4 epochs, seed ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("keras,wide", "\x1b[2J,wide"),
        ("tutorial,wide", "tutorial,deep"),
        ("tutorial,wide,cifar10", "tutorial,wide,mnist"),
        ("dataset,", ""),
        ("120.000", "60.000"),
        ("60.000", "-60.000"),
        ("60.000", "0"),
        ("120.000", "inf"),
        ("120.000", "nan"),
        ("0.8250", "1.1"),
        ("0.8250", "nan"),
        (",0.5500,900", ""),
    ],
)
def test_races_that_no_race_wrote_are_one_line(old, new, tmp_path, script_here, capfd):
    (tmp_path / "races.csv").write_text(RACES.replace(old, new, 1))
    assert script_here("race.py", "--runs", tmp_path / "races.csv", f"--output={tmp_path}") == 2
    error = capfd.readouterr().err
    assert "neither a run's folder nor a benchmark.csv" in error
    assert error.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_no_race(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    script = [sys.executable, str(BENCHMARKS / "race.py"), "--runs", str(tmp_path / "pipe")]
    process = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert process.returncode == 2
    assert "neither a run's folder nor a benchmark.csv" in process.stderr


def test_the_profile_shows_where_an_updates_time_goes(synthetic_root, tmp_path, script_here, capfd):
    # One contender's own process, in this one.
    options = f"--role speedrun --profiled --epochs 1 --images {SYNTHETIC_SIZE} --batch-size 20 --arrays {tmp_path}"
    assert script_here("race.py", *options.split(), f"--root={synthetic_root}") == 0
    printed = capfd.readouterr().out
    assert "aten::convolution_backward" in printed
    assert "5 updates, " in printed


def test_the_profiles_follow_the_table(synthetic_root, script_here, monkeypatch, capfd):
    options = ["--contenders", "article", f"--images={SYNTHETIC_SIZE}", "--rounds=1", "--profile"]
    lines = ["where the time goes", json.dumps([[1.0], [2.0], [0.5], 900])]
    race = f"print({lines[0]!r}); print(json.dumps(dict(zip(contenders.Race._fields, {lines[1]}))))"
    stand_in = [
        "-c",
        f"import json, sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import contenders; {race}",
    ]
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: popen([command[0], *stand_in], **options))
    assert script_here("race.py", *options, f"--root={synthetic_root}") == 0
    assert capfd.readouterr().out.endswith("where an update of article spends its time\nwhere the time goes\n")


class Batches:
    """A Trainer's side of an epoch of so many batches, for a callback."""

    current_epoch = 0

    def __init__(self, number):
        self.num_training_batches = number

    def run(self, callback):
        module = SimpleNamespace(device=torch.device("cpu"))
        for number in range(self.num_training_batches):
            self.is_last_batch = number == self.num_training_batches - 1
            callback.on_train_batch_start(self, module, None, number)
            torch.ones(2).sum()
            callback.on_train_batch_end(self, module, None, None, number)


@pytest.mark.parametrize(("batches", "updates"), [(1, 1), (4, 1), (7, 2), (20, 10)])
def test_there_is_a_profile_of_however_few_updates(batches, updates, monkeypatch, capsys):
    from step_profile import StepProfile

    Batches(batches).run(StepProfile())
    assert f"\n{updates} updates, " in capsys.readouterr().out


def test_the_gpus_busy_share_is_of_its_kernels_without_annotations(monkeypatch):
    import step_profile

    class Events(list):
        def table(self, **_):
            return "table"

    events = Events(
        SimpleNamespace(self_device_time_total=5e5, device_type=device, is_user_annotation=annotation)
        for device, annotation in [(DeviceType.CUDA, False), (DeviceType.CUDA, True), (DeviceType.CPU, False)]
    )
    report = step_profile._report(SimpleNamespace(key_averages=lambda: events), 1.0, 10, "cuda")
    assert "the GPU was busy for 50% of that time" in report


def test_what_the_cuda_graph_repeats_is_the_article_recipes_update(monkeypatch, synthetic_root):
    from bare_loops import GraphUpdate

    data = CIFAR10DataModule(str(synthetic_root), dataset="synthetic", synthetic_size=SYNTHETIC_SIZE)
    data.setup("fit")
    torch.manual_seed(0)
    lit = LitMiniVGG()
    net = copy.deepcopy(lit.net)
    update = GraphUpdate(net, data.train_set, nullcontext())
    configured = lit.configure_optimizers()
    for number, index in enumerate(torch.arange(SYNTHETIC_SIZE).split(16)[:4]):
        images, targets = data.train_set[index]
        torch.manual_seed(number)
        functional.cross_entropy(lit.net(images), targets).backward()
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
        configured["optimizer"].zero_grad()
        torch.manual_seed(number)
        update.set_rate()
        update(index)
    for ours, theirs in zip(net.state_dict().values(), lit.net.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_cuda_graph_learns_as_the_bare_loop_does(synthetic_root, tmp_path):
    options = f"--gpus 1 --contenders bare graph --images {SYNTHETIC_SIZE} --batch-size 48 --rounds 1 --epochs 20"
    process = run("race.py", *options.split(), f"--root={synthetic_root}", f"--output={tmp_path}")
    assert process.returncode == 0, process.stderr
    with open(tmp_path / "benchmark.csv", newline="") as file:
        accuracies = {row["contender"]: float(row["val_acc"]) for row in csv.DictReader(file) if row["epoch"] == "20"}
    assert accuracies["graph"] == pytest.approx(accuracies["bare"], abs=0.15)
    assert accuracies["graph"] > 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "nowhere"], "--runs nowhere: neither a run's folder nor a benchmark.csv"),
        (["--runs", __file__], "neither a run's folder nor a benchmark.csv"),
        (["--runs", str(REPOSITORY)], "no finished run; give folders with metrics.csv"),
        (["--contenders=graph"], "graph is a CUDA graph: give --gpus 1"),
        (["--images=0"], "--images 0: give 1 or more"),
        (["--batch-size=1"], "--batch-size 1: give 2 or more"),
        (["--gpus=1", "--contenders=graph", "--images=50"], "graph repeats whole batches of 64: 50 images make none"),
        (["--gpus=1", "--images=200", "--batch-size=199"], "graph repeats whole batches of 199: 200 images make none"),
        (["--profile", "--grow"], "--grow and --profile: give one of them"),
        (["--profile", "--contenders", "bare", "tutorial"], "--profile is of ours alone"),
        (["--profile", "--runs", "nowhere"], "--runs trains nothing: leave --profile out"),
        (["--batch-size=32", "--runs", "nowhere"], "--runs trains nothing: leave --batch-size out"),
        (["--grow", "--output=nowhere"], "--grow only prints: leave --output out"),
        (["--images=77"], "synthetic_size is 77"),
        (["--epochs=-1"], "--epochs -1: give 1 or more, or 0"),
        (["--grow", "--dataset=cifar10", "--root=nowhere"], "--grow draws its own images"),
        (["--dataset=cifar10"], "--dataset cifar10 needs --root"),
        (["--contenders=fastest"], "invalid choice: 'fastest'"),
    ],
)
def test_bad_options_of_the_race_are_one_line(options, message, script_here, capfd):
    assert script_here("race.py", *options) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_the_race_says_what_keras_needs():
    process = run("race.py", "--contenders=keras")
    assert process.returncode == 2
    assert "pip install tensorflow-cpu keras" in process.stderr
