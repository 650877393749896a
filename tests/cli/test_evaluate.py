"""What evaluate says of a network, against counts made by hand; and the command on a real run."""

import csv
import json

import pytest
import torch
from PIL import Image

from minivgg_pl.cli.evaluate import main, parse_arguments
from minivgg_pl.evaluation import metrics as evaluation
from tests.conftest import SYNTHETIC_SIZE

# Four images of three classes; the third and the fourth are mistakes.
PROBABILITIES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.05, 0.9, 0.05]])
LABELS = torch.tensor([0, 1, 1, 2])


def test_the_numbers_are_those_counted_by_hand():
    results = evaluation.evaluate_probabilities(PROBABILITIES, LABELS)
    assert results["images"] == 4
    assert results["accuracy"] == 0.5
    assert results["top5_accuracy"] is None
    expected = -torch.tensor([0.7, 0.8, 0.3, 0.05]).log().mean().item()
    assert results["loss"] == pytest.approx(expected)
    # Each image has a bin of its own: 0.7, 0.8 right, 0.6, 0.9 wrong.
    assert results["expected_calibration_error"] == pytest.approx((0.3 + 0.2 + 0.6 + 0.9) / 4)


def test_a_certain_mistake_has_a_finite_loss():
    certain = torch.tensor([[1.0, 0.0]])
    assert evaluation.evaluate_probabilities(certain, torch.tensor([1]))["loss"] == pytest.approx(87.3, abs=0.1)


@pytest.mark.parametrize(
    ("hits", "total", "expected"), [(0, 10, (0.0, 0.2775)), (8643, 10_000, (0.8575, 0.8709)), (10, 10, (0.7225, 1.0))]
)
def test_the_interval_is_wilsons(hits, total, expected):
    # The published formula's values, such as in Brown, Cai, DasGupta, Statistical Science 16 (2001).
    assert evaluation.wilson_interval(hits, total) == pytest.approx(expected, abs=1e-4)


def test_the_most_confident_mistakes_come_first():
    mistakes = evaluation.confident_mistakes(PROBABILITIES, LABELS, 5)
    assert [(index, guess) for index, guess, _ in mistakes] == [(3, 1), (2, 0)]
    assert evaluation.confident_mistakes(PROBABILITIES, LABELS, 1) == mistakes[:1]


def test_reliability_bins_hold_every_image_once():
    bins = evaluation.reliability(PROBABILITIES, LABELS)
    assert [accuracy for _, accuracy, _ in bins] == [0.0, 1.0, 1.0, 0.0]
    assert sum(count for *_, count in bins) == 4


@pytest.fixture
def data_options(synthetic_root):
    return [f"--data.root={synthetic_root}", "--data.dataset=synthetic", f"--data.synthetic_size={SYNTHETIC_SIZE}"]


def test_a_run_is_measured_as_its_own_test_measured_it(finished_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    # The run's own data, without being told.
    assert main([str(finished_run[0]), "--tta=flip"]) == 0
    folder = tmp_path / "runs" / "evaluate-classic-synthetic" / "1"
    summary = json.loads((folder / "summary.json").read_text())
    of_run = json.loads((finished_run[0] / "summary.json").read_text())
    assert summary["accuracy"] == pytest.approx(of_run["test_acc"], abs=1e-6)
    assert summary["loss"] == pytest.approx(of_run["test_loss"], rel=1e-4)
    assert summary["weights_facts"]["test_accuracy"] == of_run["test_acc"]
    assert 0 <= summary["with_mirror_images"]["accuracy"] <= 1
    assert (folder / "report.csv").read_text() == (finished_run[0] / "report.csv").read_text()
    with open(folder / "predictions.csv", newline="") as file:
        answers = list(csv.DictReader(file))
    hits = sum(row["true class"] == row["predicted class"] for row in answers)
    assert hits / len(answers) == pytest.approx(summary["accuracy"])
    assert [row["image"] for row in answers] == [str(number) for number in range(SYNTHETIC_SIZE // 5)]
    with open(folder / "confusion_matrix.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert sum(int(count) for row in rows[1:] for count in row[1:]) == SYNTHETIC_SIZE // 5
    with open(folder / "confusion_matrix_normalized.csv", newline="") as file:
        shares = list(csv.reader(file))
    assert all(sum(map(float, row[1:])) == pytest.approx(1, abs=1e-4) for row in shares[1:])
    for name in ("confusion_matrix", "confusion_matrix_normalized", "mistakes", "reliability"):
        assert min(Image.open(folder / f"{name}.png").size) > 400
    out = capfd.readouterr().out
    assert "accuracy" in out
    assert "mirror images" in out
    assert f"folder           {folder.relative_to(tmp_path)}" in out


def test_options_of_the_data_may_stand_anywhere():
    args, data = parse_arguments(["--data.dataset", "synthetic", "wide", "--data=M", "--tta", "flip", "--data.root=x"])
    assert (args.weights, args.tta) == ("wide", "flip")
    assert data == ["--data.dataset", "synthetic", "--data=M", "--data.root=x"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nothing"], "nothing: there is no such file or folder; give classic, wide"),
        (["wide", "--output=."], "--output .: it exists; give a new folder"),
        (["wide", "--tta=crop"], "invalid choice: 'crop'"),
        (["wide", "--speed=3"], "unrecognized arguments: --speed=3"),
        # jsonargparse 4.39 says "expected", newer ones "accepted".
        (["wide", "--data.size=3"], "size' is not "),
        (["wide", "--data=Nope"], "--data minivgg_pl.Nope: no such class"),
        (["wide", "SYNTHETIC"], "it knows 10 classes (airplane, automobile, bird, ...), and the data have 10"),
        ([], "required: WEIGHTS"),
    ],
)
def test_bad_input_is_one_line(data_options, tmp_path, monkeypatch, capfd, options, message):
    monkeypatch.chdir(tmp_path)
    words = [word for option in options for word in (data_options if option == "SYNTHETIC" else [option])]
    try:
        code = main(words)
    except SystemExit as exit_:
        code = exit_.code
    error = capfd.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())
