"""Write images of CIFAR-10's test set as a folder of JPEGs, like a user's own, to measure fine-tuning on.

    python scripts/benchmarks/own_images.py my_images --train 150

Four classes, three of them under the names that the shipped weights know. Sizes are 64 to 400 pixels. The images of
`val`, 300 a class, do not depend on the number in `train`.
"""

import sys
from pathlib import Path

import numpy as np
from common import whole_number
from PIL import Image

from minivgg_pl import CIFAR10DataModule
from minivgg_pl.cli.command import OneLineArgumentParser, guarded
from minivgg_pl.errors import InputError

CLASSES = {"cat": "Cat", "dog": "dog", "ship": "ship", "automobile": "sports car"}
MOST_TRAIN, VAL = 150, 300
SIZES = (64, 400)


def main() -> int:
    """Write the folder."""
    parser = OneLineArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--train", type=whole_number(2), default=MOST_TRAIN, metavar="N", help="images a class (150)")
    parser.add_argument("--root", default="data", metavar="DIR", help="folder of CIFAR-10 (data)")
    args = parser.parse_args()
    return guarded(lambda: write(args.folder, args.train, args.root))


def write(folder: Path, num_train: int, root: str) -> int:
    """Write `num_train` images a class to `folder/train`, and VAL to `folder/val`."""
    if folder.exists() or num_train > MOST_TRAIN:
        raise InputError(f"give a new folder, not {folder}, and --train {MOST_TRAIN} at most")
    data = CIFAR10DataModule(root)
    data.prepare_data()
    images = data.test_set
    rng = np.random.default_rng(0)
    orders = [rng.permutation(np.flatnonzero(images.labels == label)) for label in range(len(data.class_names))]
    for cifar, name in CLASSES.items():
        members = orders[data.class_names.index(cifar)]
        for split, chosen in (("train", members[:num_train]), ("val", members[MOST_TRAIN : MOST_TRAIN + VAL])):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in chosen:
                # Of the index alone, so that each image is the same in every folder.
                size = int(np.random.default_rng(index).integers(SIZES[0], SIZES[1] + 1))
                image = Image.fromarray(images.bytes_at(int(index)).numpy())
                image.resize((size, size), Image.Resampling.BICUBIC).save(place / f"{index:04}.jpg", quality=90)
    print(f"wrote {folder}: {num_train} images a class in train, {VAL} in val")
    return 0


if __name__ == "__main__":
    sys.exit(main())
