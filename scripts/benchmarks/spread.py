"""How far apart results may lie by chance: seeds spread, and few seeds tell little. Accuracies are shares in [0, 1]."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

# A claim that is true is called broken in at most this share of the cases.
ERROR_RATE = 0.05
POWER = 0.8
# Where nothing is known of the spread: half a point, about what `classic` under the article's recipe has.
FLOOR = 0.005


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t, to about four digits.

    Args:
        probability: In (0, 1).
        freedom: Degrees of freedom, 1 or more.
    """
    # sqrt(freedom) tan(angle) has that distribution where angle's density is proportional to cos(angle)^(freedom - 1).
    edges = np.linspace(-np.pi / 2, np.pi / 2, 400_001)
    density = np.cos((edges[1:] + edges[:-1]) / 2) ** (freedom - 1)
    cumulative = np.concatenate(([0], density.cumsum() / density.sum()))
    return math.sqrt(freedom) * math.tan(np.interp(probability, cumulative, edges))


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation within groups and its degrees of freedom, 0 where no group has two values."""
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups)
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def tolerance(num_measured: int, claimed: Sequence[float], others: Sequence[Sequence[float]]) -> float:
    """Return by how much the mean of new seeds may lie below the mean of the claimed ones.

    One-sided prediction interval: t(0.95) s sqrt(1/n + 1/m) for n new and m claimed seeds, s the claim's own standard
    deviation; with one claimed seed that of `others`, pooled; without those FLOOR, taken as known. All seeds are tested
    on the same images, so which images they are adds nothing.
    """
    deviation, freedom = pooled_deviation([claimed])
    if not freedom:
        deviation, freedom = pooled_deviation(others)
    if not freedom:
        deviation, factor = FLOOR, statistics.NormalDist().inv_cdf(1 - ERROR_RATE)
    else:
        factor = t_quantile(1 - ERROR_RATE, freedom)
    return factor * deviation * math.sqrt(1 / num_measured + 1 / len(claimed))


def seeds_to_separate(difference: float, deviation: float) -> int:
    """Return how many seeds each of two recipes needs, so that a true difference is found with probability POWER.

    The smallest n with n >= 2 (s / difference)^2 (t(0.975) + t(0.8))^2, t with 2n - 2 degrees of freedom: the two-sided
    test of two means at ERROR_RATE.
    """
    n = 2
    while n < 2 * (deviation / difference) ** 2 * _both_quantiles(2 * n - 2) ** 2:
        n += 1
    return n


def _both_quantiles(freedom: int) -> float:
    return t_quantile(1 - ERROR_RATE / 2, freedom) + t_quantile(POWER, freedom)
