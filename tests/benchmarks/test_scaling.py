"""The scaling model against numbers worked out by hand and a search, and its script on given numbers."""

import csv
import subprocess
import sys

import pytest
from PIL import Image

from minivgg_pl.models.minivgg import MiniVGG
from tests.conftest import BENCHMARKS

SCRIPTS = BENCHMARKS
GIVEN = ["--model-only", "--images-per-second=50000", "--overhead=0.002", "--bandwidth=5e10", "--latency=1e-5"]


@pytest.fixture
def model(monkeypatch):
    import scaling_model

    return scaling_model


def run(*options):
    command = [sys.executable, str(SCRIPTS / "scaling.py"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def terms(model):
    return model.Terms(images_per_second=1000, overhead=0.01, bandwidth=1e9, latency=0.001, num_bytes=8_000_000)


@pytest.mark.parametrize("variant", ["classic", "wide"])
def test_the_gradients_are_those_of_the_network(variant, model):
    net = MiniVGG(variant)
    assert model.gradient_bytes(variant) == sum(p.numel() * p.element_size() for p in net.parameters())


def test_a_step_takes_what_the_formula_says(model, terms):
    # 10 ms, 64 images of 1 ms, and 6 messages of 2 MB at 1 GB/s, 1 ms each to start.
    assert model.step_seconds(terms, 4, 64) == pytest.approx(0.010 + 0.064 + 6 * (0.002 + 0.001))
    assert model.step_seconds(terms, 1, 64) == pytest.approx(0.074)


def test_the_speed_up_counts_the_images_of_all_devices(model, terms):
    assert model.speed_up(terms, 4, 64, split=False) == pytest.approx(4 * 74 / 92)
    assert model.speed_up(terms, 4, 64, split=True) == pytest.approx(74 / (10 + 16 + 18))
    assert model.speed_up(terms, 1, 64, split=True) == model.speed_up(terms, 1, 64, split=False) == 1


def test_the_optimum_is_where_the_time_is_least(model, terms):
    # (64 ms - 2 * 8 ms) / (2 * 1 ms) = 24
    assert model.optimum(terms, 64) == pytest.approx(24**0.5)
    least = model.step_seconds(terms, 24**0.5, 64 / 24**0.5)
    assert all(least < model.step_seconds(terms, n, 64 / n) for n in (4.8, 5.0))
    assert model.optimum(terms, 15) == 1  # the gradients take longer than the images


@pytest.mark.parametrize("batch_size", [4, 15, 64, 256])
@pytest.mark.parametrize("latency", [1e-7, 1e-4, 1e-3, 5e-2])
@pytest.mark.parametrize("bandwidth", [1e8, 1e9, 1e11])
def test_fastest_and_most_efficient_are_what_a_search_finds(batch_size, latency, bandwidth, model, terms):
    terms = terms._replace(latency=latency, bandwidth=bandwidth)
    numbers = range(1, batch_size // 2 + 1)
    times = [model.step_seconds(terms, number, batch_size / number) for number in numbers]
    assert model.fastest(terms, batch_size) == min(zip(times, numbers, strict=True))[1]
    for split, some in ((True, numbers), (False, range(1, 3000))):
        half = [number for number in some if model.speed_up(terms, number, batch_size, split) / number >= 0.5]
        assert min(model.most_efficient(terms, batch_size, split), some[-1]) == max(half)


def test_given_numbers_are_predicted_printed_and_kept(tmp_path):
    process = run(*GIVEN, f"--output={tmp_path / 'scaling'}")
    assert process.returncode == 0, process.stderr
    assert "classic: 8.68 MB all-reduced a step" in process.stdout
    assert "wide: 4.66 MB all-reduced a step" in process.stdout
    assert "not measured" in process.stdout
    assert "classic, 64 split      1.00   1.16   1.24" in process.stdout
    with open(tmp_path / "scaling" / "scaling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"predicted"}
    assert {(row["variant"], row["batch"]) for row in rows} == {
        (variant, batch) for variant in ("classic", "wide") for batch in ("64 split", "64 on each")
    }
    # 2 ms, 32 images of 20 us, and two messages of 4.34 MB at 50 GB/s, 10 us each to start.
    assert float(rows[1]["images_per_second"]) == pytest.approx(64 / 2.8336e-3, rel=1e-4)
    assert Image.open(tmp_path / "scaling" / "scaling.png").size[0] >= 1800
    again = run(*GIVEN, f"--output={tmp_path / 'scaling'}")
    assert again.returncode == 2
    assert "scaling.csv: the file exists" in again.stderr


def test_what_was_measured_stands_in_the_file_and_the_image(model, terms, tmp_path):
    measured = [model.Measured(1, True, [100.0, 110.0], 1.0), model.Measured(2, False, [180.0, 220.0], 1.9)]
    text = model.as_csv({"wide": terms}, measured, "wide", 64)
    assert text.splitlines()[2] == "measured,wide,64 on each,2,200.0,1.9000,0.9500"
    model.draw({"wide": terms}, measured, "wide", 64, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds=0"], "--rounds 0: give 1 or more"),
        (["--devices", "1", "0"], "--devices 0: give 1 or more"),
        (["--devices", "40"], "--batch-size 64: give 80 or more: batch norm needs two images a device"),
        (["--model-only", "--latency=1e-5"], "give --model-only and --images-per-second, --overhead"),
        (["--latency=1e-5"], "or none of them"),
        ([*GIVEN, "--bandwidth=nan"], "--bandwidth nan: give 1e-12 to 1e+15"),
        (["--images=77"], "--images 77: give a multiple of 50, up to 50,000"),
        ([*GIVEN, f"--output={__file__}"], "File exists"),
    ],
)
def test_bad_options_are_one_line(options, message):
    process = run(*options)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: ")
    assert message in process.stderr
