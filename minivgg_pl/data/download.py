"""CIFAR-10's files: found, unpacked or downloaded, and their MD5 checked before anything reads them."""

import gzip
import http.client
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from pathlib import Path

from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from minivgg_pl.data.image_files import image_endings, some
from minivgg_pl.errors import InputError
from minivgg_pl.files import PART_SUFFIX, try_lock

TIMEOUT_S = 30.0


def prepare_cifar10(root: str | Path, url: str | None = None) -> None:
    """Make `torchvision.datasets.CIFAR10(root, download=False)` work: find, unpack or download the official files.

    In this order: batch files in `root/cifar-10-batches-py` (missing ones are completed, a whole set needs no write
    permission), then `root/cifar-10-python.tar.gz`, then a download, which resumes where an earlier one stopped. No
    file of the user's is deleted, and nothing is written before the first bytes have come.

    Args:
        root: Folder of the data; created if a download needs it.
        url: Where to download the archive from, `http:`, `https:` or `file:`; `None` takes torchvision's own address.
            Any mirror is safe, because the archive's MD5 is checked.

    Raises:
        InputError: If a file has the wrong MD5, the download fails, or the folder holds class folders instead.
        OSError: If `root` cannot be read or written.
    """
    root = Path(root).expanduser().absolute()
    if root.name == CIFAR10.base_folder and root.is_dir():
        raise InputError(f"the data folder {root} is CIFAR-10's own: name the folder above it, {root.parent} (root)")
    if root.is_file():
        raise InputError(f"the data folder {root} is a file: name a folder (root)")
    missing = _missing_files(root / CIFAR10.base_folder)
    if missing:
        archive = root / CIFAR10.filename
        if archive.exists():
            _require_md5(archive, CIFAR10.tgz_md5)
        else:
            images = (path for pattern in ("*/*", "[Tt]rain*/*/*") for path in root.glob(pattern))
            classes = sorted({path.parent.name for path in images if path.name.lower().endswith(image_endings())})
            if len(classes) > 1:
                raise InputError(
                    f"{root}: it holds class folders ({some(classes)}) and no CIFAR-10: name another folder (root), or "
                    f"train on these images: ImageFolderDataModule, in the command --data {root}"
                )
            _download(url or CIFAR10.url, archive)
        _unpack(archive, missing)


def _missing_files(folder: Path) -> list[str]:
    """Return the names not in `folder`; a file that is there with the wrong MD5 is an error."""
    expected = dict([*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])])
    present = [name for name in expected if (folder / name).exists()]
    for name in present:
        _require_md5(folder / name, expected[name])
    return [name for name in expected if name not in present]


def _require_md5(path: Path, expected: str) -> None:
    found = calculate_md5(path)
    if found != expected:
        raise InputError(
            f"{path} is not the official CIFAR-10 file (MD5 {found}, expected {expected}): delete it and run again"
        )


def _unpack(archive: Path, names: list[str]) -> None:
    base = CIFAR10.base_folder
    wanted = {f"{base}/{name}" for name in names}
    with tempfile.TemporaryDirectory(prefix=f"{base}.part-", dir=archive.parent) as temporary:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                # Regular files alone: a link could point to any other file.
                members = [member for member in tar if member.name in wanted and member.isreg()]
                tar.extractall(temporary, members, filter="data")
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
            raise InputError(f"{archive} cannot be unpacked ({error}): delete it and run again") from error
        if not wanted <= {member.name for member in members}:
            raise InputError(f"{archive} lacks some of its files: delete it and run again")
        (archive.parent / base).mkdir(exist_ok=True)
        # File by file, each whole or not there: if this is cut short, the next run completes the folder.
        for name in names:
            os.replace(Path(temporary, base, name), archive.parent / base / name)


def _download(url: str, archive: Path) -> None:
    """Download to a part file, and reconnect after a break for as long as that brings new bytes."""
    part = archive.with_name(archive.name + PART_SUFFIX)
    # An earlier download can have been stopped after its last byte.
    while not (part.exists() and calculate_md5(part) == CIFAR10.tgz_md5):
        before = _size(part)
        try:
            _append_rest(url, part, before)
        except InputError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            if before and getattr(error, "code", None) == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                # The part is as long as the archive or longer, but its MD5 is wrong: start over.
                part.unlink()
            elif _size(part) <= before:
                reason = " ".join(str(error).split()) or type(error).__name__
                kept = f" ({before / 1e6:.1f} MB are kept, and running again resumes there)" if before else ""
                raise InputError(
                    f"CIFAR-10 is not in {part.parent} and downloading {url} failed: {reason}{kept}; put "
                    f"{CIFAR10.filename} (MD5 {CIFAR10.tgz_md5}) into that folder, or name a mirror (url), or "
                    "train on drawn images (dataset synthetic)"
                ) from error
        else:
            if calculate_md5(part) != CIFAR10.tgz_md5:
                part.unlink()
                raise InputError(
                    f"{url} is not the official CIFAR-10 archive (MD5 {CIFAR10.tgz_md5}), so the download was deleted: "
                    "run again, or name another mirror (url)"
                )
    os.replace(part, archive)


def _append_rest(url: str, part: Path, done: int) -> None:
    """Append to `part`, which has `done` bytes, what it lacks. A break of the connection is an error."""
    headers = {"User-Agent": "minivgg_pl"} | ({"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            done = 0
        total = done + int(response.headers.get("Content-Length", 0))
        print(f"Downloading {url}; if it is slow, name a mirror (url); any is safe", file=sys.stderr)
        part.parent.mkdir(parents=True, exist_ok=True)
        bar = tqdm.wrapattr(response, "read", total=total or None, initial=done, disable=None)
        with part.open("ab") as file, bar as source:
            if not try_lock(file.fileno()):
                raise InputError(f"another process is downloading to {part}: run again when it has finished")
            file.truncate(done)
            shutil.copyfileobj(source, file)
            if file.tell() < total:
                raise ConnectionError("the connection broke off")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
