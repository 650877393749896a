"""Train a mini VGG: `python scripts/train.py --help`."""

import sys
from pathlib import Path

# Works from a clone, installed or not. In place of scripts/, so that a train.py of the user's own is found.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from minivgg_pl.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
