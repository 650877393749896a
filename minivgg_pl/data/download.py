"""CIFAR-10 onto disk: found, unpacked or downloaded, its MD5 checked before anything unpickles it."""

import http.client
import os
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from minivgg_pl.errors import InputError
from minivgg_pl.files import typed_path

try:
    import fcntl
except ImportError:  # Windows has no flock: there, two first runs at once are the user's to avoid.
    fcntl = None

TIMEOUT_S = 30.0
CHUNK_BYTES = 64 * 1024
REPORT_S = 10.0
TERMINAL_REPORT_S = 0.5
SETTLED_S = 5.0
SLOW_S = 600.0


class _NetworkError(Exception):
    """The bytes stopped coming, or never came; the message is the reason. Errors of the disk stay OSError."""


def prepare_cifar10(root: str | Path, url: str | None = None) -> None:
    """Make `torchvision.datasets.CIFAR10(root, download=False)` work: find, unpack or download the official files.

    In this order: batch files already in `root/cifar-10-batches-py` (missing ones are completed, a set that is whole
    needs no write permission), then `root/cifar-10-python.tar.gz`, then a download, which resumes where an earlier one
    stopped. Nothing of the user's is ever deleted, and nothing is written before the first bytes have come.

    Args:
        root: Folder of the data; created if a download needs it.
        url: Where to download the archive from, `http:`, `https:` or `file:`; `None` takes torchvision's own address.
            Any mirror is safe, because the MD5 decides.

    Raises:
        InputError: If a file has the wrong MD5, the download fails, or `root` cannot be read or written.
    """
    root = typed_path(root, "--data.root").absolute()
    try:
        if root.exists() and not root.is_dir():
            raise InputError(f"the data folder {root} is a file: name a folder with --data.root")
        missing = _missing_files(root / CIFAR10.base_folder)
        if missing:
            archive = root / CIFAR10.filename
            if archive.exists():
                _require_md5(archive, CIFAR10.tgz_md5)
            else:
                _download(url or CIFAR10.url, archive)
            _unpack(archive, missing)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot read or write {error.filename or root}: {reason}; make room or give permission there, or name "
            "another data folder with --data.root"
        ) from error


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
            with tarfile.open(archive) as tar:
                # Files alone: a link could name any other.
                members = [member for member in tar if member.name in wanted and member.isreg()]
                tar.extractall(temporary, members, filter="data")
        except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
            raise InputError(f"{archive} cannot be unpacked ({error}): delete it and run again") from error
        if not wanted <= {member.name for member in members}:
            raise InputError(f"{archive} lacks some of its files: delete it and run again")
        (archive.parent / base).mkdir(exist_ok=True)
        # File by file, each whole or not there: if this is cut short, the next run completes the folder.
        for name in names:
            os.replace(Path(temporary, base, name), archive.parent / base / name)


def _download(url: str, archive: Path) -> None:
    part = archive.with_name(archive.name + ".part")
    # A download can have been stopped after its last byte.
    if _size(part) == 0 or calculate_md5(part) != CIFAR10.tgz_md5:
        _fetch_all(url, part)
        found = calculate_md5(part)
        if found != CIFAR10.tgz_md5:
            part.unlink()
            raise InputError(
                f"{url} is not the official CIFAR-10 archive (MD5 {found}, expected {CIFAR10.tgz_md5}), so the "
                "download was deleted: run again, or name another mirror with --data.url"
            )
    os.replace(part, archive)


def _fetch_all(url: str, part: Path) -> None:
    """Download to `part`, reconnecting after every break for as long as each attempt brings new bytes."""
    while True:
        before = _size(part)
        try:
            if _fetch(url, part):
                return
            reason = "the connection broke off"
        except _NetworkError as error:
            reason = " ".join(str(error).split())
        if _size(part) <= before:
            kept = f" ({before / 1e6:.1f} MB are kept, and running again resumes there)" if before else ""
            raise InputError(
                f"CIFAR-10 is not in {part.parent} and downloading {url} failed: {reason}{kept}; put "
                f"{CIFAR10.filename} (MD5 {CIFAR10.tgz_md5}) into that folder, or name a mirror "
                "with --data.url, or train on drawn images with --data.dataset synthetic"
            )


def _fetch(url: str, part: Path) -> bool:
    """Append what is missing to `part`; return whether all of it came, as far as the server tells."""
    response, done, total = _open(url, _size(part))
    with response:
        chunk = _read(response)
        if not chunk:
            raise _NetworkError("the server sent nothing")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file, closing(_Progress(url, done, total)) as progress:
            _lock(file)
            file.truncate(done)
            while chunk:
                file.write(chunk)
                done += len(chunk)
                progress.update(done)
                chunk = _read(response)
    return total is None or done == total


def _open(url: str, offset: int) -> tuple[Any, int, int | None]:
    """Return the response, the byte that it starts at (0 if the server ignores ranges) and the size of the whole."""
    headers = {"User-Agent": "minivgg_pl"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        # 416: `part` has nothing left to ask for and yet the wrong MD5, so it is of no use.
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            return _open(url, 0)
        raise _NetworkError(error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _NetworkError(getattr(error, "reason", error)) from error
    if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        offset = 0
    length = response.headers.get("Content-Length")
    return response, offset, offset + int(length) if length else None


def _read(response: IO[bytes]) -> bytes:
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError(error or type(error).__name__) from error


def _lock(file: IO[bytes]) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another process is downloading to {file.name}: run again when it has finished") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Progress:
    """The state of one download on stderr: one line rewritten on a terminal, else a line about every 10 seconds."""

    def __init__(self, url: str, done: int, total: int | None) -> None:
        self.first_byte, self.total = done, total
        self.terminal = sys.stderr.isatty()
        self.start = self.last_report = time.monotonic()
        self.hinted = False
        print(f"Downloading {url}" + (f" from {done / 1e6:.1f} MB on" if done else ""), file=sys.stderr)

    def update(self, done: int) -> None:
        """Report that `done` bytes are on disk, unless the last report is too fresh."""
        now = time.monotonic()
        if now - self.last_report < (TERMINAL_REPORT_S if self.terminal else REPORT_S):
            return
        self.last_report = now
        rate = (done - self.first_byte) / (now - self.start)
        left = (self.total - done) / rate if self.total else None
        whole = f" of {self.total / 1e6:.1f}" if self.total else ""
        text = f"{done / 1e6:.1f}{whole} MB, {rate / 1e3:.0f} kB/s"
        if left is not None:
            text += f", {left // 60:.0f} min {left % 60:02.0f} s left"
        self._print(text)
        # The first seconds of a connection say little about its speed.
        if left is not None and left > SLOW_S and now - self.start > SETTLED_S and not self.hinted:
            self.hinted = True
            self._print("That is slow: stop and name a mirror with --data.url (any is safe, the MD5 decides)\n")

    def close(self) -> None:
        """Leave the line that a terminal shows, so that the next message starts on its own."""
        if self.terminal:
            print(file=sys.stderr)

    def _print(self, text: str) -> None:
        # On a terminal the spaces cover the longer line before.
        print(f"\r{text:<70}" if self.terminal else text.rstrip(), end="" if self.terminal else "\n", file=sys.stderr)
        sys.stderr.flush()
