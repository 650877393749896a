"""The trained weights that come with the package, and their checksums: `export.py --to pretrained` writes both."""

from pathlib import Path

FOLDER = Path(__file__).parent
# What predict.py uses: the more accurate of the two.
DEFAULT = "wide"
SHA256 = {
    "classic": "e072cfeac4b1e36b6d89172e55f14f4ffa51f30024b5f6ac9c984522472b7137",
    "wide": "e276cc4a723fef9be4e18e9629e2e847ee90068ac997a049e15a38366cc9295b",
}
