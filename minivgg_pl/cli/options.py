"""Help text and short names of `scripts/train.py`. Standard library only, so that `--help` is quick."""

from collections.abc import Sequence

from minivgg_pl.cli.recipes import recipe_arguments
from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES

# Short names that take a value. The first two stand for a dotted option each.
SHORT_NAMES = {"--variant": "--model.variant", "--epochs": "--trainer.max_epochs"}
OTHER_SHORT_NAMES = ("--gpus", "--recipe", "--resume")
FLAGS = {"--compile": "--compile=true", "--help.full": "--help"}

HELP = """\
usage: train.py [--variant {classic,wide}] [--recipe NAME] [--gpus N] [--epochs N] [--resume RUN] [--compile]
                [--data.* ...] [--model.* ...] [--trainer.* ...] [--config FILE.yaml]

Trains a mini VGG on CIFAR-10 or on your own images, tests the last epoch's network, and leaves a run folder:
config.yaml, metrics.csv (a row an epoch), curves.png, checkpoints/, report.csv, confusion_matrix.png, summary.json.

  --variant NAME       {variants} (default: classic)
  --recipe NAME        article, modern (more accurate) or speedrun (82 % soonest); other options win (default: article)
  --gpus N             number of GPUs; 0 is the CPU (default: one GPU if there is one, else the CPU)
  --epochs N           passes over the training images (default: {epochs})
  --resume RUN         continue a run: its folder, or a .ckpt file; the trainer's options may change, such as --epochs
  --data MODULE        minivgg_pl.ImageFolderDataModule: your own images in --data.root DIR, a folder for each class;
                       minivgg_pl.TorchvisionDataModule with --data.dataset CIFAR100, FashionMNIST, MNIST or SVHN
  --data.root DIR      folder with the data, or where they are downloaded to, 170 MB (default: data)
  --data.dataset NAME  cifar10, or synthetic: ten drawn shapes, no download (default: cifar10)
  --data.url URL       a mirror of cifar-10-python.tar.gz; any is safe, the MD5 is checked
  --data.batch_size N  images a batch (default: 64), on each device; --data.split_batches true: on all of them together
  --data.val_size N    training images held out for validation; 0 validates on the test set (default: 0)
  --model.lr RATE      learning rate of the first batch (default: 0.01)
  --model.init_from WEIGHTS  start from trained weights: classic, wide, a run folder, .ckpt, .safetensors, or Keras'
                       .weights.h5 of the article's model (default: start anew)
  --model.dense_units N  hidden dense units (default: 512 and 256; 300 is the article's listing of wide)
  --checkpoint_every_n_steps N  save a checkpoint inside epochs too, to resume from at that very batch
  --compile            torch.compile the network first (a minute); pays off in long runs, if at all on your machine
  --seed_everything N  seed of weights, order and dropout (default: 0)
  --curves.reference article  draw the article's own curve behind the run's
  --trainer.default_root_dir DIR  where run folders go: DIR/<variant>/<n> (default: runs)
  --config FILE.yaml   read options from a file, such as a run's config.yaml; later options win
  --print_config       print every option with its value (null: chosen when the run starts), and stop
  --help.full          every option of Lightning's Trainer, the model, the data, optimizers, schedulers

examples:
  train.py --recipe modern --variant wide --gpus 1
  train.py --data.dataset synthetic --gpus 0 --epochs 5
  train.py --resume runs/classic/1 --epochs 20
"""


def help_text() -> str:
    """Return the one-screen help."""
    variants = "; ".join(f"{name}: {a.num_parameters:,} parameters" for name, a in ARCHITECTURES.items())
    epochs = ", ".join(f"{a.epochs} for {name}" for name, a in ARCHITECTURES.items())
    return HELP.replace("{variants}", variants).replace("{epochs}", f"the article's, {epochs}")


def expand_short_names(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Replace the short names by Lightning's dotted options, `--recipe` by its config files, and take `--resume` out.

    Links between jsonargparse options would do it too, but make the dotted options unusable.

    Args:
        argv: The arguments as typed.

    Returns:
        The arguments for LightningCLI, and the path given with `--resume` or None.

    Raises:
        InputError: If a short name has no value or a bad one.
    """
    expanded: list[str] = []
    taken: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, has_value, value = word.partition("=")
        if name not in (*SHORT_NAMES, *OTHER_SHORT_NAMES):
            expanded.append(FLAGS.get(word, word))
            continue
        value = value if has_value else next(words, "")
        if not value or value.startswith("--"):
            raise InputError(f"{name} needs a value: see --help")
        if name in ("--recipe", "--resume"):
            taken[name] = value
        elif name == "--gpus":
            expanded += _device_options(value)
        else:
            expanded.append(f"{SHORT_NAMES[name]}={value}")
    if len(taken) > 1:
        raise InputError("--recipe beside --resume: a run keeps its own recipe; leave --recipe out")
    # In front of all else, wherever it was typed: typed options change a recipe.
    recipe = recipe_arguments(taken["--recipe"]) if "--recipe" in taken else []
    return recipe + expanded, taken.get("--resume")


def _device_options(gpus: str) -> list[str]:
    if not gpus.isdecimal():
        raise InputError(f"--gpus {gpus}: give a whole number, 0 or more")
    number = int(gpus)
    return [f"--trainer.accelerator={'gpu' if number else 'cpu'}", f"--trainer.devices={max(number, 1)}"]
