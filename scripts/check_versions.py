"""Report installed packages of versions that are known to be bad, one line each: `python scripts/check_versions.py`.

Exit code 1 if there is any, else 0. Nothing that it judges is imported, since importing is what some of them wait for.
"""

import argparse
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

# Works from a clone, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from minivgg_pl.cli.command import OneLineArgumentParser

Version = tuple[int, ...]


def below(*version: int) -> Callable[[Version], bool]:
    """Return what tells a version below `version`."""
    return lambda installed: installed < version


# (package, whether a version is bad, what is wrong and where that is written)
KNOWN_BAD = (
    ("lightning", lambda v: v in ((2, 6, 2), (2, 6, 3)), "malicious upload, steals credentials: GHSA-w37p-236h-pfx3"),
    ("lightning", below(2, 6, 6), "a checkpoint can run code under weights_only=True: CVE-2026-58659, fixed in 2.6.6"),
    ("pytorch-lightning", below(2, 6, 6), "a checkpoint can run code as above: CVE-2026-58659, fixed in 2.6.6"),
    ("torch", below(2, 6), "torch.load can run code under weights_only=True: CVE-2025-32434, fixed in 2.6.0"),
    ("keras", below(3, 11, 3), "loading an .h5 model can run code in safe mode: CVE-2025-9905, fixed in 3.11.3"),
)


def main() -> int:
    """Print the bad ones, or one line that there are none."""
    parser = OneLineArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    installed = {name: version for name, _, _ in KNOWN_BAD if (version := installed_version(name))}
    bad = [(name, reason) for name, is_bad, reason in KNOWN_BAD if name in installed and is_bad(parse(installed[name]))]
    for name, reason in bad:
        print(f"{name} {installed[name]}: {reason}")
    if not bad:
        found = ", ".join(f"{name} {version}" for name, version in installed.items())
        print(f"no known-bad version among {found or 'the installed packages'}")
    return 1 if bad else 0


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, from its metadata alone."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def parse(version: str) -> Version:
    """Return a version's release numbers: `2.6.0+cpu` and `2.6.0rc1` are (2, 6, 0)."""
    return tuple(map(int, re.match(r"[\d.]+", version)[0].strip(".").split(".")))


if __name__ == "__main__":
    sys.exit(main())
