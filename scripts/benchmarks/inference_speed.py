"""Time a trained network on the CPU: torch eager beside the exported ONNX model.

    python scripts/benchmarks/inference_speed.py wide

Sides take turns, with the same number of threads; each time is the median of its rounds. Needs onnx, onnxscript and
onnxruntime: pip install -e '.[onnx]'
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Works from a clone, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from minivgg_pl.cli.command import OneLineArgumentParser, guarded
from minivgg_pl.runs.environment import device_name
from minivgg_pl.weights.export import onnx_bytes
from minivgg_pl.weights.load import TrainedNetwork, load_trained

# Calls a round for each batch size, so that a round takes both sides some tenths of a second.
CALLS = {1: 200, 256: 4}
WARM_UP_CALLS = 3


def main() -> int:
    """Time both sides in turns and print the table."""
    args = parse_arguments()
    return guarded(lambda: compare(args))


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = OneLineArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="WEIGHTS", help="classic, wide, a run folder, a .ckpt or .safetensors file")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side (default: 9)")
    parser.add_argument("--threads", type=int, help="threads of both sides (default: PyTorch's choice)")
    args = parser.parse_args()
    for name in ("rounds", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: give 1 or more")
    return args


def compare(args: argparse.Namespace) -> int:
    """Print milliseconds a batch and images a second of both sides, for each batch size."""
    if args.threads:
        torch.set_num_threads(args.threads)
    trained = load_trained(args.weights)
    onnx = onnx_side(trained)
    print(f"{trained.source} on {device_name(torch.device('cpu'))}")
    print("\nbatch  torch ms  images/s   ONNX ms  images/s  torch / ONNX")
    for size, calls in CALLS.items():
        images = torch.rand(size, *trained.net.image_shape)
        sides = [torch_side(trained, images), lambda images=images: onnx(images)]
        seconds = [[time_calls(side, calls) for side in sides] for _ in range(args.rounds)]
        eager, exported = (statistics.median(times) for times in zip(*seconds, strict=True))
        ratio = statistics.median(a / b for a, b in seconds)
        print(
            f"{size:>5} {eager * 1e3:>9.2f} {size / eager:>9,.0f} {exported * 1e3:>9.2f} {size / exported:>9,.0f} "
            f"{ratio:>13.2f}"
        )
    return 0


def torch_side(trained: TrainedNetwork, images: torch.Tensor) -> Callable[[], object]:
    """Return what runs the network on `images`, in the memory order that predict.py's have."""
    net, images = trained.net, images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> object:
        return net(images).softmax(dim=1)

    return run


def onnx_side(trained: TrainedNetwork) -> Callable[[torch.Tensor], object]:
    """Return what runs the exported network on images, with as many threads as torch."""
    content = onnx_bytes(trained)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images.numpy()})


def time_calls(side: Callable[[], object], calls: int) -> float:
    """Return seconds a call, after some that are not counted."""
    for _ in range(WARM_UP_CALLS):
        side()
    start = time.perf_counter()
    for _ in range(calls):
        side()
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    sys.exit(main())
