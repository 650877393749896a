"""Export: the contents of ONNX files, torch.export programs and model cards."""

import io
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from minivgg_pl import __version__
from minivgg_pl.errors import InputError
from minivgg_pl.models.minivgg import MiniVGG
from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.checkpoint import run_folder_of
from minivgg_pl.weights.load import SHIPPED, TrainedNetwork

# At each of these batch sizes, the probabilities of an ONNX file may differ from torch's by this much at most.
CHECKED_BATCH_SIZES = (1, 5)
MAX_DIFFERENCE = 1e-4

CARD = Path(__file__).with_name("model_card.md")


class WithProbabilities(nn.Module):
    """A network that returns `(logits, probabilities)`, both `(N, num_classes)`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities for images as the network takes them, `(N, C, H, W)` in [0, 1]."""
        logits = self.net(images)
        return logits, logits.softmax(dim=1)


def program_bytes(trained: TrainedNetwork) -> bytes:
    """Return a saved `torch.export` program that maps images as `MiniVGG` takes them to logits, at any batch size."""
    buffer = io.BytesIO()
    # torch warns of a group of tensors that it then writes well.
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(_program(trained.net, trained), buffer)
    return buffer.getvalue()


def onnx_bytes(trained: TrainedNetwork) -> bytes:
    """Return an ONNX model that maps `images` as `MiniVGG` takes them to `logits` and `probabilities`.

    The batch size is free.

    Raises:
        InputError: If the installed onnxscript cannot write it, or the model disagrees with the network.
    """
    # The exporter logs its progress, and calls functions of torch that are deprecated.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        import onnx

        with warnings.catch_warnings(action="ignore"):
            exported = torch.onnx.export(
                _program(WithProbabilities(trained.net).eval(), trained),
                dynamo=True,
                input_names=["images"],
                output_names=["logits", "probabilities"],
                external_data=False,
                verbose=False,
            )
        model = exported.model_proto
        onnx.helper.set_model_props(model, {"class_names": json.dumps(trained.class_names)})
        content = model.SerializeToString()
        check_onnx(content, trained.net)
    except torch.onnx.errors.OnnxExporterError as error:
        # Such as torch 2.6 with onnxscript 0.6 or newer, which cannot translate batch norm.
        raise InputError("the installed torch and onnxscript cannot write ONNX: install newer ones") from error
    return content


@torch.inference_mode()
def check_onnx(content: bytes, net: MiniVGG) -> None:
    """Compare the probabilities of an ONNX model with those of `net`, with onnxruntime.

    Raises:
        InputError: If they differ by more than MAX_DIFFERENCE.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for size in CHECKED_BATCH_SIZES:
        images = torch.rand(size, *net.image_shape, generator=torch.Generator().manual_seed(0))
        probabilities = torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])
        difference = (probabilities - net(images).softmax(dim=1)).abs().max()
        if not difference <= MAX_DIFFERENCE:
            raise InputError(f"the ONNX model disagrees with the network by {difference:.1e}: not written")


def name_of(source: str) -> str:
    """Return a file name without ending for the weights at `source`, such as `wide-my_images-1` for that run's."""
    if source in SHIPPED:
        return source
    path = Path(source).resolve()
    # A weights file says where its run began, on a machine that need not be this one.
    folder = path if path.is_dir() or not path.suffix else run_folder_of(path)
    if not folder:
        return path.stem.removesuffix(".weights")
    run = f"{folder.parent.name}-{folder.name}" if folder.name.isdecimal() else folder.name
    return run if path in (folder, folder / runs.LAST_CHECKPOINT) else f"{run}-{path.stem}"


def _program(net: nn.Module, trained: TrainedNetwork) -> torch.export.ExportedProgram:
    # Two images, because a batch size of one would become part of the program.
    sample = torch.zeros(2, *trained.net.image_shape)
    # The default from torch 2.7 on. The strict tracer of torch 2.6 stops at `get_submodule`.
    return torch.export.export(net, (sample,), dynamic_shapes=({0: torch.export.Dim("N")},), strict=False)


def model_card(trained: TrainedNetwork) -> str:
    """Return a description in Markdown: input, output, training, accuracy. What is not known is left out."""
    options, metadata = trained.net.options, trained.metadata
    channels, height, width = trained.net.image_shape
    rows = {
        "input": f"float32 (N, {channels}, {height}, {width}), an image's bytes divided by 255"
        + ("; normalised inside" if options["mean"] or options["std"] else ""),
        "output": f"logits (N, {options['num_classes']}); softmax makes them probabilities",
        "classes": ", ".join(trained.class_names),
        "trained on": metadata.get("dataset"),
        "recipe": metadata.get("recipe"),
        "started from": metadata.get("init_from") and name_of(metadata["init_from"]),
        "epochs": metadata.get("epochs"),
        "training not finished": metadata.get("unfinished"),
        "seed": metadata.get("seed"),
    }
    if "temperature" in metadata:
        rows["calibration"] = f"logits divided by {metadata['temperature']:g}, for probabilities that suit the accuracy"
    if "test_accuracy" in metadata:
        images = f" of {metadata['test_images']:,} images" if metadata.get("test_images") else ""
        accuracy = f"{metadata['test_accuracy']:.2%}{images}, one run, last epoch"
        rows[f"accuracy on {metadata.get('tested_on', 'the test set')}"] = accuracy
    return CARD.read_text().format(
        variant=options["variant"],
        num_parameters=sum(p.numel() for p in trained.net.parameters()),
        version=__version__,
        table="\n".join(f"| {name} | {value} |" for name, value in rows.items() if value is not None),
        height=height,
        width=width,
        weights=trained.source if trained.source in SHIPPED else f"{name_of(trained.source or 'weights')}.safetensors",
    )
