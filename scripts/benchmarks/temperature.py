"""Fit a temperature on the training images that a run held out: what its logits are to be divided by.

    python scripts/benchmarks/temperature.py runs/classic/1

`export.py --temperature T` divides them. A run of the same recipe on all images gets the same T.
"""

import sys
from pathlib import Path

import common  # noqa: F401 (it makes the package importable)

from minivgg_pl.cli.command import OneLineArgumentParser, guarded
from minivgg_pl.cli.parser import parse_data
from minivgg_pl.errors import InputError
from minivgg_pl.evaluation.inference import class_probabilities
from minivgg_pl.evaluation.metrics import evaluate_probabilities, fit_temperature
from minivgg_pl.weights.load import load_trained


def main() -> int:
    """Fit it and print the calibration error before and after."""
    parser = OneLineArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder; its data need --data.val_size 5000 or so")
    args = parser.parse_args()
    return guarded(lambda: fit(args.run))


def fit(run: Path) -> int:
    """Fit it on the run's validation images."""
    trained, data = load_trained(run), parse_data([], run)
    if not data.val_size:
        raise InputError(f"{run}: it held no training images out; give a run with --data.val_size")
    data.prepare_data()
    images = data.val_set
    probabilities = class_probabilities(trained.net, images.bytes_at(slice(None)))
    temperature = fit_temperature(probabilities, images.labels)
    calibrated = probabilities.log().div(temperature).softmax(dim=1)
    for name, values in (("as it is", probabilities), (f"temperature {temperature:g}", calibrated)):
        numbers = evaluate_probabilities(values, images.labels)
        error, loss = numbers["expected_calibration_error"], numbers["loss"]
        print(f"{name:<18}calibration error {error:.2%}  loss {loss:.4f}  accuracy {numbers['accuracy']:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
