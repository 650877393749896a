"""Pickles of strangers, looked at before they are loaded: which functions and classes they ask for."""

import pickletools
from collections.abc import Callable

# These name what to call by other ways than GLOBAL does. The protocols that this project reads, up to 2, need none.
HIDDEN_GLOBALS = {"EXT1", "EXT2", "EXT4", "INST", "STACK_GLOBAL"}


def check_globals(content: bytes, is_allowed: Callable[[str], bool]) -> None:
    """Check that a pickle asks for nothing but what `is_allowed` knows by `module name`; nothing is loaded.

    Raises:
        ValueError: If it asks for more, or is no pickle.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in HIDDEN_GLOBALS:
            raise ValueError(f"it uses {opcode.name}, which plain values do not need")
        if opcode.name == "GLOBAL" and not is_allowed(argument):
            raise ValueError(f"it asks for {argument.replace(' ', '.')}, which plain values do not need")
