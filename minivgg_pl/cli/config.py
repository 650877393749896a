"""Config files in YAML, read as plain values."""

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
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a YAML file, such as a run's config.yaml") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not YAML ({error}): correct it, or give a run's config.yaml") from error
    if not isinstance(options, dict):
        raise InputError(f"{path}: holds no options; give a YAML file, such as a run's config.yaml")
    return options
