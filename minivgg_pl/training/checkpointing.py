"""Checkpointing and the state of the random generators."""

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
from lightning.pytorch.utilities import rank_zero_info

from minivgg_pl.data.augmentation import derived_seed
from minivgg_pl.errors import InputError
from minivgg_pl.files import make_folder, write_atomically
from minivgg_pl.training.callbacks import EpochCallback, all_finite
from minivgg_pl.training.metrics import ends_epoch, stops_early
from minivgg_pl.training.module import LitMiniVGG
from minivgg_pl.training.optim import make_optimizer


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a kill leaves the old one or the new one.

    Lightning writes to the temporary folder first. If that is on another disk, the last step is a copy, which a kill
    leaves unfinished.

    Args:
        contents: Checkpoints that were read already, by their path. Each is handed out once and not read again.
    """

    def __init__(self, contents: dict[Path, dict[str, Any]] | None = None) -> None:
        super().__init__()
        self._contents = dict(contents or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        make_folder(path.parent)
        write_atomically(path, content.getbuffer())

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        content = self._contents.pop(Path(path), None)
        return super().load_checkpoint(path, *args, **kwargs) if content is None else content

    def remove_checkpoint(self, path: str | Path) -> None:
        # Lightning's own removes folders too.
        path = Path(path)
        if path.suffix == ".ckpt" and path.is_file():
            path.unlink()


class RunCheckpoint(EpochCallback, ModelCheckpoint):
    """One checkpoint in the run folder, saved at the end of epochs, and inside them if asked for.

    Two of them write `last.ckpt` and `best.ckpt`: with `save_last=True` a single ModelCheckpoint would write the last
    one only in epochs that are also the best so far (Lightning 2.6, `on_train_epoch_end`).

    Args:
        dirpath: Folder of the checkpoints.
        filename: Name without `.ckpt`.
        monitor: Metric whose largest value is kept, or None to keep the last epoch's.
        every: Number of updates between two checkpoints inside epochs, from which a run resumes at the next batch, or
            None for no such checkpoints.
        continued: Whether `dirpath` has the best checkpoint of the run that is resumed.
    """

    def __init__(
        self,
        dirpath: Path,
        filename: str,
        monitor: str | None = None,
        every: int | None = None,
        continued: bool = False,
    ) -> None:
        options = {"mode": "max", "save_on_train_epoch_end": True, "enable_version_counter": False}
        super().__init__(dirpath=dirpath.resolve(), filename=filename, monitor=monitor, **options)
        self.every = every
        self.continued = continued
        if every is None:
            self.on_train_batch_end = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # A run that was killed in a validation and goes on from the batch before would leave the validation out.
        if not _validates_now(trainer):
            self._save_inside_epoch(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_inside_epoch(trainer, pl_module)

    def _save_inside_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Between two updates there is an accumulated gradient, which no checkpoint holds.
        has_updated = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        is_due = has_updated and trainer.global_step % self.every == 0
        # An epoch's last batch is saved in on_train_epoch_end, behind the validation. NaN must not replace good
        # weights.
        if is_due and not ends_epoch(trainer) and all_finite(pl_module.parameters(), trainer):
            trainer.save_checkpoint(Path(self.dirpath, f"{self.filename}.ckpt"), weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before the first validation there is no best; ModelCheckpoint would warn and save that epoch.
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A new folder has no best so far. In a moved folder, Lightning would delete the files at the old paths.
        if self.continued and state_dict["best_model_path"]:
            self.best_model_path = self.kth_best_model_path = str(Path(self.dirpath, f"{self.filename}.ckpt"))
            self.best_model_score = score = state_dict["best_model_score"]
            if score is not None:
                self.kth_value, self.best_k_models = score, {self.best_model_path: score}


def _validates_now(trainer: Trainer) -> bool:
    """Return whether a validation follows the batch just trained; not known for an interval in minutes."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every and (trainer.current_epoch + 1) % every):
        return False
    number = trainer.fit_loop.batch_idx if every else trainer.fit_loop.total_batch_idx
    is_due = trainer.val_check_batch is not None and (number + 1) % trainer.val_check_batch == 0
    return is_due or stops_early(trainer)


class RandomState(EpochCallback):
    """Keeps the random generators' state in the checkpoint, so that a resumed run draws the same numbers.

    With several processes, each starts every epoch with a seed of its own, derived from the run's seed, the epoch and
    its rank. A checkpoint holds the state of all processes.
    """

    def __init__(self) -> None:
        self._seed = torch.initial_seed()
        self._restored: dict[str, Any] | None = None
        self._is_mac = False

    def state_dict(self) -> dict[str, Any]:
        kind, keys, *rest = np.random.get_state()
        own = {
            "torch": torch.get_rng_state(),
            # Asking a GPU that the run does not use would take memory there.
            "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
            "mps": [torch.mps.get_rng_state()] if self._is_mac else [],
            "numpy": [kind, keys.tolist(), *rest],
            "python": random.getstate(),
        }
        states = [own]
        if torch.distributed.is_initialized():
            # Every process is asked, though only the first writes.
            states = [{}] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, own)
        return {**states[0], "other_ranks": states[1:]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def _restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        self._is_mac = device.type == "mps"
        restored, self._restored = self._restored or {}, None
        states = [restored, *restored.get("other_ranks", [])]
        # A run on more processes than before resumes at an epoch's start, where each process gets its own seed.
        if restored and trainer.global_rank < len(states):
            state = states[trainer.global_rank]
            torch.set_rng_state(state["torch"])
            # Checkpoints of earlier versions hold the states of all CUDA devices, and no `mps`.
            kept = {kind: states for kind in ("cuda", "mps") if (states := state.get(kind))}
            if own := kept.get(device.type):
                torch.get_device_module(device).set_rng_state(own[(device.index or 0) % len(own)], device)
            elif kept or device.type != "cpu":
                kept = f"{'a' if kept else 'no'} GPU's random state"
                rank_zero_info(
                    f"The checkpoint has {kept}, and this run is on {device}: dropout may draw other numbers"
                )
            np.random.set_state(state["numpy"])
            random.setstate(state["python"])

    # Before a DataLoader draws the epoch's seed. Strategies such as FSDP load the checkpoint after it.
    on_fit_start = on_train_start = _restore

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            torch.manual_seed(derived_seed(self._seed, trainer.current_epoch, trainer.global_rank))


def check_training_state(content: dict[str, Any], module: LitMiniVGG, source: str) -> None:
    """Check that the weights and the optimizer state in a checkpoint's content have the shapes of `module`'s.

    torch's fused optimizers do not compare shapes: others would be a crash or wrong weights. `source` names the
    checkpoint in the message.

    Raises:
        InputError: If the checkpoint is damaged, or of another model.
    """
    try:
        fits = _fits(content, module)
    except (AttributeError, LookupError, TypeError, ValueError):
        fits = False
    if not fits:
        raise InputError(
            f"{source}: a damaged checkpoint, or one of another model: its weights or its optimizer's state do not fit "
            "the options; resume from another, or start from its weights: --model.init_from"
        )


def _fits(content: dict[str, Any], module: LitMiniVGG) -> bool:
    weights, own = content["state_dict"], module.state_dict()
    if weights.keys() != own.keys() or any(own[name].shape != value.shape for name, value in weights.items()):
        return False
    if module.configure_optimizers.__func__ is not LitMiniVGG.configure_optimizers:
        # The optimizer of `--optimizer`, which LightningCLI puts there, or of a subclass; its state has any layout.
        return True
    optimizer = make_optimizer(module, module.hparams)
    optimizer.load_state_dict(content["optimizer_states"][0])
    pairs = [(value, parameter) for parameter, state in optimizer.state.items() for value in state.values()]
    # A count of updates has no dimensions.
    return all(value.shape == parameter.shape for value, parameter in pairs if value.ndim)
