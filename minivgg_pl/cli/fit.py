"""One run of `scripts/train.py`: parse, train, test, summarize."""

import logging
import re
import signal
import warnings
from pathlib import Path

import yaml
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden

from minivgg_pl.cli.command import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, NOTHING_TRAINED, fail
from minivgg_pl.cli.lightning_cli import MiniVGGCLI
from minivgg_pl.cli.parser import shortened
from minivgg_pl.cli.resume import ResumePoint, find_resume_point
from minivgg_pl.errors import InputError, NonFiniteLossError
from minivgg_pl.memory import keep_freed_memory
from minivgg_pl.runs import folder as runs
from minivgg_pl.training.run_folder import RunFolder
from minivgg_pl.training.signals import LOST_PROCESS, end_at_once, end_other_processes
from minivgg_pl.training.summary import summary_table


def train(argv: list[str], resume_path: str | None = None) -> int:
    """Train as the arguments for LightningCLI say, test once, print the table, and return the process's exit code.

    `resume_path` is the run folder or checkpoint to continue, or None.
    """
    _quiet_known_noise()
    keep_freed_memory()
    # cli/train.py puts the previous handler back.
    signal.signal(signal.SIGTERM, end_at_once)
    try:
        return _train(argv, resume_path)
    except SIGTERMException:
        return fail(NOTHING_TRAINED, EXIT_TERMINATED)


def _train(argv: list[str], resume_path: str | None) -> int:
    resume = find_resume_point(Path(resume_path)) if resume_path else None
    try:
        cli = MiniVGGCLI([*(resume.arguments() if resume else []), *argv], resume)
    except (ValueError, OSError, yaml.YAMLError) as error:
        kept = "config.yaml cannot hold an option's default, give that option: " * isinstance(error, yaml.YAMLError)
        raise InputError(f"{kept}{shortened(str(error))}") from error
    if resume and resume.is_finished(cli.trainer.max_epochs):
        print(f"{resume_path} already has its {resume.epoch} epochs. To go on: --epochs {resume.epoch * 2}")
        return 0
    return _fit_and_test(cli, resume)


def _quiet_known_noise() -> None:
    """Silence messages of the libraries that tell the user nothing."""
    for message in (
        # Lightning 2.6 asks torch's pytree in a way that torch 2.12 and newer deprecate.
        r".*isinstance\(treespec, LeafSpec\)",
        # The weights stay float32 under bf16-mixed, so the size in the summary is right.
        "Precision bf16-mixed is not supported by the model summary",
        # Resuming in the run's own folder is what --resume is for, and --optimizer replaces the optimizer.
        "Checkpoint directory .* exists and is not empty",
        ".*configure_optimizers` will be overridden by",
        # --gpus 0 asks for it.
        "GPU available but not used",
        # --model.freeze asks for it.
        r"Found \d+ module\(s\) in eval mode",
    ):
        warnings.filterwarnings("ignore", message)
    # On stderr they would stand above every error; the seed and the device are in summary.json.
    for name in ("lightning.fabric.utilities.seed", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # Advertisements, how the triangular schedule finds its length, the devices (in summary.json), advice on code.
    noise = ("Tip: ", "to estimate number of stepping batches", " available: ", " has Tensor Cores. ")
    return not any(words in record.getMessage() for words in noise)


def _fit_and_test(cli: MiniVGGCLI, resume: ResumePoint | None) -> int:
    if cli.lacks_bf16:
        rank_zero_info("Training in float32: bfloat16 is not known to be native on this device.")
    if cli.config.compile:
        # In place, and the network only: the state dict keeps its names (PL#20233), and self.log stays outside.
        cli.model.net.compile()
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=resume.checkpoint if resume else None)
        _report_early_stop(cli)
        if is_overridden("test_dataloader", cli.datamodule):
            cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        else:
            rank_zero_info(f"No test: {type(cli.datamodule).__name__} has no test_dataloader")
        if cli.run_folder.summary:
            print(summary_table(cli.run_folder.summary))
    except (MisconfigurationException, ValueError) as error:
        # Lightning knows the number of batches, and so the longest val_check_interval, only now. Another ValueError is
        # no option's fault.
        if isinstance(error, ValueError) and "`val_check_interval`" not in str(error):
            raise
        raise InputError(f"--trainer: {error}") from error
    except NonFiniteLossError as error:
        kept = (cli.run_folder.folder or Path()) / runs.LAST_CHECKPOINT
        advice = f"The last good weights: {kept}" if kept.exists() else "No epoch was finished"
        return _stop(cli, str(error), EXIT_FAILED, advice)
    except RuntimeError as error:
        if str(error).startswith("Early stopping conditioned on metric"):
            raise InputError(f"--trainer.callbacks: {error}") from error
        if cli.trainer.world_size == 1 or not re.search(LOST_PROCESS, str(error)):
            raise
        return _stop(cli, "another process of the run is gone", EXIT_FAILED)
    except SIGTERMException:
        return _stop(cli, "terminated", EXIT_TERMINATED)
    except (KeyboardInterrupt, SystemExit):
        # SystemExit is Lightning's answer to Ctrl-C.
        return _stop(cli, "interrupted", EXIT_INTERRUPTED)
    return 0


def _report_early_stop(cli: MiniVGGCLI) -> None:
    epochs = cli.trainer.current_epoch
    for stopping in cli.trainer.early_stopping_callbacks:
        # A resumed run has the reason of an earlier stop, too.
        if stopping.stopping_reason_message and stopping.stopped_epoch == epochs - 1:
            reason = stopping.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            rank_zero_info(f"Stopped early, after epoch {epochs}: {reason}")


def _stop(cli: MiniVGGCLI, reason: str, code: int, advice: str | None = None) -> int:
    """Report in one process what ended all of them, with advice (default: how to go on); return the exit code."""
    # A second signal changes nothing.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The first process returns the code. Lightning would kill it if another one failed.
    if not cli.trainer.is_global_zero:
        return 0
    end_other_processes(cli.trainer)
    return fail(f"{reason}. {advice or _how_to_continue(cli.run_folder)}", code)


def _how_to_continue(run: RunFolder) -> str:
    if run.folder is None:
        return "Nothing was trained yet"
    if len(run.rows) > 1 and not (run.folder / runs.LAST_CHECKPOINT).exists():
        return "It kept no checkpoints to go on from"
    return f"To go on: --resume {run.folder}"
