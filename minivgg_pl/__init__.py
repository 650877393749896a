"""Mini VGG in PyTorch Lightning: the networks, the module that trains them, the data modules, and inference.

The public names are imported on first use, so that `python scripts/train.py --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# ruff: noqa: F401 (type checkers read these imports)
if TYPE_CHECKING:
    from minivgg_pl.data.base import ImageDataModule
    from minivgg_pl.data.cifar10 import CIFAR10DataModule
    from minivgg_pl.data.image_folder import ImageFolderDataModule
    from minivgg_pl.data.images import read_image
    from minivgg_pl.data.loader import ImageDataset
    from minivgg_pl.data.torchvision_datasets import TorchvisionDataModule
    from minivgg_pl.evaluation.inference import class_probabilities
    from minivgg_pl.evaluation.reports import plot_history
    from minivgg_pl.models.layer_table import summary
    from minivgg_pl.models.minivgg import MiniVGG
    from minivgg_pl.runs.folder import history
    from minivgg_pl.training.module import LitMiniVGG
    from minivgg_pl.training.progress import EpochProgressBar
    from minivgg_pl.training.run_folder import RunFolder

__version__ = "0.1.0"
_MODULES = {
    "CIFAR10DataModule": "data.cifar10",
    "EpochProgressBar": "training.progress",
    "ImageDataModule": "data.base",
    "ImageDataset": "data.loader",
    "ImageFolderDataModule": "data.image_folder",
    "LitMiniVGG": "training.module",
    "MiniVGG": "models.minivgg",
    "RunFolder": "training.run_folder",
    "TorchvisionDataModule": "data.torchvision_datasets",
    "class_probabilities": "evaluation.inference",
    "history": "runs.folder",
    "plot_history": "evaluation.reports",
    "read_image": "data.images",
    "summary": "models.layer_table",
}
__all__ = list(_MODULES)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
