"""The command line proper: a LightningCLI that knows the article's defaults and keeps a run folder."""

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minivgg_pl import callbacks, checks, runs
from minivgg_pl.architectures import ARCHITECTURES
from minivgg_pl.command import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, fail
from minivgg_pl.data import CIFAR10DataModule
from minivgg_pl.errors import InputError
from minivgg_pl.module import LitMiniVGG, NonFiniteLossError
from minivgg_pl.precision import choose_precision
from minivgg_pl.recipe import flatten, recipe_of
from minivgg_pl.resume import ResumePoint, find_resume_point
from minivgg_pl.summary import summarize, summary_table

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
        checks.check_schedule(config)
        checks.check_optimizer(config)
        checks.check_gpus(config.trainer.accelerator, config.trainer.devices)
        if config.native_bf16 and config.trainer.precision is None:
            config.trainer.precision = choose_precision(config.trainer.accelerator)
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


def train(argv: list[str], resume_path: str | None = None) -> int:
    """Parse, fit, test once, write summary.json and print the table.

    Args:
        argv: Arguments for LightningCLI.
        resume_path: Run folder or checkpoint to continue, or None.

    Returns:
        The process's exit code.

    Raises:
        InputError: On bad input.
    """
    _quiet_known_noise()
    resume = find_resume_point(Path(resume_path)) if resume_path else None
    try:
        cli = MiniVGGCLI([*(resume.arguments() if resume else []), *argv], resume)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    if resume and resume.is_finished(cli.trainer.max_epochs):
        print(f"{resume_path} already has its {resume.epoch} epochs. To go on: --epochs {resume.epoch * 2}")
        return 0
    return _fit_and_test(cli, resume)


def _quiet_known_noise() -> None:
    """Silence what tells the user nothing; everything else that the libraries say stays."""
    # jsonargparse 4.49 and newer deprecate what Lightning 2.6's LightningCLI calls (PL#21900).
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.pytorch\.cli")
    # Lightning 2.6 asks torch's pytree in a way that torch 2.12 and newer deprecate.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    # Worker processes lose time here: a batch is one indexing operation.
    warnings.filterwarnings("ignore", message=r".*does not have many workers")
    # Resuming in the run's own folder is what --resume is for.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    # That is what --optimizer is for.
    warnings.filterwarnings("ignore", message=r".*configure_optimizers` will be overridden by")
    # The seed stands in config.yaml and summary.json; on stderr it would stand above every error.
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    # Lightning's advertisements for its cloud services.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_tip)


def _no_tip(record: logging.LogRecord) -> bool:
    return "Tip: " not in record.getMessage()


def _fit_and_test(cli: MiniVGGCLI, resume: ResumePoint | None) -> int:
    start = time.perf_counter()
    if cli.config.native_bf16 and cli.config.trainer.precision == "32-true":
        rank_zero_info("Training in float32: this device does not compute bfloat16 natively.")
    if cli.config.compile:
        # In place, and the network alone: the state dict keeps its names (PL#20233), and self.log stays outside.
        cli.model.net.compile()
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=resume.checkpoint if resume else None)
        tested = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    except MisconfigurationException as error:
        raise InputError(f"--trainer: {error}") from error
    except NonFiniteLossError as error:
        return fail(f"{error}. {_last_good_weights(cli.recorder)}", EXIT_FAILED)
    except SystemExit:
        # Lightning's answer to Ctrl-C.
        return fail(f"interrupted. {_how_to_continue(cli.recorder)}", EXIT_INTERRUPTED)
    if cli.recorder.folder is not None and cli.trainer.is_global_zero:
        # No result: with --trainer.limit_test_batches 0.
        summary = summarize(cli.trainer, cli.model, cli.recorder, tested[0] if tested else {})
        summary |= {
            "recipe": cli.recipe(),
            "seed": cli.config.seed_everything,
            "wall_seconds_of_this_start": time.perf_counter() - start,
        }
        runs.write_json(cli.recorder.folder / runs.SUMMARY, summary)
        print(summary_table(summary))
    return 0


def _last_checkpoint(recorder: callbacks.RunRecorder) -> Path | None:
    path = recorder.folder and recorder.folder / runs.LAST_CHECKPOINT
    return path if path and path.exists() else None


def _last_good_weights(recorder: callbacks.RunRecorder) -> str:
    path = _last_checkpoint(recorder)
    return f"The last good weights: {path}" if path else "No epoch was finished, so there are no weights to keep"


def _how_to_continue(recorder: callbacks.RunRecorder) -> str:
    path = _last_checkpoint(recorder)
    return f"To go on: --resume {recorder.folder}" if path else "No epoch was finished, so nothing can be resumed"
