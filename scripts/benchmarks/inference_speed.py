"""Time a trained network on the CPU: torch beside the exported ONNX model.

    python scripts/benchmarks/inference_speed.py wide

Sides take turns, with the same number of threads; each time is the median of its rounds. Needs onnx, onnxscript and
onnxruntime: pip install -e '.[onnx]'
"""

import argparse
import statistics
import sys
import timeit
from collections.abc import Callable
from functools import partial

import torch
from common import whole_number

from minivgg_pl.cli.command import OneLineArgumentParser, guarded
from minivgg_pl.runs.environment import device_name
from minivgg_pl.weights.export import onnx_bytes
from minivgg_pl.weights.load import load_trained

# Calls a round for each batch size: some tenths of a second.
CALLS = {1: 200, 256: 4}
WARM_UP_CALLS = 3


def main() -> int:
    """Time both sides and print the table."""
    parser = OneLineArgumentParser(description=__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", help="classic, wide, a run folder, a .ckpt or .safetensors file")
    parser.add_argument("--rounds", type=whole_number(1), default=9, help="turns of each side (default: 9)")
    parser.add_argument("--threads", type=whole_number(1), help="threads of both sides (default: PyTorch's choice)")
    args = parser.parse_args()
    return guarded(lambda: compare(args))


@torch.inference_mode()
def compare(args: argparse.Namespace) -> int:
    """Print milliseconds a batch and images a second of both sides, for each batch size."""
    if args.threads:
        torch.set_num_threads(args.threads)
    trained = load_trained(args.weights)
    content = onnx_bytes(trained)
    with_probabilities = torch.nn.Sequential(trained.net, torch.nn.Softmax(dim=1))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    print(f"{trained.source} on {device_name(torch.device('cpu'))}")
    print("\nbatch  torch ms  images/s   ONNX ms  images/s  torch / ONNX")
    for size, calls in CALLS.items():
        images = torch.rand(size, *trained.net.image_shape)
        inputs = {"images": images.numpy()}
        # The memory order of predict.py's images.
        images = images.contiguous(memory_format=torch.channels_last)
        seconds = [
            (time_calls(calls, with_probabilities, images), time_calls(calls, session.run, ["probabilities"], inputs))
            for _ in range(args.rounds)
        ]
        eager, exported = (statistics.median(times) for times in zip(*seconds, strict=True))
        ratio = statistics.median(a / b for a, b in seconds)
        print(
            f"{size:>5} {eager * 1e3:>9.2f} {size / eager:>9,.0f} {exported * 1e3:>9.2f} {size / exported:>9,.0f} "
            f"{ratio:>13.2f}"
        )
    return 0


def time_calls(calls: int, function: Callable[..., object], *inputs: object) -> float:
    """Return seconds a call, after some that are not counted."""
    timer = timeit.Timer(partial(function, *inputs))
    timer.timeit(WARM_UP_CALLS)
    return timer.timeit(calls) / calls


if __name__ == "__main__":
    sys.exit(main())
