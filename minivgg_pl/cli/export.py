"""`scripts/export.py`: trained networks as files for other programs."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from minivgg_pl.cli.command import WEIGHTS, OneLineArgumentParser, guarded, load_weights
from minivgg_pl.files import check_output, write_atomically

ENDINGS = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors", "keras": ".weights.h5", "model-card": ".md"}

DESCRIPTION = """\
Write a trained network as a file for other programs. Its input is (N, 3, 32, 32), float32 in [0, 1]; the network itself
normalises it, where the weights need that.

  onnx         ONNX, one file, any batch size, outputs logits and probabilities; checked with onnxruntime
               (needs: pip install onnx onnxscript onnxruntime)
  pt2          torch.export program, any batch size; torch.export.load(FILE).module() runs it
  safetensors  weights and all that is known of them; --weights and MiniVGG.from_pretrained read it
  keras        weights for the article's model in Keras 3, model.load_weights(FILE) (needs: pip install h5py)
  model-card   a description in Markdown: what it is, what it takes, how good it is
"""
EXAMPLES = """\
examples:
  export.py wide --to onnx
  export.py runs/classic/1 --to keras --output classic.weights.h5
  export.py runs/wide/1 --to safetensors --half
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `scripts/export.py` with `argv` (default: the process's own) and return its exit code."""
    args = parse_arguments(argv)
    return guarded(lambda: export(args))


def parse_arguments(argv: Sequence[str] | None) -> Namespace:
    """Read the command line."""
    parser = OneLineArgumentParser(prog="export.py", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_class_options()
    parser.add_argument("--to", required=True, choices=ENDINGS, metavar="FORMAT", help="one of the above")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: the run's name, and the ending, here")
    parser.add_argument("--half", action="store_true", help="safetensors: keep kernels in float16, half the size")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="divide the logits by T")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    args = parser.parse_args(argv)
    if args.half and args.to != "safetensors":
        parser.error(f"--half has no effect with --to {args.to}: leave it out")
    if args.model and (args.to not in ("onnx", "pt2") or args.temperature != 1):
        parser.error("--model: a class of your own is exported with --to onnx or pt2 alone, and without --temperature")
    if not 0.01 <= args.temperature <= 100:
        parser.error(f"--temperature {args.temperature}: give a number from 0.01 to 100")
    return args


def export(args: Namespace) -> int:
    """Write the file that was asked for and say where it is.

    Raises:
        InputError: On bad input, or if an ONNX file would not do what the network does.
    """
    # Late: importing torch takes a second or two, and the help text and most errors need none of it.
    from minivgg_pl.weights import export as formats
    from minivgg_pl.weights.keras_h5 import keras_bytes, normalization_layer
    from minivgg_pl.weights.load import calibrated, weights_bytes

    trained = load_weights(args.weights, args.classes, args.model)
    if args.temperature != 1:
        trained = calibrated(trained, args.temperature)
    net = trained.net
    path = args.output or Path(formats.name_of(trained.source) + ENDINGS[args.to])
    check_output("--output", path, [ENDINGS[args.to]], args.overwrite)
    writers = {
        "onnx": formats.onnx_bytes,
        "pt2": formats.program_bytes,
        "safetensors": lambda trained: weights_bytes(trained, args.half),
        "keras": lambda trained: keras_bytes(net),
        "model-card": formats.model_card,
    }
    write_atomically(path, writers[args.to](trained))
    print(f"wrote {path} ({path.stat().st_size / 1e3:,.0f} kB)")
    if args.to == "keras" and (net.options["mean"] or net.options["std"]):
        print(f"In Keras, put this in front of the article's layers: {normalization_layer(net)}")
    return 0
