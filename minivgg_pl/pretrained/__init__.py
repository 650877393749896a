"""The trained weights that come with the package, and their checksums: `export.py --to pretrained` writes both."""

from pathlib import Path

FOLDER = Path(__file__).parent
SHA256 = {
    "classic": "9dce197c1dd7af9108235d05106bfee26dd5b8bdd0556be10569d263d23b48e2",
    "wide": "26f2be1f2536bbfcdcd2cfdd0621e28ce9feed19cb562effab4cb40c19d2e5db",
}
