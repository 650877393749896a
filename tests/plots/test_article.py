"""The article's numbers, against its own last rows and against column sums added up without this code."""

import pytest

from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.plots.article import article_rows

COLUMNS = ("train_loss", "train_acc", "val_loss", "val_acc")
SUMS = {"classic": (8.5973, 7.0074, 8.1244, 7.1906), "wide": (11.8973, 15.7940, 13.3265, 15.4395)}
LAST_ROWS = {"classic": (0.5799, 0.7946, 0.6166, 0.7898), "wide": (0.3292, 0.8845, 0.5491, 0.8199)}


@pytest.mark.parametrize("variant", sorted(ARCHITECTURES))
def test_the_rows_are_the_articles_table(variant):
    rows = article_rows(variant)
    assert [row["epoch"] for row in rows] == list(range(1, ARCHITECTURES[variant].epochs + 1))
    assert all(tuple(row) == ("epoch", *COLUMNS) for row in rows)
    assert tuple(rows[-1][column] for column in COLUMNS) == LAST_ROWS[variant]
    assert [sum(row[column] for row in rows) for column in COLUMNS] == pytest.approx(SUMS[variant], abs=1e-9)
