"""Mini VGG in PyTorch Lightning: the network, the system that trains it, and CIFAR-10 with one-hot targets.

The public names are imported on first use, so that `python scripts/train.py --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minivgg_pl.data.base import ImageDataModule
    from minivgg_pl.data.cifar10 import CIFAR10DataModule
    from minivgg_pl.data.image_folder import ImageFolderDataModule
    from minivgg_pl.data.torchvision_datasets import TorchvisionDataModule
    from minivgg_pl.models.minivgg import MiniVGG
    from minivgg_pl.runs.folder import history
    from minivgg_pl.training.module import LitMiniVGG

__version__ = "0.1.0"
_HOMES = {
    "CIFAR10DataModule": "data.cifar10",
    "ImageDataModule": "data.base",
    "ImageFolderDataModule": "data.image_folder",
    "LitMiniVGG": "training.module",
    "MiniVGG": "models.minivgg",
    "TorchvisionDataModule": "data.torchvision_datasets",
    "history": "runs.folder",
}
__all__ = [
    "CIFAR10DataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "LitMiniVGG",
    "MiniVGG",
    "TorchvisionDataModule",
    "history",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
