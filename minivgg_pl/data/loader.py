"""Which images make a batch, on how many devices: order, shares and where a resumed epoch goes on."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from minivgg_pl.data.augmentation import epoch_generator
from minivgg_pl.data.dataset import ImageDataset, whole_batch
from minivgg_pl.errors import InputError

# Batch norm cannot train on one image.
LEAST_TO_TRAIN = 2
# What a GPU evaluates at once, at least: 1,000 images of 32x32. Smaller batches leave most of it idle.
LEAST_EVALUATED_PIXELS = 1000 * 32 * 32


class BatchSampler(DistributedSampler):
    """The batches of one device: every image goes to one device, once, and every device gets as many batches.

    Of each batch of all devices together every device gets its share, sizes at most one apart. A rest too small to give
    each device `least` images joins the batch before it. Nothing is repeated and nothing left out, unlike with torch's
    DistributedSampler; it is one, so that Lightning does not put another around it.

    Args:
        dataset: The images.
        batch_size: Images a batch, all devices together.
        num_devices: Number of devices.
        rank: Number of this device, from 0.
        least: Fewest images that a device may have in a batch.

    Raises:
        InputError: If there are too few images, or they make too small a batch, to give each device `least`.
    """

    def __init__(self, dataset: ImageDataset, batch_size: int, num_devices: int, rank: int, least: int = 1) -> None:
        super().__init__(dataset, num_replicas=num_devices, rank=rank, shuffle=False)
        self.batch_size = batch_size
        self.sizes = batch_sizes(len(dataset), batch_size, least * num_devices)
        self.position = 0
        self._start = 0

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self.sizes)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the indices `(B,)` int64 of each batch."""
        # To where the images are, all at once and not a batch at a time.
        batches = self.batches(self._order().to(self.dataset.images.device))
        start, self._start = self._start, 0
        for number in range(start, len(batches)):
            self.position = number + 1
            yield batches[number]

    def batches(self, order: Tensor) -> list[Tensor]:
        """Return this device's share `(B,)` of each batch of the images in `order` `(N,)`."""
        return [batch[self.rank :: self.num_replicas] for batch in order.split(self.sizes)]

    def _order(self) -> Tensor:
        return torch.arange(len(self.dataset))

    def state_dict(self) -> dict[str, int]:
        """Return how far the epoch is."""
        return {"position": self.position % len(self), "batch_size": self.batch_size, "num_devices": self.num_replicas}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next epoch begin where the one of `state` stopped.

        Raises:
            InputError: If it stopped in the middle, and the batches are others now, or there are fewer.
        """
        self._start = check_position(state, self.batch_size, self.num_replicas)
        if self._start >= len(self):
            raise InputError(f"the checkpoint was saved after {self._start} batches of an epoch that has {len(self)}")


class ShuffledBatchSampler(BatchSampler):
    """A new order each epoch, and new flips and shifts, from nothing but the seed and the epoch: a resumed run's own.

    Lightning calls `set_epoch` before each epoch. Every device draws the same order, and takes its share of it.

    Args:
        dataset: The images.
        seed: What the orders are drawn from, the same on every device.
        batch_size: As BatchSampler's, and so on.
        num_devices: Number of devices.
        rank: Number of this device.
    """

    def __init__(self, dataset: ImageDataset, seed: int, batch_size: int, num_devices: int, rank: int) -> None:
        super().__init__(dataset, batch_size, num_devices, rank, least=LEAST_TO_TRAIN)
        self.seed = seed

    def _order(self) -> Tensor:
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(len(self.dataset), generator=generator)
        if self.dataset.augmentation:
            self.dataset.augmentation.draw(
                len(order), self.seed, self.epoch, generator, device=self.dataset.images.device
            )
        return order

    def earlier_batches(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the epoch's first `number` batches once more, as the loader yields them."""
        for indices in self.batches(self._order())[:number]:
            yield self.dataset[indices]


class ImageLoader(DataLoader):
    """Yields whole batches, and knows how far the epoch is, so that a checkpoint can be saved inside it.

    Args:
        dataset: The images.
        sampler: Which of them make each batch.
        trainer: Whose epochs they are, or None.
        options: DataLoader's, of no account: Lightning gives them when it makes this anew to predict.

    Raises:
        InputError: If the sampler is another, as with Lightning's overfit_batches.
    """

    def __init__(
        self, dataset: ImageDataset, sampler: BatchSampler, trainer: Trainer | None = None, **options: Any
    ) -> None:
        if not isinstance(sampler, BatchSampler):
            raise InputError(
                f"a loader of whole batches cannot take the sampler {type(sampler).__name__}: give the data module "
                "itself to the Trainer, not one of its loaders"
            )
        # The sampler's indices are a batch each.
        super().__init__(dataset, batch_size=None, sampler=sampler, collate_fn=whole_batch)
        self.trainer = trainer

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches: what DataLoader's own iterator would, without its workers' bookkeeping.

        Nor does it draw a number from the generator that dropout uses: a resumed run creates its iterators at other
        moments, and would drop other units.
        """
        return (self.dataset[indices] for indices in self.sampler)

    def state_dict(self) -> dict[str, int]:
        """Return the sampler's state, at an epoch's end that of its next one's beginning."""
        # The sampler does not know of limit_train_batches.
        ended = {"position": 0} if self.trainer and self.trainer.is_last_batch else {}
        return self.sampler.state_dict() | ended

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the sampler's state."""
        self.sampler.load_state_dict(state)


def check_position(state: dict[str, Any], batch_size: int, num_devices: int) -> int:
    """Return how many batches of its epoch a checkpoint has behind it, by the BatchSampler's `state`.

    Raises:
        InputError: If the epoch cannot go on in batches of `batch_size` on `num_devices` devices together.
    """
    position, *before = (state.get(name, 0) for name in ("position", "batch_size", "num_devices"))
    if type(position) is not int or position < 0:
        raise InputError(f"the checkpoint does not say where in its epoch it was saved: position is {position}")
    if position and before != [batch_size, num_devices]:
        raise InputError(
            f"the checkpoint was saved inside an epoch, {before[0]} images a batch, devices: {before[1]}; until its "
            f"end --data.batch_size and --trainer.devices must stay (now {batch_size}, devices: {num_devices})"
        )
    return position


def make_loader(
    dataset: ImageDataset, batch_size: int, trainer: Trainer | None = None, seed: int | None = None
) -> DataLoader:
    """Return a loader of this device's batches, of images that lie on it: nothing is then copied there in a step.

    Args:
        dataset: The images.
        batch_size: Images a batch, on all devices of `trainer` together.
        trainer: Whose device this is; default: the CPU alone.
        seed: What the order of each epoch is drawn from, for training; default: the images' own order.
    """
    dataset.to(trainer.strategy.root_device if trainer else torch.device("cpu"))
    num_devices, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
    if trainer and (trainer.overfit_batches or trainer.predicting):
        # Lightning puts a sampler of its own into the loader then, and cuts the images' order into batches itself.
        # Its iterators draw a number each; see ImageLoader.
        own = torch.Generator()
        return DataLoader(dataset, batch_size=batch_size // num_devices, collate_fn=whole_batch, generator=own)
    if seed is None:
        return ImageLoader(dataset, BatchSampler(dataset, batch_size, num_devices, rank))
    return ImageLoader(dataset, ShuffledBatchSampler(dataset, seed, batch_size, num_devices, rank), trainer)


def least_evaluated(image_shape: tuple[int, int, int], trainer: Trainer | None) -> int:
    """Return how many images `(C, H, W)` the devices of `trainer` should evaluate at once, at least."""
    if trainer is None or trainer.strategy.root_device.type != "cuda":
        return 1
    _, height, width = image_shape
    return LEAST_EVALUATED_PIXELS // (height * width) * trainer.world_size


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
