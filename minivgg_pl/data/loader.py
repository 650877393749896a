"""Image data set in memory, and the loader that makes batches of it."""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Dataset

from minivgg_pl.data.augmentation import Augmentation, epoch_generator, flip_and_shift
from minivgg_pl.errors import InputError

# Batch norm cannot train on one image.
LEAST_TO_TRAIN = 2

# Images `(B, C, H, W)` float32 in [0, 1], and targets: one-hot `(B, num_classes)` float32, or labels `(B,)` int64.
Batch = tuple[Tensor, Tensor]


class ImageDataset(Dataset):
    """Labelled images held in memory as uint8, read a whole batch at a time.

    Args:
        images: `(N, H, W, C)` uint8.
        labels: `(N,)` int64 in [0, num_classes), or with `rows` `(M,)`.
        num_classes: Number of classes.
        rows: `(M,)` int64: the data set is these of `images`, a memory-mapped file that is never copied, to a GPU for
            instance. Default: all of `images`, which may be copied.
        names: What tables call each image, such as its file. Default: its number, from 0, which `subset` keeps.

    Attributes:
        class_targets: The target of each class, `(num_classes, ...)`: one-hot, unless it is set to something else.
        transform: What each image that is read goes through, or None (see ImageDataModule's `train_transform`).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_classes: int = 10,
        rows: Tensor | None = None,
        names: Sequence[str | int] | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.class_targets = torch.eye(num_classes)
        self.transform: Callable[[Tensor], Tensor] | None = None
        self.rows = rows
        self.names = range(len(labels)) if names is None else names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Tensor) -> Batch:
        """Return the batch at `index` `(B,)` int64, or one image `(C, H, W)` and its target for a number."""
        return self.read(torch.as_tensor(index))

    def read(self, index: Tensor, flips: Tensor | None = None, shifts: Tensor | None = None) -> Batch:
        """Return the batch at `index` `(B,)` int64, with `flips` and `shifts` as `flip_and_shift` takes them."""
        # On CUDA it does not wait for earlier work. MPS may read the memory after it was freed (pytorch#189690).
        index = index.to(self.images.device, non_blocking=self.images.is_cuda)
        rows = index if self.rows is None else self.rows[index]
        images = self.images[rows] if flips is None else flip_and_shift(self.images, rows, flips, shifts)
        # A view: the bytes stay height-width-channel, which is PyTorch's channels_last and faster to convolve.
        images = images.movedim(-1, -3)
        if self.transform is not None:
            # One by one: torchvision's draw their random numbers once for a whole batch.
            images = self.transform(images) if images.ndim == 3 else torch.stack([*map(self.transform, images)])
        if images.dtype == torch.uint8:
            # By a number, the type would be torch's default, which Lightning changes for half and double precision.
            images = images / torch.tensor(255, dtype=torch.float32)
            if images.device.type == "mps":
                # From channels_last, torch 2.6 gets wrong gradients of batch norm there (pytorch#175189).
                images = images.clone(memory_format=torch.contiguous_format)
        return images, self.class_targets[self.labels[index]]

    def bytes_at(self, index: Tensor | int) -> Tensor:
        """Return the stored images at `index`: `(B, H, W, C)` uint8, or `(H, W, C)` for a number."""
        return self.images[index if self.rows is None else self.rows[index]]

    def to(self, device: torch.device) -> "ImageDataset":
        """Move the images to `device`, unless they are a memory-mapped file, and return the data set itself."""
        if self.rows is None:
            for name in ("images", "labels", "class_targets"):
                setattr(self, name, getattr(self, name).to(device))
        return self

    def subset(self, indices: Tensor) -> "ImageDataset":
        """Return a data set of the images at `indices`: `(M,)` int64, or `(N,)` bool."""
        part = copy.copy(self)
        if self.rows is None:
            part.images = self.images[indices]
        else:
            part.rows = self.rows[indices]
        part.names = [self.names[number] for number in torch.arange(len(self))[indices].tolist()]
        part.labels = self.labels[indices]
        return part


class ImageLoader:
    """One device's batches of a data set, shuffled or in the order of the images, from a position in the epoch on.

    Each batch of all devices together is shared out evenly: sizes differ by one at most, and every device gets as many
    batches. No image is repeated or left out. A rest too small to give each device an image, or two to train on, joins
    the batch before it.

    Order, flips and shifts of a shuffled epoch depend on the seed and the epoch alone, so that a resumed run repeats
    them, and all devices draw the same. In a loop without a Trainer each pass is the next epoch.

    Not a DataLoader: Lightning would give it a sampler of its own, and a DataLoader's iterators each draw a number from
    the generator that dropout uses. A resumed run creates them at other moments, so its dropout masks would differ.

    Args:
        dataset: The images.
        batch_size: Images a batch, all devices together.
        num_devices: Number of devices.
        rank: Number of this device, from 0.
        seed: Seed of the shuffled orders, the same on every device; default: the order of the images.
        augmentation: Flips and shifts of shuffled images; default: none.
        trainer: While it trains, it tells the number of the epoch, from 0.

    Attributes:
        epoch: Number of the epoch under way.
        next_epoch: Number of the epoch that the next pass is, without a Trainer.

    Raises:
        InputError: If there are too few images, or batches too small, for the devices.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        num_devices: int = 1,
        rank: int = 0,
        seed: int | None = None,
        augmentation: Augmentation | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_devices = num_devices
        self.rank = rank
        self.seed = seed
        self.augmentation = augmentation
        self.trainer = trainer
        self.sizes = batch_sizes(len(dataset), batch_size, num_devices * (1 if seed is None else LEAST_TO_TRAIN))
        self.epoch = self.next_epoch = 0
        self._start = self._position = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        self.epoch = self.trainer.current_epoch if self.trainer and self.trainer.training else self.next_epoch
        self.next_epoch = self.epoch + 1
        start, self._start = self._start, 0
        for number, batch in enumerate(self.batches(start), start + 1):
            self._position = number
            yield batch

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from number `start` on; the position stays."""
        images = self.dataset.images
        # Copied for the whole epoch at once: a copy a batch costs time. Blocking, it would wait for all earlier work.
        order, *draws = (tensor.to(images.device, non_blocking=images.is_cuda) for tensor in self._draw())
        parts = zip(*(tensor.split(self.sizes) for tensor in (order, *(draw[order] for draw in draws))), strict=True)
        for batch in islice(parts, start, None):
            yield self.dataset.read(*(part[self.rank :: self.num_devices] for part in batch))

    def _draw(self) -> tuple[Tensor, ...]:
        """Return the order of the images, and each image's flip and shift if there are any."""
        size = len(self.dataset)
        if self.seed is None:
            return (torch.arange(size),)
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(size, generator=generator)
        if not self.augmentation:
            return (order,)
        return order, *self.augmentation.draw(size, self.seed, self.epoch, generator)

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, in batches, and what it depends on; 0 at an epoch's end."""
        # limit_train_batches can end it before its last batch.
        has_ended = self._position == len(self) or (self.trainer and self.trainer.is_last_batch)
        position = 0 if has_ended else self._position
        return {"position": position, "batch_size": self.batch_size, "num_devices": self.num_devices}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next epoch begin at the position of `state`.

        Raises:
            InputError: If it is inside an epoch and the batch size, the devices or the number of batches has changed.
        """
        self._start = check_position(state, self.batch_size, self.num_devices)
        if self._start >= len(self):
            raise InputError(f"the checkpoint was saved after {self._start} batches of an epoch that has {len(self)}")


def check_position(state: dict[str, int], batch_size: int, num_devices: int) -> int:
    """Return the position in the epoch that an ImageLoader's `state` holds, in batches.

    Raises:
        InputError: If it is inside an epoch that batches of `batch_size` on `num_devices` devices cannot continue.
    """
    position, *before = (state.get(name, 0) for name in ("position", "batch_size", "num_devices"))
    if position and before != [batch_size, num_devices]:
        raise InputError(
            f"the checkpoint was saved inside an epoch, {before[0]} images a batch, devices: {before[1]}; until its "
            f"end batch_size and devices must stay (now {batch_size}, devices: {num_devices})"
        )
    return position


def batch_sizes(num_images: int, batch_size: int, least: int) -> list[int]:
    """Return the size of each batch of an epoch: `batch_size`, and the rest, which joins the last if below `least`.

    Raises:
        InputError: If even so a batch is below `least`.
    """
    full, rest = divmod(num_images, batch_size)
    sizes = [batch_size] * full
    if rest >= least or (rest and not sizes):
        sizes.append(rest)
    elif rest:
        sizes[-1] += rest
    if min(sizes, default=0) < least:
        raise InputError(
            f"batches of {batch_size} out of {num_images} images leave a device with too few: {least} are needed in "
            "all; give another batch_size, more images, or fewer devices"
        )
    return sizes
