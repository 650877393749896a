"""YAML of strangers: every config file, and every value typed as YAML, is measured before it is built.

A few hundred bytes of YAML can stand for gigabytes ("billion laughs": lists of aliases of lists of aliases). The
parser's events tell how large a document is without building it. Only plain values are made: no tag builds an object.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from minivgg_pl.errors import InputError

# For jsonargparse, whose options' values are YAML too.
PARSER_MODE = "measured_yaml"
# A run's config.yaml has about 5 kB, 150 values and a depth of 6.
MAX_BYTES = 128 * 1024
MAX_VALUES = 2_000
MAX_DEPTH = 30

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config(path: Path) -> Any:
    """Return what the YAML file at `path` holds, in plain values.

    Raises:
        InputError: If it cannot be read, is no file, empty, not UTF-8, no YAML, or larger or deeper than any config.
    """
    text = _read_text(path)
    try:
        options = _build(text, _plain_values)
    except (InputError, yaml.YAMLError) as error:
        raise InputError(f"{path}: Problems parsing config: {error}") from error
    if options is None:
        raise InputError(f"{path}: holds no options; give a YAML file, such as a run's config.yaml")
    return options


def install() -> None:
    """Make jsonargparse's PARSER_MODE measure each text, and take no value for an address to fetch."""
    # Late: recipes are read for the help text too, which should not wait for it.
    import jsonargparse

    plain_load = jsonargparse.get_loader("yaml")
    jsonargparse.set_loader(PARSER_MODE, lambda text: _build(text, plain_load), exceptions=(yaml.YAMLError,))
    # Lightning turns it on: any text in place of a class or a section would be opened, s3:// and http:// alike.
    if hasattr(jsonargparse, "set_parsing_settings"):
        jsonargparse.set_parsing_settings(config_read_mode_fsspec_enabled=False)


def typed_config(value: str) -> Any:
    """Return what the value of `--config` says, the path of a file or YAML itself; None where it is neither.

    Raises:
        InputError: As `read_config`.
    """
    if "\0" in value:
        raise InputError(f"--config {value!r}: a path cannot hold a NUL character: leave it out")
    if os.path.exists(value):
        return read_config(Path(value))
    try:
        return _build(value, _plain_values)
    except yaml.YAMLError:
        return None  # the parser says it better


def _read_text(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        what = "not a file" if path.exists() else "there is no such file"
        raise InputError(f"{path}: {what}; give a YAML file, such as a run's config.yaml")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: above {MAX_BYTES:,} bytes, larger than any config: give a run's config.yaml")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from error


def _build(text: str, load: Callable[[str], Any]) -> Any:
    """Return `load(text)` once the text is measured.

    Raises:
        InputError: If it stands for more than any config holds.
        yaml.YAMLError: If it is no YAML of plain values. jsonargparse takes the text itself for the value then.
    """
    try:
        _measure(text)
        value = load(text)
        _check_below(value)
        return value
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # PyYAML's constructors stumble over tags on values that do not suit them, such as !!timestamp 2020-99-99.
        raise yaml.YAMLError(f"not plain values: {error}") from error


def _plain_values(text: str) -> Any:
    return yaml.load(text, Loader=_LOADER)


def _check_below(value: Any) -> None:
    if isinstance(value, dict):
        for key, below in value.items():
            # jsonargparse keeps its own notes under such names, and trusts them.
            if isinstance(key, str) and key.startswith("__"):
                raise InputError(f"no option is called {key}")
            _check_below(below)
    elif isinstance(value, list):
        for below in value:
            _check_below(below)
    elif isinstance(value, str):
        # Where it wants a number, jsonargparse reads such a text as YAML once more.
        with suppress(yaml.YAMLError):
            _measure(value)


def _measure(text: str) -> None:
    """Check how much the text stands for, its aliases written out.

    Raises:
        InputError: If that is more than MAX_BYTES, MAX_VALUES or MAX_DEPTH, or an alias stands inside itself.
        yaml.YAMLError: If it is no YAML.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"more than {MAX_BYTES:,} characters")
    known: dict[str, tuple[int, int]] = {}
    # Of each open collection: its anchor, its size, how deep it goes. The first stands for the whole.
    opened: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            # Until it is closed, an alias of it stands inside itself.
            known.pop(event.anchor, None)
            opened.append((event.anchor, 1, 1))
            if len(opened) > MAX_DEPTH:
                raise InputError(f"nested deeper than {MAX_DEPTH}")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size, depth = opened.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size, depth = event.anchor, 1, 0
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise InputError(f"the alias *{event.anchor} stands for nothing, or for what it stands in")
            anchor, (size, depth) = None, known[event.anchor]
        else:
            continue
        if anchor:
            known[anchor] = size, depth
        own, around, below = opened[-1]
        opened[-1] = own, around + size, max(below, depth + 1)
        if around + size > MAX_VALUES or depth + len(opened) > MAX_DEPTH:
            raise InputError(f"more than {MAX_VALUES:,} values, or nested deeper than {MAX_DEPTH}")
