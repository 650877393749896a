"""Metrics of class probabilities, against counts made by hand."""

import pytest
import torch

from minivgg_pl.evaluation import metrics as evaluation

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


def test_the_metrics_of_each_class_are_those_counted_by_hand():
    report = evaluation.class_metrics(3)(PROBABILITIES, LABELS)
    # Rows are true classes.
    assert report["confusion_matrix"].tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert report["precision"].tolist() == [0.5, 0.5, 0.0]
    assert report["recall"].tolist() == [1.0, 0.5, 0.0]
    assert report["f1"].tolist() == pytest.approx([2 / 3, 0.5, 0.0])


def test_a_temperature_undoes_what_the_logits_were_multiplied_by():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator)
    labels = logits.softmax(1).multinomial(1, generator=generator).flatten()
    assert evaluation.fit_temperature((logits * 2.5).softmax(1), labels) == pytest.approx(2.5, abs=0.1)
