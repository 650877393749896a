"""Exit codes, one-line error messages and the argument parser that the commands share. Standard library only."""

import argparse
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from minivgg_pl import __version__
from minivgg_pl.cli.model_class import import_model_class
from minivgg_pl.errors import InputError, as_line

if TYPE_CHECKING:
    from minivgg_pl.weights.load import TrainedNetwork

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
# As a shell reports a process that a signal ended: 128 and the signal's number.
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

WEIGHTS = "classic, wide, a run folder, .ckpt, .safetensors, or Keras' .h5 or .keras"
VERSION = f"minivgg_pl {__version__}"
NOTHING_TRAINED = "terminated. Nothing was trained yet"
# The last part of an option, or advice in its place, and what people type who know it from other programs.
SYNONYMS = {
    "lr": "learning_rate eta",
    "batch_size": "bs batch",
    "max_epochs": "epochs num_epochs n_epochs",
    "seed_everything": "seed random_seed",
    "gpus": "gpu devices",
    "root": "dir path folder",
    "val_size": "validation_split val_split",
    "resume": "ckpt_path",
    "--trainer.callbacks EarlyStopping does that": "patience early_stopping",
    "--data FOLDER reads your own images, --data.root names the place of CIFAR-10": "data_dir data_path data_folder",
    "--data FOLDER reads your own images, --data.dataset has cifar10 and synthetic": "dataset",
    "weights": "model checkpoint ckpt pretrained",
    "init_from": "weights checkpoint ckpt pretrained",
    "variant": "model arch network classic wide",
    "default_root_dir": "output output_dir out log_dir logdir save_dir",
    "give WEIGHTS without an option": "weights model checkpoint ckpt",
    "put the other options below init_args": "class_path",
    "it belongs to the data: after --data FOLDER, write it with `data.` before its name": "image_size in_channels",
    "--gpus 0 is the CPU": "device cpu cuda",
    "training alone has it: leave it out": "gpus gpu devices device cpu cuda",
    "--optimizer AdamW has one": "weight_decay wd",
    "--trainer.precision bf16-mixed": "amp fp16 bf16 half",
    "there are no workers, since the images are in memory: leave it out": "workers num_workers",
    "its rates belong to --variant": "dropout dropout_rate",
}


class OneLineArgumentParser(argparse.ArgumentParser):
    """Takes no abbreviations, and reports bad input in one line, without the usage text above it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--version", action="version", version=VERSION, help="print the version")

    def add_class_options(self) -> None:
        """Add the options of `load_weights` but the source."""
        self.add_argument("--classes", metavar="A,B|FILE", help="class names, if the weights have none")
        self.add_argument(
            "--model", metavar="MODULE.CLASS", help="the class of a run of train.py --model; its code runs"
        )

    def format_help(self) -> str:
        """Return the help, with the commands as they are called."""
        return as_called(super().format_help())

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with code 2."""
        hint = hint_for(message, re.findall(r"--\w[\w.-]*\w", self.format_help()))
        sys.exit(fail(f"{message} ({hint}see --help)", EXIT_BAD_INPUT))


def as_called(text: str) -> str:
    """Return `text` with `minivgg train` in place of `train.py` and so on, where the user called `minivgg`."""
    if Path(sys.argv[0]).stem != "minivgg":
        return text
    names = r"(train|predict|evaluate|export|reproduce)\.py\b"
    return re.sub(rf"(?:python scripts/(?:benchmarks/)?|(?<![\w/.-])){names}", r"minivgg \1", text)


def hint_for(message: str, known: Sequence[str]) -> str:
    """Return which of the `known` options (such as `--model.lr`) a parser's message may be about, or nothing."""
    if not (typed := re.search(r"(?:unrecognized arguments: |(?:option|key) ')([\w.-]+)", message, re.IGNORECASE)):
        return ""
    word = typed[1].lstrip("-").replace("-", "_").lower()
    if f"--{word}" in known:
        return "it belongs to another data module than --data gives: leave one of them out; "
    last = word.rpartition(".")[2]
    by_last = {option.lstrip("-").rpartition(".")[2]: option for option in reversed(known)}
    for meant in [*(meant for meant, words in SYNONYMS.items() if last in words.split()), last]:
        if meant in by_last:
            return f"did you mean {by_last[meant]}? "
        if " " in meant and set(re.findall(r"--[\w.]+", meant)) <= set(known):
            return f"{meant}; "
    longer = [option for option in known if option.startswith(f"--{word}")]
    alike = longer or [by_last[name] for name in difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)]
    return f"did you mean {alike[0]}? " if alike else ""


def load_weights(source: str, classes: str | None = None, model: str | None = None) -> "TrainedNetwork":
    """Call `load_trained`, and say on stderr what a Keras file does not.

    `classes` are names between commas, or a text file with a name on each line. `model` is the import path of a
    subclass of LitMiniVGG.

    Raises:
        InputError: As `load_trained` and `import_model_class`; on names given twice, too few or too many, or for
            weights that have names.
    """
    # Late: torch takes a second or two to import, and the help text and most errors do not need it.
    from minivgg_pl.weights.load import load_trained

    module_class = import_model_class(model) if model else None
    if classes and os.path.isfile(classes):
        names = Path(classes).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    else:
        names = (classes or "").split(",")
    names = [name.strip() for name in names if name.strip()]
    if len(set(names)) < len(names):
        raise InputError(f"--classes: {max(names, key=names.count)} is there twice; give each class its own name")
    trained = load_trained(source, module_class)
    if names:
        own = trained.class_names
        if trained.has_class_names and not trained.assumed:
            few = ", ".join([*own[:3], "..."])
            raise InputError(f"--classes: {source} names its own classes ({few}), in its order: leave --classes out")
        if len(names) != len(own):
            raise InputError(f"--classes: {len(names)} names ({names[0]}, ...), and {source} has {len(own)} classes")
        # The last assumption is of the names.
        trained = replace(trained, class_names=names, assumed=trained.assumed[:-1])
    if trained.assumed:
        print(f"{trained.assumptions}{'' if names else ' (--classes gives others)'}", file=sys.stderr)
    if transform := trained.metadata.get("val_transform"):
        print(as_line(f"{source}: trained with val_transform {transform}, which is not applied here"), file=sys.stderr)
    return trained


def guarded(command: Callable[[], int]) -> int:
    """Return the exit code of `command()`; bad input and Ctrl-C become one line each."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a file or a class need not be text in the terminal's encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return command()
    except InputError as error:
        return fail(str(error), EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader, such as `head`, has all that it wanted.
        _drop_output()
        return EXIT_FAILED
    except ModuleNotFoundError as error:
        # One of the packages that are needed for some files only, such as h5py and onnx.
        return fail(f"{error}: pip install {error.name}" if error.name else str(error), EXIT_BAD_INPUT)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return fail("there is not enough memory for that: give a smaller batch, network or image", EXIT_BAD_INPUT)
    except OSError as error:
        # A path that is too long or closed to this user, or a full disk behind stdout.
        if not error.filename:
            _drop_output()
        return fail(f"{error.filename or 'the output'}: {error.strerror or error}", EXIT_BAD_INPUT)


def fail(message: str, code: int) -> int:
    """Print `message` as one line on stderr, and return `code`."""
    print(f"error: {as_called(as_line(message))}", file=sys.stderr)
    return code


def _is_out_of_memory(error: Exception) -> bool:
    # By the words of the message: torch has an exception for a GPU's memory alone.
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _drop_output() -> None:
    # Python would report the same error again when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
