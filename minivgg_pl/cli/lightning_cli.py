"""The LightningCLI: it parses, checks and builds the data module, the model, the callbacks and the Trainer."""

import math
import sys
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minivgg_pl.cli import validation as checks
from minivgg_pl.cli.config import dotted_options
from minivgg_pl.cli.loggers import builder, is_for_run_folder, listed, with_save_dir
from minivgg_pl.cli.model_class import import_model_class, named_class, search_here
from minivgg_pl.cli.parser import DEFAULT_DATA, OneLineParser, build_data
from minivgg_pl.cli.recipes import FOLDER, recipe_of
from minivgg_pl.cli.resume import ResumePoint
from minivgg_pl.data.base import ImageDataModule
from minivgg_pl.data.description import describe_data
from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES
from minivgg_pl.plots.article import article_rows
from minivgg_pl.runs import folder as runs
from minivgg_pl.runs.checkpoint import DEFAULT_CLASS, class_path
from minivgg_pl.training import checkpointing as saving
from minivgg_pl.training.hardware import choose_precision
from minivgg_pl.training.module import LitMiniVGG
from minivgg_pl.training.progress import EpochProgressBar, ProgressLines
from minivgg_pl.training.run_folder import RunFolder
from minivgg_pl.training.signals import DistributedSigterm
from minivgg_pl.weights.load import TrainedNetwork, load_trained

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "devices": 1,
    # metrics.csv is written by RunFolder; a logger given with --trainer.logger writes beside it.
    "logger": False,
    # The first epoch's validation comes soon.
    "num_sanity_val_steps": 0,
}


class MiniVGGCLI(LightningCLI):
    """LightningCLI for LitMiniVGG and any data module. It parses and builds; `fit.train` trains.

    In its arguments, the short names are replaced by dotted options; `--model_class` names a subclass.
    """

    def __init__(self, args: list[str], resume: ResumePoint | None = None) -> None:
        self.resume = resume
        self.lacks_bf16 = False
        self.initial_weights: TrainedNetwork | None = None
        search_here()
        super().__init__(
            import_model_class(named_class(args)),
            LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=None,  # RunFolder writes config.yaml.
            trainer_defaults=dict(TRAINER_DEFAULTS),
            seed_everything_default=0,
            parser_class=OneLineParser,
            parser_kwargs={"description": "Every option of the trainer. The short help: --help", "allow_abbrev": False},
            args=args,
            run=False,
            # Off: it would write an `_instantiator` into checkpoints, and loading them would need jsonargparse.
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parse `args`; LightningCLI's own method warns unless they come from `sys.argv`."""
        self.config = parser.parse_args([DEFAULT_DATA, *with_save_dir(args)])
        self.config.model_class = class_path(self.model_class)
        seed = self.config.seed_everything
        if not 0 <= seed < 2**32:
            raise InputError(f"--seed_everything {seed}: give a whole number from 0 to {2**32 - 1}")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that belong to neither the trainer, the model nor the data."""
        own = parser.get_defaults().get("model") or {}
        if missing := [name for name in signature(LitMiniVGG).parameters if name not in own]:
            advice = "take it, or **options, and hand it to super().__init__"
            raise InputError(f"--model {class_path(self.model_class)}: its constructor has no {missing[0]}: {advice}")
        add = parser.add_argument
        add("--model_class", type=str, default=DEFAULT_CLASS, help="Class that --model.* are the arguments of.")
        add("--curves.reference", type=Literal["article"] | None, help="Whose curve is drawn behind the run's.")
        add("--native_bf16", type=bool, default=False, help="Whether to train in bf16-mixed where that is native.")
        add("--checkpoint_every_n_steps", type=PositiveInt | None, help="Save last.ckpt after so many updates, too.")
        add("--min_updates", type=PositiveInt | None, help="Without --epochs: more epochs where these need them.")
        add("--compile", type=bool, default=False, help="Whether to torch.compile the network.")

    def before_instantiate_classes(self) -> None:
        """Check the options, fill in what the data and the variant decide, and choose the callbacks."""
        config = self.config
        defaults = self.default_options()
        checks.check_options(config, self._dotted(config), defaults)
        # For its classes and shape; LightningCLI builds another one later.
        data = build_data(config.data)
        checks.fit_model_to_data(config.model, data, defaults)
        if config.model.init_from and not self.resume:
            self.initial_weights = load_trained(config.model.init_from)
            checks.take_normalization(config.model, self.initial_weights, defaults)
            if config.model.classifier_lr is None:
                rank_zero_info("--model.init_from: --recipe finetune keeps more of what the weights know")
        if config.model.freeze and not (config.model.init_from or self.resume):
            rank_zero_info("--model.freeze: the frozen parts stay random; --model.init_from gives them trained weights")
        # The last: before it comes the one that it is based on.
        for recipe in [Path(str(path)).stem for path in config.config or () if Path(str(path)).parent == FOLDER][-1:]:
            if not (understood := recipe_of(self._dotted(config), defaults)).startswith(recipe):
                rank_zero_info(f"--recipe {recipe}: other options win, and amount to {understood}")
        if config.trainer.max_epochs is None and config.trainer.max_steps == -1:
            config.trainer.max_epochs = self._default_epochs(data)
        if (config.trainer.max_epochs, config.trainer.max_steps, config.trainer.max_time) == (-1, -1, None):
            rank_zero_info("--epochs -1: it trains until Ctrl-C or a callback ends it (a limit: --trainer.max_time)")
        if config.native_bf16 and config.trainer.precision is None:
            config.trainer.precision = choose_precision(config.trainer.accelerator)
            self.lacks_bf16 = config.trainer.precision == "32-true"
        if self.resume:
            self.resume.check_unchanged(self._dotted(config), defaults)
            if isinstance(data, ImageDataModule):
                data.check_state(self.resume.data_state)
        root = Path(config.trainer.default_root_dir or TRAINER_DEFAULTS["default_root_dir"]).expanduser()
        runs.check_base(root, "--trainer.default_root_dir")
        recipe = self.recipe()
        self.run_folder = RunFolder(
            root,
            config=f"# Recipe: {recipe}\n{self._kept(config)}",
            reference=article_rows(config.model.variant) if config.curves.reference else None,
            resume=self.resume.folder if self.resume else None,
            every=config.checkpoint_every_n_steps,
            loggers=[builder(logger) for logger in listed(config.trainer.logger) if is_for_run_folder(logger)],
            notes={"recipe": recipe},
        )
        self.trainer_defaults["callbacks"] = self._callbacks(config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer and prepare the data, so that errors in either come before a run folder is made."""
        try:
            options: dict[str, Any] = {"enable_progress_bar": _shows_bar(self.config)}
            if self.run_folder.loggers and not self.config.trainer.fast_dev_run:
                parsed, built = listed(self.config.trainer.logger), listed(self.config_init.trainer.logger)
                pairs = zip(parsed, built, strict=True)
                options["logger"] = [logger for spec, logger in pairs if not is_for_run_folder(spec)]
            trainer = super().instantiate_trainer(**options, **kwargs)
        except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"--trainer: {error}") from error
        checks.check_trainer(trainer, self.config, self.model, self.datamodule, self.resume)
        if self.resume and self.resume.checkpoint:
            saving.check_training_state(self.resume.content, self.model, f"--resume {self.resume.checkpoint}")
            if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
                content = {self.resume.checkpoint: self.resume.content}
                trainer.strategy.checkpoint_io = saving.AtomicCheckpointIO(content)
        else:
            checks.report_unused(self.model, self.config.model, self.default_options())
            self.model.load_initial_weights(describe_data(self.datamodule).class_names, self.initial_weights)
        rank_zero_only(self.datamodule.prepare_data)()
        return trainer

    def _default_epochs(self, data: LightningDataModule) -> int:
        """Return the number of epochs of the article, or as many as `--min_updates` needs."""
        epochs, least = ARCHITECTURES[self.config.model.variant].epochs, self.config.min_updates
        if least and isinstance(data, ImageDataModule) and data.train_size:
            devices = str(self.config.trainer.devices)
            number = (int(devices) if devices.isdecimal() else 1) * self.config.trainer.num_nodes
            size = data.global_batch_size(number)
            if (needed := math.ceil(least * size / (data.train_size - data.val_size))) > epochs:
                rank_zero_info(f"{needed} epochs, for {least} updates or more; --epochs gives another number")
                epochs = needed
        return epochs

    def recipe(self) -> str:
        """Return the recipe that the options come nearest to, and what differs from it."""
        return recipe_of(self._dotted(self.config), self.default_options())

    def default_options(self) -> dict[str, Any]:
        """Return every option's default by its dotted name, those of the data module in use included."""
        self.parser.set_defaults({"data": {"class_path": self.config.data.class_path}})
        return self._dotted(self.parser.get_defaults())

    def _dotted(self, config: Any) -> dict[str, Any]:
        # A data module may have options without a default, and defaults alone are then not valid.
        return dotted_options(yaml.safe_load(self.parser.dump(config, skip_none=False, skip_validation=True)))

    def _kept(self, config: Any) -> str:
        """Return the config as YAML, without what YAML cannot hold, such as a callback's default torch.device."""
        lines = self.parser.dump(config, skip_none=False).splitlines(keepends=True)
        return "".join(line for line in lines if checks.UNKEPT not in line)

    def _callbacks(self, config: Any) -> list[Callback]:
        chosen: list[Callback] = [self.run_folder, DistributedSigterm()]
        if config.trainer.enable_progress_bar is not False and not _has_own_bar(config):
            chosen.append(EpochProgressBar() if _shows_bar(config) else ProgressLines())
        return chosen


def _shows_bar(config: Any) -> bool:
    """Return whether to show a progress bar: on a terminal, unless the user chose otherwise."""
    choice = config.trainer.enable_progress_bar
    return sys.stderr.isatty() or _has_own_bar(config) if choice is None else choice


def _has_own_bar(config: Any) -> bool:
    return any("ProgressBar" in callback.class_path for callback in listed(config.trainer.callbacks))
