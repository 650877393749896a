"""The command line proper: a LightningCLI that knows the article's defaults and keeps a run folder."""

import logging
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minivgg_pl import callbacks, checks, runs
from minivgg_pl.architectures import ARCHITECTURES
from minivgg_pl.command import EXIT_BAD_INPUT, fail
from minivgg_pl.data import CIFAR10DataModule
from minivgg_pl.errors import InputError
from minivgg_pl.module import LitMiniVGG
from minivgg_pl.precision import choose_precision
from minivgg_pl.recipe import flatten, recipe_of
from minivgg_pl.resume import ResumePoint

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "devices": 1,
    # metrics.csv is written by RunRecorder; a logger given with --trainer.logger runs beside it.
    "logger": False,
    # The first epoch's validation comes soon enough.
    "num_sanity_val_steps": 0,
}


class OneLineParser(LightningArgumentParser):
    """Reports bad input in one line, without the usage text above it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the one line and exit with code 2."""
        sys.exit(fail(f"{message} (see --help)", EXIT_BAD_INPUT))


class MiniVGGCLI(LightningCLI):
    """LightningCLI for LitMiniVGG and CIFAR10DataModule; parses and builds, and leaves training to `train`.

    Args:
        args: Arguments with every short name replaced by its dotted option.
        resume: Where a run continues, or None for a new run.
    """

    def __init__(self, args: list[str], resume: ResumePoint | None = None) -> None:
        self.resume = resume
        self.recorder: callbacks.RunRecorder | None = None
        self.lacks_bf16 = False
        super().__init__(
            LitMiniVGG,
            CIFAR10DataModule,
            save_config_callback=callbacks.SaveRunConfig,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            seed_everything_default=0,
            parser_class=OneLineParser,
            parser_kwargs={"description": "Every option of the mini VGG trainer. The short help: --help"},
            args=args,
            run=False,
            # Off: it would write an `_instantiator` into checkpoints, and loading them would need jsonargparse.
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parse; LightningCLI's own warns whenever arguments come from anywhere but `sys.argv`."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that belong to neither the trainer, the model nor the data."""
        parser.add_argument(
            "--curves.reference",
            type=Literal["article"] | None,
            default=None,
            help="Whose curve curves.png draws behind the run's own.",
        )
        parser.add_argument(
            "--native_bf16",
            type=bool,
            default=False,
            help="Train in bf16-mixed where the device computes bfloat16 natively; --trainer.precision wins.",
        )
        parser.add_argument("--compile", type=bool, default=False, help="Whether to torch.compile the network.")

    def before_instantiate_classes(self) -> None:
        """Fill in the article's epochs, check what Lightning would only notice later, and choose the callbacks."""
        config = self.config
        checks.check_model(config.model)
        if config.trainer.max_epochs is None and config.trainer.max_steps == -1:
            config.trainer.max_epochs = ARCHITECTURES[config.model.variant].epochs
        checks.check_trainer(config.trainer)
        checks.check_effects(config.model)
        checks.check_schedule(config)
        checks.check_optimizer(config)
        checks.check_gpus(config.trainer.accelerator, config.trainer.devices)
        if config.native_bf16 and config.trainer.precision is None:
            config.trainer.precision = choose_precision(config.trainer.accelerator)
            self.lacks_bf16 = config.trainer.precision == "32-true"
        if self.resume:
            self.resume.check_unchanged(yaml.safe_load(self.parser.dump(config, skip_none=False)))
        base = Path(config.trainer.default_root_dir or TRAINER_DEFAULTS["default_root_dir"]).expanduser()
        synthetic = config.data.dataset == "synthetic"
        name = config.model.variant + ("-synthetic" if synthetic else "")
        title = f"mini VGG {config.model.variant} on " + ("synthetic data, not CIFAR-10" if synthetic else "CIFAR-10")
        runs.check_base(base / name)
        self.recorder = callbacks.RunRecorder(base, name, title, self.resume)
        self.save_config_kwargs = {"recorder": self.recorder}
        self.trainer_defaults["callbacks"] = self._callbacks(config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer, then make sure of the data: what is wrong with either is said before a run starts."""
        # What Lightning says of the devices it found stands in summary.json; here it would stand above an error.
        logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            trainer = super().instantiate_trainer(enable_progress_bar=_shows_bar(self.config), **kwargs)
        except (MisconfigurationException, ModuleNotFoundError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"--trainer: {error}") from error
        finally:
            logger.setLevel(level)
        rank_zero_only(self.datamodule.prepare_data)()
        return trainer

    def recipe(self) -> str | None:
        """Return the recipe that the options amount to, or None for a mixture of the user's own."""
        options, defaults = (self.parser.dump(c, skip_none=False) for c in (self.config, self.parser.get_defaults()))
        return recipe_of(*(dict(flatten(yaml.safe_load(text))) for text in (options, defaults)))

    def _callbacks(self, config: Any) -> list[Callback]:
        chosen: list[Callback] = [callbacks.RandomState()]
        if _shows_bar(config) and not _has_own_bar(config):
            chosen.append(TQDMProgressBar(refresh_rate=callbacks.bar_refresh_rate()))
        if config.trainer.fast_dev_run:
            return chosen
        val_label = "validation (test set)" if config.data.val_size == 0 else "validation (held out)"
        chosen += [
            self.recorder,
            callbacks.EpochLines(self.recorder),
            callbacks.CurvePlot(self.recorder, config.model.variant, config.curves.reference, val_label),
            callbacks.TestReport(self.recorder),
        ]
        if config.trainer.enable_checkpointing is not False:
            # The last one last: what it keeps of the other's state is then this epoch's.
            chosen.append(callbacks.RunCheckpoint(self.recorder, "best", monitor="val_acc"))
            chosen.append(callbacks.RunCheckpoint(self.recorder, runs.LAST_CHECKPOINT.stem))
        return chosen


def _shows_bar(config: Any) -> bool:
    """Show a bar on a terminal; a log file gets the line an epoch alone. The user's own choice wins."""
    choice = config.trainer.enable_progress_bar
    return sys.stderr.isatty() or _has_own_bar(config) if choice is None else choice


def _has_own_bar(config: Any) -> bool:
    given = config.trainer.callbacks or []
    return any("ProgressBar" in callback.class_path for callback in (given if isinstance(given, list) else [given]))
