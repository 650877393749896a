"""The trained weights that come with the package, and their checksums: `export.py --to pretrained` writes both."""

from pathlib import Path

FOLDER = Path(__file__).parent
# What predict.py uses: the more accurate of the two.
DEFAULT = "classic"
SHA256 = {
    "classic": "e072cfeac4b1e36b6d89172e55f14f4ffa51f30024b5f6ac9c984522472b7137",
    "wide": "26f2be1f2536bbfcdcd2cfdd0621e28ce9feed19cb562effab4cb40c19d2e5db",
}
