"""Time a trained network on the CPU: torch beside the exported ONNX model, and Keras' `predict` where it is installed.

    python scripts/benchmarks/inference_speed.py wide

Sides take turns, with the same number of threads; each time is the median of its rounds. torch keeps the memory that it
frees, as in predict.py and evaluate.py. Keras has the article's network with new weights. Needs onnx, onnxscript and
onnxruntime: pip install -e '.[onnx]'
"""

import argparse
import importlib.util
import statistics
import sys
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import whole_number
from contenders import article_model

from minivgg_pl.cli.command import OneLineArgumentParser, guarded
from minivgg_pl.memory import keep_freed_memory
from minivgg_pl.runs.environment import device_name
from minivgg_pl.weights.export import onnx_bytes
from minivgg_pl.weights.load import load_trained

# Calls a round for each batch size: some tenths of a second.
CALLS = {1: 100, 256: 2}
WARM_UP_CALLS = 3


def main() -> int:
    """Time both sides and print the table."""
    parser = OneLineArgumentParser(description=__doc__)
    parser.add_argument("weights", metavar="WEIGHTS", help="classic, wide, a run folder, a .ckpt or .safetensors file")
    parser.add_argument("--rounds", type=whole_number(1), default=9, help="turns of each side (default: 9)")
    parser.add_argument("--threads", type=whole_number(1), help="threads of both sides (default: PyTorch's choice)")
    parser.add_argument("--glibc-memory", action="store_true", help="torch with glibc's own settings, as from Python")
    args = parser.parse_args()
    return guarded(lambda: compare(args))


@torch.inference_mode()
def compare(args: argparse.Namespace) -> int:
    """Print milliseconds a batch and images a second of each side, for each batch size, and times as long as ONNX."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.glibc_memory:
        keep_freed_memory()
    trained = load_trained(args.weights)
    content = onnx_bytes(trained)
    with_probabilities = torch.nn.Sequential(trained.net, torch.nn.Softmax(dim=1))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    keras_model = article_keras_model(trained.net.options["variant"])
    print(f"{trained.source} on {device_name(torch.device('cpu'))}")
    print("\nbatch  side         ms  images/s  side / ONNX")
    for size, calls in CALLS.items():
        images = torch.rand(size, *trained.net.image_shape)
        arrays = images.numpy(), images.permute(0, 2, 3, 1).contiguous().numpy()
        # The memory order of predict.py's images.
        images = images.contiguous(memory_format=torch.channels_last)
        sides = {
            "torch": partial(with_probabilities, images),
            "ONNX": partial(session.run, ["probabilities"], {"images": arrays[0]}),
        }
        if keras_model:
            sides["Keras"] = partial(keras_model.predict, arrays[1], batch_size=size, verbose=0)
        rounds = [{name: time_calls(calls, side) for name, side in sides.items()} for _ in range(args.rounds)]
        for name in sides:
            seconds = statistics.median(times[name] for times in rounds)
            ratio = statistics.median(times[name] / times["ONNX"] for times in rounds)
            print(f"{size:>5}  {name:<6} {seconds * 1e3:>8.2f} {size / seconds:>9,.0f} {ratio:>12.2f}")
    return 0


def article_keras_model(variant: str) -> Any:
    """Return the article's network in Keras on TensorFlow with torch's number of threads; None without these."""
    if not (importlib.util.find_spec("tensorflow") and importlib.util.find_spec("keras")):
        return None
    import tensorflow

    threading = tensorflow.config.threading
    threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    threading.set_inter_op_parallelism_threads(torch.get_num_threads())
    return article_model(variant)


def time_calls(calls: int, function: Callable[[], object]) -> float:
    """Return seconds a call, after some that are not counted."""
    timer = timeit.Timer(function)
    timer.timeit(WARM_UP_CALLS)
    return timer.timeit(calls) / calls


if __name__ == "__main__":
    sys.exit(main())
