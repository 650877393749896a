"""race.py: its contenders on a handful of images, its table, and its comparison of earlier runs."""

import csv
import re
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from common import Race
from contenders import CONTENDERS
from loops import BareLoop, GraphLoop, _report
from PIL import Image
from race_report import print_table
from torch.autograd import DeviceType

from tests.conftest import REPOSITORY, SYNTHETIC_SIZE

RACES = """contender,variant,dataset,device,round,epoch,train_seconds,seconds,val_acc
keras,wide,cifar10,"CPU, 1 thread",1,1,50.0,60.0,0.50
keras,wide,cifar10,"CPU, 1 thread",1,2,50.0,120.0,0.825
keras,wide,cifar10,"CPU, 1 thread",2,1,55.0,65.0,0.51
tutorial,wide,cifar10,"CPU, 1 thread",1,1,70.0,90.0,0.55
"""


@pytest.fixture
def race_args(synthetic_root):
    """What race.py's options are for a contender, on the small set."""
    return Namespace(
        root=synthetic_root,
        dataset="synthetic",
        images=SYNTHETIC_SIZE,
        variant="classic",
        batch_size=None,
        epochs=1,
        gpus=0,
        tiny=False,
        rounds=2,
    )


def test_the_bare_loop_takes_each_image_once_in_a_new_order_each_epoch(race_args, monkeypatch):
    race_args.tiny, race_args.batch_size, race_args.epochs = True, 199, 2
    loop = BareLoop(race_args)
    seen = []
    monkeypatch.setattr(loop, "update", seen.append)
    race = loop.run()
    # A rest of one image, on which batch norm cannot train, joins the batch before it.
    assert [len(batch) for batch in seen] == [SYNTHETIC_SIZE] * 3
    assert all(sorted(batch.tolist()) == list(range(SYNTHETIC_SIZE)) for batch in seen)
    assert not torch.equal(seen[1], seen[2])
    assert len(race.train_seconds) == len(race.seconds) == len(race.val_acc) == 2
    assert race.train_seconds[0] < race.seconds[0] < race.seconds[1]


def test_what_the_cuda_graph_repeats_is_the_bare_loops_update(race_args):
    race_args.batch_size = 16
    torch.manual_seed(0)
    bare = BareLoop(race_args)
    torch.manual_seed(0)
    graph = GraphLoop(race_args)
    for number, index in enumerate(torch.arange(SYNTHETIC_SIZE).split(16)[:4]):
        for loop in (bare, graph):
            torch.manual_seed(number)
            loop.update(index)
    for ours, theirs in zip(graph.net.state_dict().values(), bare.net.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_cuda_graph_learns_as_the_bare_loop_does(synthetic_root, tmp_path, script_here):
    options = f"--gpus 1 --contenders bare graph --images {SYNTHETIC_SIZE} --batch-size 48 --rounds 1 --epochs 20"
    assert script_here("race.py", *options.split(), f"--root={synthetic_root}", f"--output={tmp_path}") == 0
    with open(tmp_path / "benchmark.csv", newline="") as file:
        accuracies = {row["contender"]: float(row["val_acc"]) for row in csv.DictReader(file) if row["epoch"] == "20"}
    assert accuracies["graph"] == pytest.approx(accuracies["bare"], abs=0.15)
    assert accuracies["graph"] > 0.3


def test_the_profile_shows_the_operations_of_an_update(synthetic_root, tmp_path, script_here, capfd):
    # A contender's own process, in this one.
    options = f"--role article --profiled --tiny --images {SYNTHETIC_SIZE} --batch-size 20 --arrays {tmp_path}"
    assert script_here("race.py", *options.split(), f"--root={synthetic_root}") == 0
    printed = capfd.readouterr().out
    assert "aten::addmm" in printed
    assert "5 updates, " in printed
    assert 20 < int(re.search(r"(\d+) operators an update", printed)[1]) < 100
    assert '"val_acc": [' in printed.splitlines()[-1]


def test_the_gpus_busy_share_is_of_its_kernels_without_annotations():
    class Events(list):
        def table(self, **_):
            return "table"

    events = Events(
        SimpleNamespace(self_device_time_total=5e5, device_type=device, is_user_annotation=annotation, count=950)
        for device, annotation in [(DeviceType.CUDA, False), (DeviceType.CUDA, True), (DeviceType.CPU, False)]
    )
    report = _report(SimpleNamespace(key_averages=lambda: events), 1.0, 10, "cuda")
    assert "the GPU was busy for 50% of that time" in report
    assert "95 kernels, copies and fills an update on the GPU" in report


def test_the_table_has_medians_and_ratios_within_a_round(race_args, capsys):
    races = {
        "article": [Race([2.0], [3.0], [0.5]), Race([4.0], [5.0], [0.7])],
        "bare": [Race([1.0], [2.0], [0.4]), Race([4.0], [5.0], [0.6])],
    }
    print_table(race_args, races)
    printed = capsys.readouterr().out
    assert "200 images of synthetic images, not CIFAR-10" in printed
    rows = [line.split() for line in printed.splitlines()[-2:]]
    assert rows == [
        ["article", "75", "(50-100)", "1.00", "3.00", "-", "0.6000"],
        ["bare", "125", "(50-200)", "1.50", "2.50", "-", "0.5000"],
    ]


@pytest.mark.slow
def test_the_race_prints_a_row_each_and_keeps_csv_and_chart(tmp_path, synthetic_root, script_here, capfd):
    # Batches that leave a rest of one image, on which batch norm cannot train.
    options = f"--contenders modern tutorial --images {SYNTHETIC_SIZE} --rounds 1 --epochs 2 --batch-size 199"
    assert script_here("race.py", *options.split(), f"--root={synthetic_root}", f"--output={tmp_path}") == 0
    rows = capfd.readouterr().out.splitlines()[-2:]
    assert [row.split()[0] for row in rows] == ["modern", "tutorial"]
    with open(tmp_path / "benchmark.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["contender"], row["epoch"]) for row in table][:3] == [
        ("modern", "1"),
        ("modern", "2"),
        ("tutorial", "1"),
    ]
    assert Image.open(tmp_path / "benchmark.png").size[0] >= 1800


@pytest.mark.slow
def test_a_contender_that_fails_is_left_out_and_the_others_are_kept(tmp_path, synthetic_root, script_here, capfd):
    options = f"--contenders modern bare --images {SYNTHETIC_SIZE} --rounds 1 --option=--model.lr=-1"
    assert script_here("race.py", *options.split(), f"--root={synthetic_root}", f"--output={tmp_path}") == 1
    printed, errors = capfd.readouterr()
    failure, race = errors.splitlines()[-2:]
    assert failure.startswith("error: modern failed, and is left out: ")
    assert race.startswith("bare: ")
    assert printed.splitlines()[-1].split()[0] == "bare"
    assert (tmp_path / "benchmark.csv").read_text().count("bare,classic,synthetic,") == 1


@pytest.mark.slow
def test_the_keras_contender_trains_and_validates(race_args, tmp_path):
    from common import store_arrays

    race_args.arrays = str(tmp_path)
    store_arrays(race_args)
    # On its torch backend here: TensorFlow need not be installed.
    race = CONTENDERS["keras"].run(race_args)
    assert len(race.val_acc) == 1
    assert 0 < race.train_seconds[0] < race.seconds[0]


def test_finished_runs_and_earlier_races_are_compared(finished_run, tmp_path, script_here, capsys):
    (tmp_path / "races.csv").write_text(RACES.replace("cifar10", "synthetic"))
    assert script_here("race.py", "--runs", finished_run[0], tmp_path / "races.csv", f"--output={tmp_path}") == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split("  ")[0] for row in rows] == [
        "article classic, 4 epochs, seed 0",
        "keras wide, 2 epochs",
        "tutorial wide, 1 epochs",
    ]
    assert rows[1].split()[4:] == ["2.0", "-", "0.8250", "CPU,", "1", "thread"]
    assert (tmp_path / "benchmark.png").exists()
    # The time to the article's best is one on CIFAR-10 alone.
    (tmp_path / "races.csv").write_text(RACES)
    assert script_here("race.py", "--runs", tmp_path / "races.csv") == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[4:7] for row in rows] == [["2.0", "2.0", "0.8250"], ["1.5", "-", "0.5500"]]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_chart_names_the_device_or_each_of_several(tmp_path):
    import race_report

    (tmp_path / "races.csv").write_text(RACES)
    one = race_report.draw_runs(race_report.read_races(tmp_path / "races.csv"), tmp_path)
    assert one.get_suptitle() == "mini VGG on CIFAR-10, CPU, 1 thread"
    assert legend(one) == [
        "keras wide, 2 epochs: 82.5% after 2.0 min",
        "tutorial wide, 1 epochs: 55.0% after 1.5 min",
        "the article's best: 81.99%",
    ]
    assert one.axes[0].lines[0].get_xdata()[-1] == 2
    assert Image.open(tmp_path / "benchmark.png").size[0] == 1800
    (tmp_path / "races.csv").write_text(RACES.replace('"CPU, 1 thread"', '"CPU, 2 threads"', 2))
    two = race_report.draw_runs(race_report.read_races(tmp_path / "races.csv"), tmp_path)
    assert two.get_suptitle() == "mini VGG on CIFAR-10"
    assert [text.partition(":")[0] for text in legend(two)[:2]] == [
        "keras wide, 2 epochs, CPU, 2 threads",
        "tutorial wide, 1 epochs, CPU, 1 thread",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "nowhere"], "--runs nowhere: neither a run folder nor a benchmark.csv"),
        (["--runs", __file__], "neither a run folder nor a benchmark.csv"),
        (["--runs", str(REPOSITORY)], "no finished run; give folders with metrics.csv"),
        (["--contenders=graph"], "a CUDA graph needs --gpus 1"),
        (["--images=0"], "0: give a whole number, 50 or more"),
        (["--images=77"], "synthetic_size is 77"),
        (["--contenders=fastest"], "invalid choice: 'fastest'"),
    ],
)
def test_bad_options_are_one_line(options, message, script_here, capfd):
    assert script_here("race.py", *options) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_one_chart_of_several_data_sets_is_refused(tmp_path, script_here, capfd):
    (tmp_path / "races.csv").write_text(RACES.replace("tutorial,wide,cifar10", "tutorial,wide,synthetic"))
    assert script_here("race.py", "--runs", tmp_path / "races.csv", f"--output={tmp_path}") == 2
    assert "one chart cannot show cifar10 and synthetic" in capfd.readouterr().err
