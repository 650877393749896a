"""What torch.save writes, looked at before torch reads it: a zip archive of a pickle and the tensors' bytes.

torch's `weights_only` runs no code, but it inflates whatever is packed, and lets a few bytes ask for gigabytes.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from minivgg_pl.runs.pickles import check_globals

# A run's checkpoint has about 30 kB of pickle: all but its tensors.
MAX_PICKLE_BYTES = 2**20
# Most of a checkpoint's few thousand values are the states of the random generators.
MAX_VALUES = 200_000
MAX_DEPTH = 100

# What plain tensors, numbers and texts in dictionaries, lists and sets are pickled with. Of what torch allows besides,
# bytearray and torch.FloatTensor take a size alone, and make as much as it says.
GLOBALS = {
    "_codecs encode",
    "builtins set",
    "__builtin__ set",
    "collections Counter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    # These take no memory of their own; where they are no weights, what reads weights says so.
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_sparse_tensor",
    "torch.serialization _get_layout",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
}


def check_archive(path: Path) -> None:
    """Check that loading the file needs no more memory than its size suggests.

    Raises:
        ValueError: If it is no archive as torch.save writes it, or a damaged one; with the reason.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # torch asks for names without their case: two alike would leave open which it reads.
        names = {entry.filename.lower() for entry in entries}
        if len(names) < len(entries) or len({name.partition("/")[0] for name in names}) != 1:
            raise ValueError("its entries are not those of one torch.save")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries claim more bytes than the file has")
        pickles = [entry for entry in entries if entry.filename.lower().partition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"it has no data.pkl of at most {MAX_PICKLE_BYTES:,} bytes")
        check_globals(archive.read(pickles[0]), _is_plain)


def _is_plain(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    if module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype):
        return True
    return name in GLOBALS or (module == "torch" and attribute.endswith("Storage"))


def check_extent(content: Any) -> None:
    """Check that what was loaded is not endless: a list can hold itself, or stand in another a million times.

    Raises:
        ValueError: If it is more than MAX_VALUES, written out, or nested deeper than MAX_DEPTH.
    """
    _count(content, {}, 0)


def _count(value: Any, known: dict[int, int], depth: int) -> int:
    """Return how many values `value` is, written out; `known` holds those of containers, -1 while they are counted."""
    if not isinstance(value, Mapping | list | tuple | set):
        return 1
    if known.get(id(value), 0) < 0 or depth > MAX_DEPTH:
        raise ValueError(f"it holds itself, or is nested deeper than {MAX_DEPTH}")
    if id(value) not in known:
        known[id(value)] = -1
        below = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_count(element, known, depth + 1) for element in below)
    if known[id(value)] > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    return known[id(value)]
