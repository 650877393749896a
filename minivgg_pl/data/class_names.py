"""Class names as people write them."""

import unicodedata


def plain_name(name: str) -> str:
    """Return a name without what differs between writers: upper case, `_` and `-` for a space, Unicode's two forms."""
    return unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ")
