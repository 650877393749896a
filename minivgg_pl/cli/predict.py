"""`scripts/predict.py`: classification of image files."""

import csv
import io
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minivgg_pl.cli.command import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    WEIGHTS,
    OneLineArgumentParser,
    fail,
    guarded,
    load_weights,
)
from minivgg_pl.errors import InputError, as_line
from minivgg_pl.files import check_output, write_atomically

if TYPE_CHECKING:
    from minivgg_pl.weights.load import TrainedNetwork

# The more accurate of the two that come with the package.
DEFAULT = "wide"
MAX_GRID_IMAGES = 64
# Pixels a side of an image on the grid.
THUMBNAIL_SIZE = 160

DESCRIPTION = """\
Classify images: a line for each, with the file and its likeliest classes and their probabilities.

An image of any size and format that Pillow reads is cut to its largest centred square and averaged down to what the
network takes (32 x 32 pixels). A file that cannot be read is named on stderr and skipped.
"""
EXAMPLES = """\
examples:
  predict.py cat.jpg
  predict.py holiday_photos --output classes.csv --grid classes.png
  predict.py cat.jpg --weights runs/wide/1 --top 1

exit code: 0 every image answered, 1 some skipped, 2 bad input or none answered
"""

# An image file and its likeliest classes in falling order, each with its probability in [0, 1].
Prediction = tuple[Path, list[tuple[str, float]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `scripts/predict.py` with `argv` (default: the process's own) and return its exit code."""
    args = parse_arguments(argv)
    return guarded(lambda: predict(args))


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    """Read the command line."""
    parser = OneLineArgumentParser(prog="predict.py", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="images, or folders of them")
    parser.add_argument("--weights", default=DEFAULT, metavar="NAME|PATH", help=f"{WEIGHTS} ({DEFAULT})")
    parser.add_class_options()
    parser.add_argument("--top", type=int, default=3, metavar="N", help="how many classes to name (3)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the answers to a .csv or .json file instead")
    parser.add_argument(
        "--grid", type=Path, metavar="FILE.png", help=f"draw the first {MAX_GRID_IMAGES} images with their answers"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error(f"--top {args.top}: give 1 or more")
    return args


def predict(args: Namespace) -> int:
    """Answer all images, print or write the answers, and return the exit code."""
    check_output("--output", args.output, [".csv", ".json"], args.overwrite)
    check_output("--grid", args.grid, [".png", ".jpg", ".pdf", ".svg"], args.overwrite)
    files = find_images(args.images)
    trained = load_weights(args.weights, args.classes, args.model)
    predictions = _answers(trained, files, args.top)
    if not predictions:
        return fail("none of the images could be read", EXIT_BAD_INPUT)
    if args.output:
        write_atomically(args.output, as_csv(predictions) if args.output.suffix == ".csv" else as_json(predictions))
        print(f"wrote {args.output}: {len(predictions):,} images")
    else:
        print(as_lines(predictions, aligned=sys.stdout.isatty()), flush=True)
    if args.grid:
        _draw_grid(args.grid, predictions)
    return EXIT_FAILED if len(predictions) < len(files) else 0


def find_images(paths: Sequence[str]) -> list[Path]:
    """Return the files at `paths`, and the image files in the folders there and below, sorted.

    Raises:
        InputError: If there is nothing at a path, or a folder has no images.
    """
    from minivgg_pl.data.image_files import HEIC, image_files, other_files

    files: list[Path] = []
    for typed in paths:
        path = Path(typed)
        if not path.exists():
            raise InputError(f"{typed}: there is no such file or folder; give an image or a folder of them")
        found = image_files(path) if path.is_dir() else [path]
        if not found:
            raise InputError(f"{path}: the folder has no images{other_files(path)}; give one that has, or an image")
        # A phone's photos, if they cannot be read, are named and not left out.
        files += image_files(path, HEIC) if path.is_dir() else found
    return files


def _answers(trained: "TrainedNetwork", files: Sequence[Path], top: int) -> list[Prediction]:
    import numpy as np
    from tqdm import tqdm

    from minivgg_pl.data.images import read_image
    from minivgg_pl.evaluation.inference import BATCH_SIZE, class_probabilities
    from minivgg_pl.memory import keep_freed_memory

    keep_freed_memory()
    channels, size, _ = trained.net.image_shape
    names = trained.class_names
    predictions: list[Prediction] = []

    def warn(message: str) -> None:
        tqdm.write(as_line(message), file=sys.stderr)

    batches = [files[start : start + BATCH_SIZE] for start in range(0, len(files), BATCH_SIZE)]
    # Hidden for a single batch, and where stderr is not a terminal.
    for batch in tqdm(batches, unit=" batches", disable=None if len(batches) > 1 else True):
        readable, pixels = [], []
        for file in batch:
            try:
                pixels.append(read_image(file, size, channels, warn))
                readable.append(file)
            except InputError as error:
                if len(files) == 1:
                    raise
                warn(f"skipped: {error}")
        if pixels:
            best = class_probabilities(trained.net, np.stack(pixels)).topk(min(top, len(names)))
            for file, values, indices in zip(readable, best.values.tolist(), best.indices.tolist(), strict=True):
                predictions.append((file, [(names[i], p) for i, p in zip(indices, values, strict=True)]))
    return predictions


def as_lines(predictions: Sequence[Prediction], aligned: bool) -> str:
    """Return a line for each image: columns aligned for a terminal, or cells between tabs for other programs."""
    # One line each: the name of a file or a class may hold tabs and line breaks.
    escapes = {ord(letter): repr(letter)[1:-1] for letter in "\t\n\r"}
    rows = [
        (str(file).translate(escapes), [(name.translate(escapes), p) for name, p in classes])
        for file, classes in predictions
    ]
    if not aligned:
        return "\n".join("\t".join([file, *_cells(classes)]) for file, classes in rows)
    width = max(len(file) for file, _ in rows)
    name_width = max(len(name) for _, classes in rows for name, _ in classes)
    lines = []
    for file, classes in rows:
        cells = [f"{name:<{name_width}} {p * 100:3.0f} %" for name, p in classes]
        lines.append("   ".join([f"{file:<{width}}", *cells]))
    return "\n".join(lines)


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Return a table with a header: file, class_1, probability_1, and so on."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    numbers = range(1, len(predictions[0][1]) + 1)
    writer.writerow(["file", *(f"{what}_{number}" for number in numbers for what in ("class", "probability"))])
    writer.writerows([str(file), *_cells(classes)] for file, classes in predictions)
    return text.getvalue()


def as_json(predictions: Sequence[Prediction]) -> str:
    """Return a list of `{"file": ..., "predictions": [{"class": ..., "probability": ...}, ...]}`."""
    content = [
        {"file": str(file), "predictions": [{"class": name, "probability": p} for name, p in classes]}
        for file, classes in predictions
    ]
    return json.dumps(content, indent=2) + "\n"


def _cells(classes: Sequence[tuple[str, float]]) -> list[str]:
    return [cell for name, probability in classes for cell in (name, f"{probability:.6f}")]


def _draw_grid(path: Path, predictions: Sequence[Prediction]) -> None:
    from minivgg_pl.data.images import read_image
    from minivgg_pl.plots.gallery import draw_gallery

    shown = predictions[:MAX_GRID_IMAGES]
    # Warned of already.
    images = [read_image(file, THUMBNAIL_SIZE, warn=lambda line: None) for file, _ in shown]
    captions = [f"{file.name}\n{classes[0][0]} {classes[0][1] * 100:.0f} %" for file, classes in shown]
    draw_gallery(images, captions, path)
    which = f"the first {len(shown)} of " if len(shown) < len(predictions) else ""
    # On stderr: other programs may read the answers on stdout.
    print(f"wrote {path}: {which}{len(predictions):,} images", file=sys.stderr)
