"""The article's own results, epoch by epoch.

Source: Rashida Nasrin Sucky, "Complete Implementation of a Mini VGG Network for Image Recognition", Towards Data
Science, 27 February 2023. Its validation set is CIFAR-10's test set. Its train columns are averages over the epoch,
measured with dropout on while the weights change.
"""

import csv
from importlib import resources

from minivgg_pl.errors import InputError


def article_rows(variant: str) -> list[dict[str, float]]:
    """Return what the article reports for `classic` (10 epochs) or `wide` (20 epochs).

    Returns:
        Rows with `epoch` (int, from 1), `train_loss` and `val_loss` (mean cross-entropy in nats), `train_acc` and
        `val_acc` (share in [0, 1]), in epoch order.

    Raises:
        InputError: If the article does not have this network.
    """
    table = resources.files("minivgg_pl.plots").joinpath(f"article_{variant}.csv")
    if not table.is_file():
        raise InputError(f"--curves.reference article: the article has no network {variant}; leave the option out")
    with table.open(encoding="utf-8", newline="") as file:
        return [
            {**{name: float(value) for name, value in row.items()}, "epoch": int(row["epoch"])}
            for row in csv.DictReader(file)
        ]
