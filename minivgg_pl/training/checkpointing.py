"""What a run keeps to go on from: its checkpoints, and the state of the random generators in them."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from minivgg_pl.data.augmentation import derived_seed
from minivgg_pl.files import make_folder, write_atomically
from minivgg_pl.runs import folder as runs
from minivgg_pl.training.callbacks import RunRecorder
from minivgg_pl.training.epoch_callback import EpochCallback
from minivgg_pl.training.module import ends_epoch


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill leaves the old one or the new one.

    Lightning's own goes by way of the folder for temporary files. Where that is another disk the last step is a copy,
    which a kill leaves half done.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`; see TorchCheckpointIO.

        Raises:
            InputError: If it cannot be written, such as on a full disk.
        """
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        make_folder(path.parent)
        write_atomically(path, content.getbuffer())

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove one checkpoint file, and nothing else: Lightning's own removes folders too."""
        path = Path(path)
        if path.suffix == ".ckpt" and path.is_file():
            path.unlink()


class StepCheckpoint(EpochCallback):
    """Saves the run's last checkpoint inside epochs too, from which it resumes at the next batch.

    Args:
        recorder: Knows the run folder.
        every: Number of updates from one to the next.
    """

    def __init__(self, recorder: RunRecorder, every: int) -> None:
        self.recorder = recorder
        self.every = every
        self._step_before = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not _validates_now(trainer):
            self._save(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning leaves a validation out that a run was killed in, if it goes on from the batch before.
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        # A batch that only adds to the gradient is no place to go on from: the gradient is in no checkpoint.
        has_updated = step != self._step_before
        # An epoch's last batch belongs to the checkpoint of its end, which has the validation behind it.
        if has_updated and step % self.every == 0 and not ends_epoch(trainer) and _is_finite(trainer, pl_module):
            trainer.save_checkpoint(self.recorder.folder / runs.LAST_CHECKPOINT, weights_only=False)


def _validates_now(trainer: Trainer) -> bool:
    """Tell, after a training batch, whether a validation follows it."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def _is_finite(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Tell whether every device's network and losses are: what is NaN must not take the place of what was good."""
    values = [*pl_module.state_dict().values(), pl_module.train_metrics.sums]
    is_finite = all(value.isfinite().all() for value in values)
    return bool(trainer.strategy.reduce(torch.tensor(float(is_finite), device=pl_module.device), reduce_op="min"))


class RunCheckpoint(EpochCallback, ModelCheckpoint):
    """One checkpoint in the run folder, looked at after each epoch.

    Two of them make `last.ckpt` and `best.ckpt`: with `save_last=True` a single ModelCheckpoint would refresh the
    last one only in epochs that are also the best so far (Lightning 2.6, `on_train_epoch_end`).

    Args:
        recorder: Knows the run folder.
        filename: Name without `.ckpt`.
        monitor: Metric whose largest value is kept, or None to keep every epoch's, each in place of the one before.
    """

    # ModelCheckpoint's own looks after each batch whether it is to save.
    on_train_batch_end = None

    def __init__(self, recorder: RunRecorder, filename: str, monitor: str | None = None) -> None:
        super().__init__(
            filename=filename, monitor=monitor, mode="max", save_on_train_epoch_end=True, enable_version_counter=False
        )
        self.recorder = recorder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.dirpath = str((self.recorder.folder / runs.LAST_CHECKPOINT.parent).resolve())
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before a first validation there is no best; ModelCheckpoint would warn and keep that epoch.
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        resume = self.recorder.resume
        if resume is None or resume.folder is None:
            # A new folder has no best so far.
            return
        # Not the paths in the file: the folder may have been moved, and Lightning deletes what they name.
        score = state_dict.get("best_model_score")
        own = str(Path(self.dirpath, f"{self.filename}.ckpt")) if state_dict.get("best_model_path") else ""
        kept = {own: score} if own and score is not None else {}
        super().load_state_dict(
            {
                "dirpath": self.dirpath,
                "best_model_score": score,
                "kth_value": score if kept else self.kth_value,
                "best_k_models": kept,
                **dict.fromkeys(("best_model_path", "kth_best_model_path"), own),
            }
        )


class RandomState(EpochCallback):
    """Keeps the random generators in the checkpoint, so that a resumed run draws what it would have drawn.

    Where there are several processes, each begins every epoch with a seed of its own, drawn from the run's seed, the
    epoch and its rank, and a checkpoint has the generators of all.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None
        self._seed = torch.initial_seed()
        self._rank, self._world_size = 0, 1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._rank, self._world_size = trainer.global_rank, trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        # Every process is asked, though the first alone writes.
        first, *others = _gather(_generators(), self._world_size)
        return {**first, "other_ranks": others}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = [state_dict, *state_dict.get("other_ranks", [])]
        # On more processes than before it goes on from an epoch's end alone, and every process begins with a seed.
        self._restored = states[self._rank] if self._rank < len(states) else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()
        if trainer.world_size > 1:
            torch.manual_seed(derived_seed(self._seed, trainer.current_epoch, trainer.global_rank))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # A run that is resumed inside an epoch does not start one.
        self._restore()

    def _restore(self) -> None:
        # As late as can be: Lightning itself draws numbers while it sets a resumed run up.
        if self._restored is not None:
            state, self._restored = self._restored, None
            torch.set_rng_state(state["torch"])
            if len(state["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda"])
            np.random.set_state(_numpy_state(state))
            random.setstate(_python_state(state))


def is_random_state(state: Any) -> bool:
    """Tell whether `state` is what RandomState keeps, on each process; it may come from anyone."""
    try:
        for own in [state, *state.get("other_ranks", [])]:
            torch.Generator().set_state(own["torch"])
            if any((generator.dtype, generator.ndim) != (torch.uint8, 1) for generator in own["cuda"]):
                return False
            np.random.RandomState().set_state(_numpy_state(own))
            random.Random().setstate(_python_state(own))
    except Exception:  # whatever is not as it should be
        return False
    return True


def _numpy_state(state: dict[str, Any]) -> tuple[Any, ...]:
    kind, keys, *rest = state["numpy"]
    return (kind, np.array(keys, dtype=np.uint32), *rest)


def _python_state(state: dict[str, Any]) -> tuple[Any, ...]:
    version, internal, gauss = state["python"]
    return version, tuple(internal), gauss


def _generators() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [kind, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def _gather(own: dict[str, Any], world_size: int) -> list[dict[str, Any]]:
    """Return what each process gave, in the order of their ranks."""
    if world_size == 1:
        return [own]
    states: list[dict[str, Any]] = [{}] * world_size
    torch.distributed.all_gather_object(states, own)
    return states
