"""Several processes: each image once, the same updates, one run folder, one line."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from minivgg_pl.data.loader import ImageDataset, ImageLoader, batch_sizes
from minivgg_pl.errors import InputError
from minivgg_pl.training.signals import LOST_PROCESS
from tests.cli.test_train import metrics
from tests.conftest import SYNTHETIC_SIZE, TRAIN, run_train

TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]


def images(number):
    """Return images that their labels tell apart."""
    return ImageDataset(torch.zeros(number, 1, 1, 3, dtype=torch.uint8), torch.arange(number), num_classes=number)


def epochs(number, batch_size, num_devices, epoch=0, seed=5):
    """Return each device's batches of an epoch, as lists of indices."""
    loaders = [ImageLoader(images(number), batch_size, num_devices, rank, seed) for rank in range(num_devices)]
    for loader in loaders:
        loader.next_epoch = epoch
    return [[targets.argmax(dim=1).tolist() for _, targets in loader] for loader in loaders]


@pytest.mark.parametrize("num_devices", [1, 2, 3])
@pytest.mark.parametrize(("number", "batch_size"), [(200, 48), (199, 48), (97, 48), (101, 20), (145, 24), (48, 48)])
def test_an_epoch_shows_every_image_once_in_as_many_batches_on_every_device(number, batch_size, num_devices):
    devices = epochs(number, batch_size, num_devices)
    assert sorted(itertools.chain(*itertools.chain(*devices))) == list(range(number))
    assert len({len(batches) for batches in devices}) == 1
    for shares in zip(*devices, strict=True):
        sizes = [len(share) for share in shares]
        assert min(sizes) >= 2
        assert max(sizes) - min(sizes) <= 1


def test_the_devices_agree_on_an_order_that_changes_with_the_epoch():
    first, second = epochs(200, 48, 2), epochs(200, 48, 2, epoch=1)
    assert first != second
    # Together the devices make the batches that one alone makes.
    (alone,) = epochs(200, 48, 1)
    assert [sorted(sum(shares, [])) for shares in zip(*first, strict=True)] == [sorted(batch) for batch in alone]


@pytest.mark.parametrize("num_devices", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [1000, 257, 64, 65, 7])
def test_an_evaluation_counts_every_image_once_in_as_many_batches_on_every_device(number, num_devices):
    devices = epochs(number, 64, num_devices, seed=None)
    assert sorted(itertools.chain(*itertools.chain(*devices))) == list(range(number))
    assert len({len(batches) for batches in devices}) == 1


def test_a_rest_too_small_joins_the_batch_before_it():
    assert batch_sizes(129, 64, least=2) == [64, 65]
    assert batch_sizes(130, 64, least=2) == [64, 64, 2]
    assert batch_sizes(3, 64, least=2) == [3]
    with pytest.raises(InputError, match="3 images leave a device with too few: 4 are needed"):
        batch_sizes(3, 64, least=4)


COUNTER = """
import json, os, shutil
from lightning.pytorch import Callback

class Count(Callback):
    def __init__(self):
        self.seen = {"train": [], "val": [], "test": []}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        is_there = (trainer.current_epoch, batch_idx, trainer.global_rank) == (0, 3, 0)
        if is_there and not os.path.exists("inside.ckpt"):
            shutil.copy("runs/classic-synthetic/1/checkpoints/last.ckpt", "inside.ckpt")

    def see(self, stage, epoch, batch):
        self.seen[stage] += [[epoch, hash_] for hash_ in (batch[0].double().sum(dim=(1, 2, 3)) * 255).round().tolist()]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.see("train", trainer.current_epoch, batch)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.see("val", trainer.current_epoch, batch)

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.see("test", 0, batch)

    def on_test_end(self, trainer, module):
        with open(f"seen-{trainer.global_rank}.json", "w") as file:
            json.dump(self.seen, file)
"""


@pytest.fixture
def counter(tmp_path):
    """The environment of a run in `tmp_path` that counts what each process sees."""
    (tmp_path / "counter.py").write_text(textwrap.dedent(COUNTER))
    return {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}


def train_split(synthetic_options, folder, env):
    """Train two epochs, batches of 47 split over two processes; return run folder and process."""
    process = run_train(
        *synthetic_options[1:],
        *TWO,
        "--epochs=2",
        "--data.batch_size=47",
        "--data.split_batches=true",
        "--checkpoint_every_n_steps=3",
        "--trainer.callbacks=counter.Count",
        cwd=folder,
        env=env,
    )
    return folder / "runs" / "classic-synthetic" / "1", process


def test_processes_share_the_images_one_folder_and_one_line(synthetic_options, tmp_path, counter):
    size = SYNTHETIC_SIZE
    run, process = train_split(synthetic_options, tmp_path, counter)
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    images = {stage: sorted(tuple(pair) for one in seen for pair in one[stage]) for stage in ("train", "val", "test")}
    # Which image it was is told by the sum of its bytes.
    assert len(images["train"]) == 2 * size
    assert len(images["val"]) == 2 * size // 5
    assert len(images["test"]) == size // 5
    first, second = ([image for epoch, image in images["train"] if epoch == number] for number in (0, 1))
    assert first == second
    assert [p.name for p in run.parent.iterdir()] == ["1"]
    assert [row["step"] for row in metrics(run)] == ["5", "10"]
    assert process.stdout.count("run folder") == process.stdout.count("epoch 2/2") == 1
    assert "2 devices: 47 images a batch" in process.stderr + process.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["train_images"], summary["test_images"]) == (size, size // 5)
    assert (summary["num_devices"], summary["global_batch_size"]) == (2, 47)


@pytest.mark.slow
def test_every_process_draws_again_what_it_drew_from_the_middle_of_an_epoch_on(synthetic_options, tmp_path, counter):
    run, _ = train_split(synthetic_options, tmp_path, counter)
    summary, rows = json.loads((run / "summary.json").read_text()), metrics(run)
    (run / "summary.json").unlink()
    shutil.copy(tmp_path / "inside.ckpt", run / "checkpoints" / "last.ckpt")
    run_train("--resume", run, cwd=tmp_path, env=counter)
    assert json.loads((run / "summary.json").read_text())["weights_sha256"] == summary["weights_sha256"]
    assert [row["train_loss"] for row in metrics(run)] == [row["train_loss"] for row in rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*TWO, "--data.batch_size=3", "--data.split_batches=true"], "batch norm needs 2 on each of 2 devices"),
        ([*TWO, "--trainer.strategy=ddp_spawn"], "a strategy that spawns or forks cannot be tested"),
        ([*TWO, "--trainer.strategy=DDPStrategy", "--trainer.strategy.start_method=fork"], "spawns or forks"),
        ([*TWO, "--trainer.sync_batchnorm=true"], "--trainer.sync_batchnorm true: torch has it on GPUs alone"),
    ],
)
def test_what_devices_cannot_do_is_one_line_before_any_process_starts(
    options, message, synthetic_options, tmp_path, train_here, capfd
):
    assert train_here(*synthetic_options[1:], *options) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_all_processes_in_one_line(number, code, synthetic_options, tmp_path):
    process = subprocess.Popen(
        [sys.executable, TRAIN, *synthetic_options[1:], *TWO, "--epochs=500"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # What a shell starts in the background ignores SIGINT, and so do its children: not what a terminal does.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )
    try:
        while not process.stdout.readline().startswith("epoch 1/"):
            assert process.poll() is None
        process.send_signal(number)
        start = time.monotonic()
        _, error = process.communicate(timeout=60)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    assert process.returncode == code
    assert time.monotonic() - start < 45
    assert error.count("error: ") == 1
    assert "To go on: --resume runs/classic-synthetic/1" in error
    assert "Traceback" not in error


NCCL = "NCCL error in: torch/csrc/distributed/c10d/NCCLUtils.hpp:268, "


@pytest.mark.parametrize(
    ("message", "is_lost"),
    [
        ("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:21", True),
        (f"{NCCL}remote process exited or there was a network error, NCCL version 2.21.5", True),
        (f"{NCCL}internal error\nLast error:\nNet : Connection closed by remote peer host<50260>", True),
        (f"{NCCL}unhandled system error\nLast error:\nsocketProgressOpt: Call to recv failed : Broken pipe", True),
        ("NCCL communicator was aborted on rank 0. ", True),
        ("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=BROADCAST)", True),
        ("Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?", True),
        (f"{NCCL}invalid usage\nLast error:\nDuplicate GPU detected : rank 0 and rank 1 both on device 1a000", False),
        (f"{NCCL}unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'", False),
        ("The server socket has failed to listen on any local network address. port: 29500, EADDRINUSE", False),
    ],
)
def test_a_lost_process_is_told_from_other_errors_of_collectives(message, is_lost):
    assert bool(re.search(LOST_PROCESS, message)) == is_lost


KILLER = """
import os, signal, threading
from lightning.pytorch import Callback

class KillSecond(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        elif trainer.current_epoch == 1:
            # As under load: Lightning's observer sees it first, and would kill this process.
            [thread.join() for thread in threading.enumerate() if thread.name == "child-process-observer"]
"""


def test_the_death_of_another_process_is_one_line_with_the_way_to_go_on(synthetic_options, tmp_path):
    (tmp_path / "killer.py").write_text(textwrap.dedent(KILLER))
    process = run_train(
        *synthetic_options[1:],
        *TWO,
        "--epochs=3",
        "--trainer.callbacks=killer.KillSecond",
        cwd=tmp_path,
        env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert process.returncode == 1
    assert "another process of the run is gone. To go on: --resume runs/classic-synthetic/1" in process.stderr
    assert "Traceback" not in process.stderr
