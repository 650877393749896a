"""Hardware, system, revision and weights in a run's summary, and that equal runs have equal weights."""

import json
import os
import shutil
import subprocess
import time

import pytest
import torch
from torch import nn

from minivgg_pl import LitMiniVGG
from minivgg_pl.runs import environment
from minivgg_pl.runs.environment import describe_environment, git_state, weights_sha256
from tests.conftest import REPOSITORY


@pytest.fixture
def checkout(tmp_path):
    """A checkout of its own that holds the package's pyproject.toml."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message=one")
    return tmp_path


def git(folder, *words):
    name = ["-c", "user.name=tests", "-c", "user.email=tests@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_the_environment_names_processor_system_and_kernels():
    environment = describe_environment(torch.device("cpu"))
    cpu = environment["cpu"]
    assert cpu["threads"] <= cpu["logical_cores"] == os.cpu_count()
    assert cpu["torch_kernels"] == torch.backends.cpu.get_cpu_capability()
    if cpu["torch_kernels"] == "AVX2":
        assert {"avx2", "fma"} <= set(cpu["flags"])
    assert environment["os"].startswith(os.uname().sysname)
    assert environment["gpu"] is None


def test_the_weights_hash_of_an_earlier_version_is_still_the_same():
    run = REPOSITORY / "tests" / "cli" / "old_run"
    kept = LitMiniVGG.load_from_checkpoint(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert weights_of(run) == weights_sha256(kept.net)


def test_the_revision_is_the_checkouts_and_clean_until_a_tracked_file_changes(checkout):
    revision = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"revision": revision, "clean": True}
    (checkout / "untracked").touch()
    assert git_state(checkout) == {"revision": revision, "clean": True}
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert git_state(checkout) == {"revision": revision, "clean": False}


def test_a_repository_around_installed_packages_is_not_ours(checkout):
    packages = checkout / "site-packages"
    packages.mkdir()
    assert git_state(packages) is None
    (checkout / "pyproject.toml").write_text('[project]\nname = "somebody-elses"\n')
    assert git_state(checkout) is None


@pytest.mark.parametrize("script", [None, "exit 1", "exec sleep 60", "echo nonsense"])
def test_a_missing_broken_or_hanging_git_fails_no_run(checkout, monkeypatch, tmp_path_factory, script):
    programs = tmp_path_factory.mktemp("programs")
    if script:
        (programs / "git").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "git").chmod(0o755)
    # For `exec sleep` alone; the real git is beside sleep.
    (programs / "sleep").symlink_to(shutil.which("sleep"))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(environment, "TIMEOUT_SECONDS", 0.3)
    start = time.monotonic()
    assert git_state(checkout) is None
    assert time.monotonic() - start < 10


def test_the_weights_hash_sees_values_names_and_types_and_not_the_order_in_memory():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    expected = weights_sha256(net)
    assert weights_sha256(net.to(memory_format=torch.channels_last)) == expected
    assert weights_sha256(nn.ModuleDict({"a": net})) != expected
    assert weights_sha256(net.bfloat16()) != expected
    net = net.float()
    before = weights_sha256(net)
    net[1].num_batches_tracked += 1
    assert weights_sha256(net) != before


@pytest.fixture
def restore_determinism(monkeypatch):
    """Undo what a deterministic run in this process leaves."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


def weights_of(run):
    return json.loads((run / "summary.json").read_text())["weights_sha256"]


def assert_seed_alone_decides(train_here, tmp_path, options):
    for seed in (0, 0, 1):
        assert train_here(*options, f"--seed_everything={seed}") == 0
    runs = tmp_path / "runs" / "classic-synthetic"
    one, again, other = (weights_of(runs / number) for number in "123")
    assert one == again != other


def test_two_deterministic_runs_have_the_same_weights_and_another_seed_has_others(
    synthetic_options, train_here, tmp_path, restore_determinism
):
    options = [*synthetic_options, "--epochs=1", "--recipe=modern", "--data.batch_size=4"]
    options += ["--trainer.deterministic=true", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    assert_seed_alone_decides(train_here, tmp_path, options)
    summary = json.loads((tmp_path / "runs/classic-synthetic/1/summary.json").read_text())
    assert summary["environment"]["cpu"] == describe_environment(torch.device("cpu"))["cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_two_deterministic_runs_have_the_same_weights(
    synthetic_options, train_here, tmp_path, restore_determinism
):
    options = [*synthetic_options[1:], "--gpus=1", "--epochs=1", "--recipe=modern", "--trainer.deterministic=true"]
    assert_seed_alone_decides(train_here, tmp_path, options)
    gpu = json.loads((tmp_path / "runs/classic-synthetic/1/summary.json").read_text())["environment"]["gpu"]
    assert gpu["name"] == torch.cuda.get_device_name()
    assert gpu["driver"]
