"""The contents of files for other programs: ONNX, a torch.export program, a model card."""

import io
import json
import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minivgg_pl import __version__
from minivgg_pl.errors import InputError
from minivgg_pl.weights.load import TrainedNetwork

# An ONNX file must agree with torch at these batch sizes, each probability to within this.
CHECKED_BATCH_SIZES = (1, 5)
MAX_DIFFERENCE = 1e-4


class WithProbabilities(nn.Module):
    """A network that returns `(logits, probabilities)`, both `(N, num_classes)`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities for images as the network takes them."""
        logits = self.net(images)
        return logits, logits.softmax(dim=1)


def program_bytes(trained: TrainedNetwork) -> bytes:
    """Return a saved `torch.export` program: images as `MiniVGG` takes them, any batch size, to logits."""
    buffer = io.BytesIO()
    torch.export.save(_program(trained.net, trained), buffer)
    return buffer.getvalue()


def onnx_bytes(trained: TrainedNetwork) -> bytes:
    """Return an ONNX model: `images` as `MiniVGG` takes them, any batch size, to `logits` and `probabilities`.

    Raises:
        InputError: If onnx, onnxscript or onnxruntime is not installed, or the model disagrees with the network.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ModuleNotFoundError as error:
        raise InputError(f"ONNX needs packages: pip install onnx onnxscript onnxruntime ({error})") from error
    net = WithProbabilities(trained.net).eval()
    # The exporter reports on its progress, and torch deprecates what the exporter itself calls.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        try:
            exported = torch.onnx.export(
                _program(net, trained),
                dynamo=True,
                input_names=["images"],
                output_names=["logits", "probabilities"],
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            # torch 2.6 beside onnxscript 0.6 and newer: it cannot translate batch norm.
            raise InputError(
                f"torch {torch.__version__} and this onnxscript write no ONNX: install newer ones"
            ) from error
    model = exported.model_proto
    onnx.helper.set_model_props(model, {"class_names": json.dumps(trained.class_names)})
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    _check_onnx(session, net, trained.net.image_shape)
    return content


def _program(net: nn.Module, trained: TrainedNetwork) -> torch.export.ExportedProgram:
    # Two images: with one, the batch size would become part of the program.
    sample = torch.zeros(2, *trained.net.image_shape)
    # strict=False is the default from torch 2.7 on; before, its tracer stops at `get_submodule`.
    return torch.export.export(net, (sample,), dynamic_shapes={"images": {0: torch.export.Dim("N")}}, strict=False)


@torch.inference_mode()
def _check_onnx(session: Any, net: nn.Module, image_shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in CHECKED_BATCH_SIZES:
        images = torch.rand(size, *image_shape, generator=generator)
        difference = np.abs(session.run(["probabilities"], {"images": images.numpy()})[0] - net(images)[1].numpy())
        if difference.shape[0] != size or not difference.max() <= MAX_DIFFERENCE:
            raise InputError(f"the ONNX model disagrees with the network by {difference.max():.1e}: not written")


def model_card(trained: TrainedNetwork) -> str:
    """Return a description in Markdown of what the network is, takes and reaches; what is not known is left out."""
    options, metadata = trained.net.options, trained.metadata
    channels, height, width = trained.net.image_shape
    lines = [f"# Mini VGG, {options['variant']}", ""]
    lines.append(
        f"An image classifier: two blocks of 3x3 convolutions, {sum(p.numel() for p in trained.net.parameters()):,} "
        f"trainable parameters. Made with minivgg_pl {__version__}."
    )
    lines += ["", "| | |", "|---|---|"]
    rows = {
        "input": f"float32 (N, {channels}, {height}, {width}), a image's bytes divided by 255"
        + ("; normalised inside" if options["mean"] or options["std"] else ""),
        "output": f"logits (N, {options['num_classes']}); softmax makes them probabilities",
        "classes": ", ".join(trained.class_names),
        "trained on": metadata.get("dataset"),
        "recipe": metadata.get("recipe"),
        "started from": metadata.get("init_from"),
        "epochs": metadata.get("epochs"),
        "training not finished": metadata.get("unfinished"),
        "seed": metadata.get("seed"),
        f"accuracy on {metadata.get('tested_on', 'the test set')}": _accuracy(metadata),
    }
    lines += [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    lines += [
        "",
        "## Limits",
        "",
        "It names one of its classes for any image whatever, also for one that shows none of them. Images are cut "
        f"to their central square and averaged down to {height} x {width} pixels: small things in large images are "
        "lost.",
        "",
        "## Use",
        "",
        "```python",
        "from minivgg_pl import MiniVGG",
        "",
        f'net = MiniVGG.from_pretrained("{trained.source}")',
        "probabilities = net(images).softmax(dim=1)",
        "```",
        "",
    ]
    return "\n".join(lines)


def _accuracy(metadata: dict[str, Any]) -> str | None:
    if "test_accuracy" not in metadata:
        return None
    images = f" of {metadata['test_images']:,} images" if metadata.get("test_images") else ""
    return f"{metadata['test_accuracy']:.2%}{images}, one run, last epoch"
