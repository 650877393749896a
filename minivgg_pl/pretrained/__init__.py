"""The trained weights that come with the package, and their checksums: `export.py --to pretrained` writes both."""

from pathlib import Path

FOLDER = Path(__file__).parent
SHA256 = {
    "classic": "9b0011e05dae09ea4c349734839f2064d4951cc8247247955926321f3ce8bafb",
    "wide": "bd35ff0a3677fe770d7cb0b72d107ee23ddde9a5a80b76f55d798119dea3ab6f",
}
