"""Runs on a GPU, and as on one without it: every tensor where it must be, and no step that waits for the device.

The GPU that is not there is made of `OnGpu`: tensors that say `cuda:0`, refuse tensors of the CPU beside them, and tell
of whatever makes the host wait: a value that is read, a copy between the two, a result whose size is data. They compute
on the CPU, so results are real. Not tried: kernels, streams, memory, TF32, and what autocast converts on CUDA alone. On
a GPU (`-m gpu`) torch tells of waits in steps, and nobody counts the others.

As `mps:0`, a Mac's GPU, they also refuse what goes wrong there: see `check_mps`.

This file alone leans on names that torch does not promise to keep: `_make_wrapper_subclass`,
`_disabled_torch_function_impl`, `_parse_to`, the names of its operators and torchgen's list of their kernels. (torch's
FakeTensorMode has no backward pass for CUDA where there is no device, pytorch#92627.)
"""

import contextlib
import re
import shutil
import traceback
from functools import cache
from pathlib import Path

import pytest
import torch
import torchgen
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from minivgg_pl import EpochProgressBar, ImageDataModule, ImageDataset, LitMiniVGG, RunFolder
from minivgg_pl.cli.recipes import recipe_options
from minivgg_pl.data import augmentation, base
from minivgg_pl.training import recorder, run_folder
from tests.conftest import REPOSITORY

PACKAGE = str(REPOSITORY / "minivgg_pl")
# Operators that read a value, or whose result's size is data.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal"}
FREED = "on MPS, memory may be freed before it is copied (pytorch#189690)"
SIZE = 8  # of images, in pixels
EVERY = 4  # updates from a checkpoint to the next, in epochs of 6
EVALUATED = 2  # batches of a validation or a test
# Stand-ins for a CUDA and a Mac's GPU, and a real one.
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
MACHINES = {"cuda": (), "mps": (), "real": [pytest.mark.gpu, needs_gpu]}


class Host:
    """Has the GPU, and counts the waits for it, outside of batches and in them."""

    gpu = torch.device("cuda", 0)
    place = "outside"
    waits: list[str] = []
    last_epoch: list[str] = []

    @classmethod
    def enter(cls, place):
        cls.place = place
        if torch.cuda.is_initialized():
            torch.cuda.set_sync_debug_mode("error" if place == "in a step" else "default")


def wait(what):
    frames = [f for f in traceback.extract_stack() if f.filename.startswith(PACKAGE) or "/lightning/" in f.filename]
    place = f"{frames[-1].filename.rpartition('/site-packages/')[2]}:{frames[-1].lineno}"
    Host.waits.append(f"{Host.place}: {what} at {place}")
    # On MPS, copies to it wait: their memory may be freed before.
    assert Host.place == "outside" or Host.gpu.type == "mps", f"the host waits for the GPU: {Host.waits[-1]}"


def check_mps(func, tensors):
    """Raise where torch on a Mac's GPU does, and where it computes a wrong answer without a word."""
    name = func._schema.name.removeprefix("aten::") + f".{func._schema.overload_name}".rstrip(".")
    assert name not in operators_without("MPS"), f"{name} is not implemented for MPS"
    assert all(tensor.dtype != torch.float64 for tensor in tensors), f"{name}: MPS has no float64"
    if name.startswith(("convolution", "native_batch_norm")):
        # Gradients of batch norm, which a convolution's output goes to (pytorch#175189).
        orders = [t.is_contiguous(memory_format=torch.channels_last) for t in tensors if t.ndim == 4 and t.shape[1] > 1]
        assert not any(orders), f"{name}: channels_last on MPS"


@cache
def operators_without(backend):
    """Return torch's operators that have no kernel for a backend, and are not made of others."""
    text = (Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml").read_text()
    entries = {entry.partition("(")[0]: entry for entry in text.split("\n- func: ")[1:]}

    def has_kernel(entry):
        if delegate := re.search(r"structured_delegate: (\S+)", entry):
            return has_kernel(entries[delegate[1]])
        return "dispatch:" not in entry or re.search(rf"\b({backend}|Composite\w+):?\b", entry)

    return {name for name, entry in entries.items() if not has_kernel(entry)}


class OnGpu(torch.Tensor):
    device, is_cpu = property(lambda self: Host.gpu), False
    is_cuda, is_mps = (property(lambda self, kind=kind: Host.gpu.type == kind) for kind in ("cuda", "mps"))
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        like = {"dtype": inner.dtype, "strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, device="cpu", **like)

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"OnGpu({tuple(self.shape)})"

    def __reduce_ex__(self, protocol):
        # As a checkpoint is read, onto the CPU. Saving one waits for the GPU, which is not counted.
        return self.inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        # A single number of the CPU goes along with a kernel's arguments.
        others = [tuple(tensor.shape) for tensor in given if not isinstance(tensor, OnGpu) and tensor.ndim]
        is_mask = name.startswith("index") and any(t.dtype in (torch.bool, torch.uint8) for t in given[1:])
        is_free = name == "copy_" and isinstance(args[0], OnGpu) and (args[2:] == (True,) or kwargs.get("non_blocking"))
        is_copy = name == "copy_" and not all(isinstance(tensor, OnGpu) for tensor in given)
        if name in WAITS or is_mask or (is_copy and not is_free) or (others and name in ("index", "index_put_")):
            wait(name)
        elif others and not is_copy:
            raise RuntimeError(f"{name}: expected all tensors on {Host.gpu}, found {others} on cpu")
        if Host.gpu.type == "mps":
            assert not (is_copy and is_free), FREED
            check_mps(func, given)
        out = func(*tree_map_only(OnGpu, bare, args), **tree_map_only(OnGpu, bare, kwargs))
        if name == "_local_scalar_dense":
            return out
        out = tree_map_only(torch.Tensor, lambda leaf: leaf if leaf.is_meta else OnGpu(leaf), out)
        return return_and_correct_aliasing(func, args, kwargs, out)


def bare(tensor):
    return tensor.inner


class Machine(TorchFunctionMode):
    """What is made on the GPU, or moved to it or from it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda") and isinstance(args[0], torch.Tensor):
            return move(name, *args, **kwargs)
        if name == "tolist" and isinstance(args[0], OnGpu):
            wait(name)
            return args[0].inner.tolist()
        device = kwargs.get("device")
        if device is None and name.endswith("_like") and isinstance(args[0], OnGpu):
            device = Host.gpu
        if device is None or torch.device(device).type == "cpu":
            args = tuple(arg.inner if isinstance(arg, OnGpu) and device is not None else arg for arg in args)
            return func(*args, **kwargs)
        if name in ("tensor", "as_tensor"):
            wait(f"torch.{name}")
        args = tuple(arg.inner if isinstance(arg, OnGpu) else arg for arg in args)
        return OnGpu(func(*args, **kwargs | {"device": "cpu"}))


def move(name, tensor, *args, **kwargs):
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype)
    device, dtype, is_free, layout = (
        torch._C._nn._parse_to(*args, **kwargs) if name == "to" else (name, None, False, None)
    )
    source, target = Host.gpu.type if isinstance(tensor, OnGpu) else "cpu", torch.device(device or tensor.device).type
    if source != target:
        # From memory that is not pinned: asynchronous only to the GPU, and only where it says so.
        assert not (is_free and target == "mps"), FREED
        if not (is_free and target == "cuda"):
            wait(f"copy {tuple(tensor.shape)} to {target}")
        tensor = tensor.inner.clone() if target == "cpu" else OnGpu(tensor.detach().clone())
    return tensor.to(dtype or tensor.dtype, **({"memory_format": layout} if layout else {}))


class StandIn(CPUAccelerator):
    def setup_device(self, device):
        pass


class Noise(ImageDataModule):
    """50 images of 8 x 8 pixels to train on, and 10 to test."""

    def __init__(self, **options):
        shape = {"class_names": list("abcdefghij"), "image_shape": (3, SIZE, SIZE), "train_size": 50}
        super().__init__(**shape, dataset="noise", title="noise", splits=("train", "test"), **options)

    def load(self, split):
        number, generator = {"train": 50, "test": 10}[split], torch.Generator().manual_seed(0)
        images = torch.randint(256, (number, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
        return ImageDataset(images, torch.arange(number) % 10)


class Watch(Callback):
    """No wait in steps, fetching included, but for an epoch's last and to save; and all tensors on the GPU.

    It also keeps the checkpoint that is saved inside the second epoch.
    """

    def on_train_epoch_start(self, trainer, module):
        Host.waits = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        assert not any(tensor.is_cpu for tensor in batch)
        Host.enter("in a step")
        if trainer.training and trainer.global_step == 2 * EVERY and trainer.ckpt_path is None:
            folder = trainer.checkpoint_callbacks[-1].dirpath
            shutil.copy(f"{folder}/last.ckpt", f"{folder}/inside.ckpt")

    def on_before_optimizer_step(self, trainer, module, optimizer):
        assert not any(tensor.is_cpu for p in module.parameters() for tensor in (p, p.grad))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        is_last = trainer.is_last_batch if trainer.training else batch_idx + 1 == EVALUATED
        if is_last or (trainer.training and trainer.global_step % EVERY == 0):
            Host.enter("outside")

    def on_train_end(self, trainer, module):
        Host.last_epoch = [*Host.waits]

    def on_exception(self, trainer, module, exception):
        Host.enter("outside")

    on_validation_batch_start = on_test_batch_start = on_train_batch_start
    on_validation_batch_end = on_test_batch_end = on_train_batch_end


@pytest.fixture
def fit(tmp_path, monkeypatch, machine):
    """Train two epochs of a recipe, validate and test, and return its RunFolder."""
    Host.waits = []
    Host.enter("outside")
    # A stand-in's and a real GPU's have the same key.
    augmentation._sources.cache_clear()
    monkeypatch.setattr(base, "LEAST_EVALUATED_PIXELS", 8 * SIZE**2)
    # Most of the time that is not torch's.
    monkeypatch.setattr(recorder, "draw_curves", lambda *args, **options: None)
    monkeypatch.setattr(run_folder, "draw_confusion_matrix", lambda *args: None)
    future = torch.__future__.get_overwrite_module_params_on_conversion()
    if machine != "real":
        monkeypatch.setattr(Host, "gpu", torch.device(machine, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "stand-in")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(torch.mps, "get_rng_state", torch.get_rng_state)
        monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, device: torch.set_rng_state(state))
        torch.__future__.set_overwrite_module_params_on_conversion(True)

    def fit(recipe, on_gpu=True, ckpt_path=None, max_epochs=2):
        options = {**recipe_options(recipe), "data.batch_size": 9, "model.dense_units": 8, "model.image_size": SIZE}
        if recipe == "modern":
            options |= {"model.batch_norm_images": 20, "model.dropout_samples": 2}
        of = {s: {k.removeprefix(s): v for k, v in options.items() if k.startswith(s)} for s in ("model.", "data.")}
        seed_everything(3)
        module = LitMiniVGG(**of["model."])
        data = Noise(**of["data."])
        run = RunFolder(tmp_path, every=EVERY)
        # Autocast for the device that computes.
        autocast = MixedPrecision("bf16-mixed", "cuda" if on_gpu and machine == "real" else "cpu")
        trainer = Trainer(
            max_epochs=max_epochs,
            **trainer_options(machine if on_gpu else "cpu"),
            callbacks=[run, *[Watch()] * on_gpu, EpochProgressBar()],
            plugins=autocast if options.get("native_bf16") and machine != "mps" else None,
            num_sanity_val_steps=0,
            logger=False,
            enable_model_summary=False,
            # Wrapped tensors do not take to inference mode: no_grad in its place.
            inference_mode=False,
        )
        with contextlib.nullcontext() if machine == "real" else Machine():
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
            trainer.test(module, datamodule=data, verbose=False)
        return run

    yield fit
    torch.__future__.set_overwrite_module_params_on_conversion(future)


def trainer_options(machine):
    if machine in ("cpu", "real"):
        return {"accelerator": "cpu" if machine == "cpu" else "gpu", "devices": 1}
    return {"accelerator": StandIn(), "strategy": SingleDeviceStrategy(device=Host.gpu)}


@pytest.mark.parametrize("machine", [pytest.param(machine, marks=marks) for machine, marks in MACHINES.items()])
@pytest.mark.parametrize("recipe", ["article", "modern"])
def test_a_run_mixes_no_devices_waits_in_no_step_and_resumes(recipe, machine, fit):
    run = fit(recipe)
    assert 0 < run.summary["test_loss"] < 100
    if machine == "cuda":
        # In an epoch, ours and Lightning's: the sums of training and of validation, a look for NaN, and one to save
        # inside.
        assert len(Host.last_epoch) == 4, Host.last_epoch
    inside = run.folder / "checkpoints" / "inside.ckpt"
    resumed = fit(recipe, ckpt_path=inside)
    assert resumed.rows[-1]["train_loss"] == pytest.approx(run.rows[-1]["train_loss"], rel=1e-3)
    # A GPU adds in any order.
    assert machine == "real" or resumed.summary["weights_sha256"] == run.summary["weights_sha256"]
    # Dropout draws other numbers there.
    moved = fit(recipe, on_gpu=False, ckpt_path=inside)
    back = fit(recipe, ckpt_path=moved.folder / "checkpoints" / "last.ckpt", max_epochs=3)
    assert [row["step"] for row in (*moved.rows, *back.rows)] == [6, 12, 6, 12, 18]


PLANTS = {
    "waits for the GPU: in a step: _local_scalar_dense|called a synchronizing CUDA operation": (
        LitMiniVGG,
        "training_step",
        lambda self, batch, i, step=LitMiniVGG.training_step: (loss := step(self, batch, i)) * (loss.item() != 0),
    ),
    "add: expected all tensors on cuda:0|xpected all tensors to be on the same device": (
        augmentation,
        "_sources",
        lambda *args, sources=augmentation._sources: sources(*args) + torch.zeros(1, dtype=torch.int64),
    ),
    "MPS has no float64": (
        LitMiniVGG,
        "compute_loss",
        lambda self, logits, targets, loss=LitMiniVGG.compute_loss: loss(self, logits.double(), targets),
    ),
}


@pytest.mark.parametrize(
    ("message", "machine"),
    [
        pytest.param(message, machine, marks=MACHINES[machine])
        for message in PLANTS
        for machine in (["mps"] if "MPS" in message else ["cuda", "real"])
    ],
)
def test_what_is_planted_is_found(message, machine, fit, monkeypatch):
    monkeypatch.setattr(*PLANTS[message])
    with pytest.raises((AssertionError, RuntimeError), match=message):
        fit("modern")
