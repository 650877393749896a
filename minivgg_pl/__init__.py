"""Mini VGG in PyTorch Lightning: the network, the system that trains it, and CIFAR-10 with one-hot targets.

The public names are imported on first use, so that `python scripts/train.py --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minivgg_pl.data import CIFAR10DataModule
    from minivgg_pl.image_data import ImageDataModule
    from minivgg_pl.image_folder import ImageFolderDataModule
    from minivgg_pl.module import LitMiniVGG
    from minivgg_pl.network import MiniVGG
    from minivgg_pl.runs import history
    from minivgg_pl.torchvision_data import TorchvisionDataModule

__version__ = "0.1.0"
_HOMES = {
    "CIFAR10DataModule": "data",
    "ImageDataModule": "image_data",
    "ImageFolderDataModule": "image_folder",
    "LitMiniVGG": "module",
    "MiniVGG": "network",
    "TorchvisionDataModule": "torchvision_data",
    "history": "runs",
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
