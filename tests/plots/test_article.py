"""The article's numbers, checked against its own last rows and against column sums added up apart from this code."""

import pytest

from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.plots.article import article_rows

COLUMNS = ("train_loss", "train_acc", "val_loss", "val_acc")
SUMS = {"classic": (8.5973, 7.0074, 8.1244, 7.1906), "wide": (11.8973, 15.7940, 13.3265, 15.4395)}
LAST_ROWS = {"classic": (0.5799, 0.7946, 0.6166, 0.7898), "wide": (0.3292, 0.8845, 0.5491, 0.8199)}
variants = pytest.mark.parametrize("variant", sorted(ARCHITECTURES))


@variants
def test_there_is_one_row_for_each_epoch_the_article_trains_counted_from_one(variant: str) -> None:
    epochs = [row["epoch"] for row in article_rows(variant)]
    assert epochs == list(range(1, ARCHITECTURES[variant].epochs + 1))
    assert all(isinstance(epoch, int) for epoch in epochs)


@variants
def test_the_last_row_is_the_articles_result(variant: str) -> None:
    last = article_rows(variant)[-1]
    assert tuple(last[column] for column in COLUMNS) == LAST_ROWS[variant]


@variants
def test_every_column_adds_up_to_the_sum_of_the_articles_table(variant: str) -> None:
    rows = article_rows(variant)
    assert [sum(row[column] for row in rows) for column in COLUMNS] == pytest.approx(SUMS[variant], abs=1e-9)


@variants
def test_rows_have_these_columns_and_accuracies_are_shares(variant: str) -> None:
    for row in article_rows(variant):
        assert tuple(row) == ("epoch", *COLUMNS)
        assert 0 <= row["train_acc"] <= 1
        assert 0 <= row["val_acc"] <= 1
