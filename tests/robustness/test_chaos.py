"""Chaos: real trainings, killed at random moments and resumed until they are done."""

import csv
import json
import os
import random
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image

from tests.cli.test_train import assert_same_tensors, checkpoint, metrics, without_times
from tests.conftest import TRAIN

KILLS = int(os.environ.get("MINIVGG_KILLS", "50"))
EPOCHS = 25
# The second also saves inside epochs, measures batch norm anew, and draws flips and shifts.
KINDS = {"article": [], "modern": ["--recipe=modern", "--data.batch_size=50", "--checkpoint_every_n_steps=1"]}
READERS = {
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": lambda path: list(csv.DictReader(path.open(newline=""))),
    ".png": lambda path: Image.open(path).load(),
    ".ckpt": lambda path: torch.load(path, weights_only=True),
}


def finished_epochs(run):
    if not (run / "checkpoints" / "last.ckpt").exists():
        return 0
    return checkpoint(run)["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def check_every_file_is_whole(run):
    for path in run.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            READERS[path.suffix](path)


class Training:
    """One run in a folder of its own, over as many processes as it takes."""

    def __init__(self, kind, folder, options):
        self.options = [*options, *KINDS[kind], f"--epochs={EPOCHS}"]
        self.folder = folder
        folder.mkdir()
        self.run = None
        self.process = None

    def start(self):
        """Start or resume it; return whether there was something to resume."""
        found = [path.parent for path in self.folder.glob("runs/*/*/config.yaml")]
        assert len(found) <= 1
        self.run = found[0] if found else None
        command = ["--resume", str(self.run)] if self.run else self.options
        with (self.folder / "output.txt").open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, TRAIN, *command], cwd=self.folder, stdout=output, stderr=subprocess.STDOUT
            )
        return bool(self.run)

    def said(self):
        return (self.folder / "output.txt").read_text()

    def epochs_said(self):
        """Return how many epochs this start has finished, and the number of the last."""
        lines = [line for line in self.said().splitlines() if line.startswith("epoch ")]
        return len(lines), int(lines[-1].split()[1].partition("/")[0]) if lines else 0

    def lives(self, epochs, seconds):
        """Wait until this start has finished `epochs` epochs, and `seconds` more; return whether it still runs."""
        while self.process.poll() is None and self.epochs_said()[0] < epochs:
            time.sleep(0.02)
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return True
        return False


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, synthetic_options):
    """A run of each kind without a kill, its seconds until the end of the first epoch, and its seconds an epoch."""
    results = {}
    for kind in KINDS:
        training = Training(kind, tmp_path_factory.mktemp("whole") / kind, synthetic_options)
        start = time.monotonic()
        training.start()
        assert training.lives(epochs=1, seconds=0), training.said()
        first = time.monotonic() - start
        assert training.process.wait() == 0, training.said()
        an_epoch = (time.monotonic() - start - first) / EPOCHS
        (config,) = training.folder.glob("runs/*/*/config.yaml")
        results[kind] = config.parent, first, an_epoch
    return results


@pytest.mark.chaos
def test_kills_at_random_moments_lose_the_epoch_in_progress_at_most(uninterrupted, synthetic_options, tmp_path):
    chance = random.Random(0)
    kills = resumes = runs = most_lost = 0
    while kills < KILLS:
        kind = list(KINDS)[runs % len(KINDS)]
        whole, first, an_epoch = uninterrupted[kind]
        training = Training(kind, tmp_path / str(runs), synthetic_options)
        while True:
            resumes += training.start()
            # In start-up, from the first instant on, or inside one of the next epochs, or between two.
            epochs = chance.choice([0, 1, 1, 2, 3])
            seconds = chance.uniform(0, an_epoch if epochs else first)
            if kills == KILLS or not training.lives(epochs, seconds):
                assert training.process.wait() == 0, training.said()
                break
            training.process.kill()
            training.process.wait()
            kills += 1
            for run in training.folder.glob("runs/*/*"):
                check_every_file_is_whole(run)
                lost = max(training.epochs_said()[1], len(metrics(run)) if (run / "metrics.csv").exists() else 0)
                most_lost = max(most_lost, lost - finished_epochs(run))
                assert lost - finished_epochs(run) <= 1
        runs += 1
        (run,) = (path.parent for path in training.folder.glob("runs/*/*/summary.json"))
        assert without_times(metrics(run)) == without_times(metrics(whole))
        assert_same_tensors(checkpoint(run)["state_dict"], checkpoint(whole)["state_dict"])
        assert not list(run.rglob("*.part"))
    print(f"{kills} kills, {resumes} resumes, {runs} runs finished; most epochs lost by one kill: {most_lost}")
