"""What `reproduce.py` prints: a verdict, the claims, how many seeds a difference needs."""

import statistics
from collections.abc import Sequence

from claims import Result, mean_and_spread, name_of
from spread import pooled_deviation, seeds_to_separate, tolerance

from minivgg_pl.cli.command import EXIT_FAILED
from minivgg_pl.errors import InputError

# In points of accuracy.
DIFFERENCES = (0.3, 0.5, 1.0)

Claims = dict[str, list[Result]]


def judge(measured: Sequence[Result], claimed: Sequence[Result], claims: Claims) -> int:
    """Print measured beside claimed and the verdict; return 0 for pass, or where nothing is claimed, and 1 for fail."""
    print(f"\n{name_of(measured[0])}, {measured[0]['epochs']} epochs")
    hashes = {row["seed"]: row["weights_sha256"] for row in claimed}
    for row in measured:
        same = row["weights_sha256"] and row["weights_sha256"] == hashes.get(row["seed"])
        note = "  the claim's weights, bit for bit" if same else ""
        print(f"seed {row['seed']:<8} train {row['train_acc']:.2%}  test {row['test_acc']:.2%}{note}")
    for label, rows in (("measured", measured), ("claimed", claimed)):
        if rows:
            train, test = (mean_and_spread([row[column] for row in rows]) for column in ("train_acc", "test_acc"))
            print(f"{label:<13} train {train}, test {test}, {len(rows)} seed{'s' if len(rows) > 1 else ''}")
    if not claimed:
        print("verdict       none: nothing of that name is claimed")
        return 0
    own, theirs = ([row["test_acc"] for row in rows] for rows in (measured, claimed))
    allowed = tolerance(len(own), theirs, [[row["test_acc"] for row in rows] for rows in claims.values()])
    difference = statistics.mean(own) - statistics.mean(theirs)
    passed = difference >= -allowed
    print(
        f"verdict       {'pass' if passed else 'FAIL'}: test accuracy {difference * 100:+.2f} points from the claim, "
        f"lowest allowed {-allowed * 100:.2f}"
    )
    return 0 if passed else EXIT_FAILED


def print_claims(claims: Claims) -> int:
    """Print a line for each claim."""
    for name, rows in claims.items():
        seeds = " ".join(str(row["seed"]) for row in rows)
        accuracy = mean_and_spread([row["test_acc"] for row in rows])
        print(f"{name:<16} {rows[0]['epochs']:>3} epochs  test accuracy {accuracy:<16} seeds {seeds}")
    return 0


def print_significance(claims: Claims) -> int:
    """Print how many seeds each of two recipes needs for a difference to be found.

    Raises:
        InputError: If no claim has two seeds.
    """
    deviation, freedom = pooled_deviation([[row["test_acc"] for row in rows] for rows in claims.values()])
    if not freedom:
        raise InputError("--significance: no claim has two seeds, so nothing is known of the spread; add runs first")
    print(f"pooled sample standard deviation {deviation * 100:.2f} points, {freedom} degrees of freedom")
    for points in DIFFERENCES:
        print(
            f"{points} points: {seeds_to_separate(points / 100, deviation)} seeds of each (two-sided 5 %, power 80 %)"
        )
    return 0
