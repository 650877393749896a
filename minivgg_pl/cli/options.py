"""Help text and short names of `scripts/train.py`. Standard library only, so that `--help` is quick."""

from collections.abc import Sequence

from minivgg_pl.cli.recipes import recipe_path
from minivgg_pl.errors import InputError
from minivgg_pl.models.architectures import ARCHITECTURES

MAX_DIGITS = 9
STEPS = "--checkpoint_every_n_steps"

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
    """Replace the short names by Lightning's dotted options, `--recipe` by its file, and take `--resume` out.

    Links between jsonargparse options would make the dotted ones unusable: hence this.

    Args:
        argv: The arguments as typed.

    Returns:
        The arguments for LightningCLI, and the path given with `--resume` or None.

    Raises:
        InputError: If a short name has no value or a bad one, or the dotted option says something else.
    """
    expanded: list[str] = []
    resume = None
    recipes: list[str] = []
    short: dict[str, str] = {}
    rest = iter(argv)
    for word in rest:
        name, has_value, value = word.partition("=")
        if word == "--compile":
            expanded.append("--compile=true")
            continue
        name = name.replace("--checkpoint-every-n-steps", STEPS)
        if name not in ("--variant", "--gpus", "--epochs", "--recipe", "--resume", STEPS):
            expanded.append("--help" if word == "--help.full" else word)
            continue
        if not has_value:
            value = next(rest, "")
        if not value or value.startswith("--"):
            raise InputError(f"{name} needs a value: see --help")
        if name == "--resume":
            resume = value
        elif name == "--recipe":
            recipes.append(value)
        else:
            short[name] = value
            expanded += _dotted(name, value)
    _check_conflicts(argv, short)
    _check_recipe(recipes, resume)
    # In front of all else, wherever it was typed: a recipe is what the typed options change.
    return [f"--config={recipe_path(name)}" for name in recipes] + expanded, resume


def _check_recipe(recipes: Sequence[str], resume: str | None) -> None:
    if len(recipes) > 1:
        raise InputError(f"--recipe {' and --recipe '.join(recipes)}: give one")
    if recipes and resume:
        raise InputError(f"--recipe {recipes[0]} beside --resume: a run keeps its own recipe; leave --recipe out")


def _dotted(name: str, value: str) -> list[str]:
    if name == "--variant":
        if value not in ARCHITECTURES:
            raise InputError(f"--variant {value}: unknown; choose one of {', '.join(ARCHITECTURES)}")
        return [f"--model.variant={value}"]
    lowest = 0 if name == "--gpus" else 1
    if not value.isdecimal() or len(value) > MAX_DIGITS or int(value) < lowest:
        raise InputError(f"{name} {value}: give a whole number, {lowest} or more")
    if name == "--epochs":
        return [f"--trainer.max_epochs={int(value)}"]
    if name == STEPS:
        return [f"{STEPS}={int(value)}"]
    if int(value) == 0:
        return ["--trainer.accelerator=cpu", "--trainer.devices=1"]
    return ["--trainer.accelerator=gpu", f"--trainer.devices={int(value)}"]


def _check_conflicts(argv: Sequence[str], short: dict[str, str]) -> None:
    typed = _typed_options(argv)
    for name, value in short.items():
        for option in _dotted(name, value):
            dotted, _, wanted = option.partition("=")
            if dotted in typed and not _same(dotted, typed[dotted], wanted):
                raise InputError(f"{name} {value} and {dotted} {typed[dotted]} contradict each other: give one of them")


def _same(dotted: str, typed: str, wanted: str) -> bool:
    return typed == wanted or (dotted == "--trainer.accelerator" and {typed, wanted} == {"cuda", "gpu"})


def _typed_options(argv: Sequence[str]) -> dict[str, str]:
    typed = {}
    for position, word in enumerate(argv):
        name, has_value, value = word.partition("=")
        if name.startswith("--"):
            typed[name] = value if has_value else next(iter(argv[position + 1 : position + 2]), "")
    return typed
