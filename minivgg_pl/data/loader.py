"""Image data set in memory, batch samplers and data loader."""

from collections.abc import Iterator
from itertools import islice

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler

from minivgg_pl.data.augmentation import Augmentation, epoch_generator, flip_and_shift
from minivgg_pl.errors import InputError

# Batch norm cannot train on one image.
LEAST_TO_TRAIN = 2

# Images `(B, C, H, W)` float32 in [0, 1] and one-hot targets `(B, num_classes)` float32.
Batch = tuple[Tensor, Tensor]


class ImageDataset(Dataset):
    """Labelled images held in memory as uint8, read a whole batch at a time.

    Args:
        images: `(N, H, W, C)` uint8.
        labels: `(N,)` int64 in [0, num_classes), or with `rows` `(M,)`.
        num_classes: Width of the one-hot targets.
        rows: `(M,)` int64: the data set is these of `images`, a memory-mapped file that is never copied, to a GPU for
            instance. Default: all of `images`, which may be copied.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int = 10, rows: Tensor | None = None) -> None:
        self.images = images
        self.labels = labels
        self.one_hot = torch.eye(num_classes)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Tensor) -> Batch:
        """Return the batch at `index` `(B,)` int64, or one image `(C, H, W)` and its target `(num_classes,)`."""
        return self.read(torch.as_tensor(index))

    def read(self, index: Tensor, flips: Tensor | None = None, shifts: Tensor | None = None) -> Batch:
        """Return the batch at `index` `(B,)` int64, with `flips` and `shifts` as `flip_and_shift` takes them."""
        # Without non_blocking it would wait for all earlier work of the device.
        index = index.to(self.images.device, non_blocking=True)
        rows = index if self.rows is None else self.rows[index]
        images = self.images[rows] if flips is None else flip_and_shift(self.images, rows, flips, shifts)
        # A view: the bytes stay height-width-channel, which is PyTorch's channels_last and faster to convolve.
        images = images.movedim(-1, -3)
        return images.to(torch.float32).div_(255), self.one_hot[self.labels[index]]

    def bytes_at(self, index: Tensor | int) -> Tensor:
        """Return the stored images at `index`: `(B, H, W, C)` uint8, or `(H, W, C)` for a number."""
        return self.images[index if self.rows is None else self.rows[index]]

    def to(self, device: torch.device) -> "ImageDataset":
        """Move the images to `device`, unless they are a memory-mapped file, and return the data set itself."""
        if self.rows is None:
            self.images, self.labels, self.one_hot = (x.to(device) for x in (self.images, self.labels, self.one_hot))
        return self

    def subset(self, indices: Tensor) -> "ImageDataset":
        """Return a data set of the images at `indices`: `(M,)` int64, or `(N,)` bool."""
        labels, num_classes = self.labels[indices], len(self.one_hot)
        if self.rows is None:
            return ImageDataset(self.images[indices], labels, num_classes)
        return ImageDataset(self.images, labels, num_classes, self.rows[indices])


class BatchSampler(SequentialSampler):
    """The batches of one device, in the order of the images.

    Each batch of all devices together is shared out evenly: sizes differ by one at most, and every device gets as many
    batches. No image is repeated or left out, unlike with torch's DistributedSampler. A rest too small to give each
    device `least` images joins the batch before it. Lightning's overfit_batches keeps it, as a SequentialSampler.

    Args:
        dataset: The images.
        batch_size: Images a batch, all devices together.
        num_devices: Number of devices.
        rank: Number of this device, from 0.
        least: Fewest images that a device may have in a batch.

    Raises:
        InputError: If there are too few images, or batches too small, to give each device `least`.
    """

    def __init__(
        self, dataset: ImageDataset, batch_size: int, num_devices: int = 1, rank: int = 0, least: int = 1
    ) -> None:
        super().__init__(dataset)
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_devices = num_devices
        self.rank = rank
        self.sizes = batch_sizes(len(dataset), batch_size, least * num_devices)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each batch's indices `(B,)` int64, on the images' device."""
        # Copied for the whole epoch at once: a copy a batch costs time.
        order = self._order().to(self.dataset.images.device)
        return (batch[self.rank :: self.num_devices] for batch in order.split(self.sizes))

    def read(self, index: Tensor) -> Batch:
        """Return the batch at `index`, one that the sampler yields."""
        return self.dataset.read(index)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0. Lightning calls this before each."""
        self.epoch = epoch

    def _order(self) -> Tensor:
        return torch.arange(len(self.dataset))


class ShuffledBatchSampler(BatchSampler):
    """Training batches: a new order, new flips and new shifts each epoch.

    They depend on the seed and the epoch alone, so that a resumed run repeats them, and every device draws the same.

    Args:
        dataset: The images.
        seed: Seed of the orders, the same on every device.
        batch_size: Images a batch, all devices together.
        num_devices: Number of devices.
        rank: Number of this device, from 0.
        augmentation: Flips and shifts of the images; default: none.

    Raises:
        InputError: If a device would have fewer than LEAST_TO_TRAIN images in a batch.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        seed: int,
        batch_size: int,
        num_devices: int = 1,
        rank: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, num_devices, rank, least=LEAST_TO_TRAIN)
        self.seed = seed
        self.augmentation = augmentation
        self._draws: tuple[Tensor, ...] = ()  # each image's

    def _order(self) -> Tensor:
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(len(self.dataset), generator=generator)
        if self.augmentation:
            draws = self.augmentation.draw(len(order), self.seed, self.epoch, generator)
            self._draws = tuple(draw.to(self.dataset.images.device) for draw in draws)
        return order

    def read(self, index: Tensor) -> Batch:
        """Return the batch at `index`, one that the sampler yields, flipped and shifted."""
        return self.dataset.read(index, *(draw[index] for draw in self._draws))

    def earlier_batches(self, number: int) -> Iterator[Batch]:
        """Yield the epoch's first `number` batches once more."""
        return map(self.read, islice(self, number))


class ImageLoader:
    """The batches of a sampler, from a position in the epoch on.

    Not a DataLoader: Lightning would replace its sampler, and its iterators each draw a number from the generator that
    dropout uses. A resumed run creates them at other moments, and would drop other units.

    Args:
        sampler: Chooses and reads the batches.
        trainer: The trainer whose epochs they are, if any.
    """

    batch_sampler = None  # Lightning reads it; `sampler` yields whole batches.

    def __init__(self, sampler: BatchSampler, trainer: Trainer | None = None) -> None:
        self.sampler = sampler
        self.dataset = sampler.dataset
        self.trainer = trainer
        self._start = self._position = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        for number, index in enumerate(islice(self.sampler, start, None), start + 1):
            self._position = number
            yield self.sampler.read(index)

    def state_dict(self) -> dict[str, int]:
        """Return the position in the epoch, in batches, and what it depends on; 0 at an epoch's end."""
        # limit_train_batches can end it before its last batch.
        has_ended = self._position == len(self) or (self.trainer and self.trainer.is_last_batch)
        layout = {"batch_size": self.sampler.batch_size, "num_devices": self.sampler.num_devices}
        return {"position": 0 if has_ended else self._position} | layout

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next epoch begin at the position of `state`.

        Raises:
            InputError: If that is inside an epoch, and the batches are others now, or there are fewer.
        """
        self._start = check_position(state, self.sampler.batch_size, self.sampler.num_devices)
        if self._start >= len(self):
            raise InputError(f"the checkpoint was saved after {self._start} batches of an epoch that has {len(self)}")


def check_position(state: dict[str, int], batch_size: int, num_devices: int) -> int:
    """Return the position in the epoch of a ImageLoader's `state`, in batches.

    Raises:
        InputError: If it is inside an epoch that batches of `batch_size` on `num_devices` devices cannot continue.
    """
    position, *before = (state.get(name, 0) for name in ("position", "batch_size", "num_devices"))
    if position and before != [batch_size, num_devices]:
        raise InputError(
            f"the checkpoint was saved inside an epoch, {before[0]} images a batch, devices: {before[1]}; until its "
            f"end --data.batch_size and --trainer.devices must stay (now {batch_size}, devices: {num_devices})"
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
