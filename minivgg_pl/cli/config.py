"""Config files in YAML, read as plain values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from minivgg_pl.errors import InputError


def read_config(path: Path) -> dict[str, Any]:
    """Return the options in the YAML file at `path`.

    Raises:
        InputError: If it is missing, not UTF-8, not YAML of plain values, or not a mapping.
    """
    try:
        options = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a YAML file, such as a run's config.yaml") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not YAML ({error}): correct it, or give a run's config.yaml") from error
    if not isinstance(options, dict):
        raise InputError(f"{path}: holds no options; give a YAML file, such as a run's config.yaml")
    return options


def dotted_options(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by their dotted names, the data module's as they are typed: `data.batch_size`."""
    dotted: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            dotted |= dotted_options(value, f"{prefix}{name}.")
        else:
            dotted[f"{prefix}{name}".replace("data.init_args.", "data.", 1)] = value
    return dotted
