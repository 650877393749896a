"""The download against a small stand-in for the official archive and a real server on the loopback interface."""

import codecs
import io
import os
import pickle
import socket
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from minivgg_pl.data import download
from minivgg_pl.data.download import prepare_cifar10
from minivgg_pl.errors import InputError

ARCHIVE = "cifar-10-python.tar.gz"
PART = ARCHIVE + ".part"
BATCHES = "cifar-10-batches-py"


def _files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    batch = {"labels": list(range(10))}
    files = {
        name: pickle.dumps(batch | {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8)}, protocol=2)
        for name in names
    }
    return files | {"batches.meta": pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=2)}


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{BATCHES}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make sixty random images the official ones: their MD5s, in torchvision's class, are what counts."""
    files = _files()
    archive = _tar(files)
    sums = {name: md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    return SimpleNamespace(files=files, archive=archive)


class Server(ThreadingHTTPServer):
    """Serve `body`; every answer stops after `stop_after` bytes, as a broken connection does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges, self.stop_after, self.status = b"", True, None, 200
        self.names_range = False
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/mirror.tar.gz"


class Handler(BaseHTTPRequestHandler):
    """Answer like a web server: 206 and Content-Range to a range, 416 to one past the end."""

    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if server.status != 200 or start >= len(server.body):
            self.send_error(server.status if server.status != 200 else 416)
            return
        self.send_response(206 if start else 200)
        if start or server.names_range:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(server.body) - start))
        self.end_headers()
        self.wfile.write(server.body[start:][: server.stop_after])

    def log_message(self, *args: object) -> None:
        """Keep stderr for the progress."""


@pytest.fixture
def server(official: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as http_server:
        http_server.body = official.archive
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http_server
        http_server.shutdown()
        thread.join()


@pytest.fixture
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/{ARCHIVE}"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, as tmp_path is not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        os.chmod(name, 0o755)


@pytest.fixture
def as_ordinary_user() -> Iterator[None]:
    """Permissions mean nothing to root, so root steps down for the test; ask for `open_folder` before it."""
    if os.name != "posix":
        pytest.skip("needs POSIX permissions")
    user = os.geteuid()
    # Codecs are imported on first use, perhaps from files that only root can read.
    for codec in ("latin1", "idna"):
        codecs.lookup(codec)
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def _unpacked(root: Path, official: SimpleNamespace) -> Path:
    folder = root / BATCHES
    folder.mkdir(parents=True)
    for name, content in official.files.items():
        (folder / name).write_bytes(content)
    return folder


def _error(root: Path, url: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        prepare_cifar10(root, url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _assert_complete(root: Path) -> None:
    assert len(CIFAR10(root, train=True)) == 50
    assert len(CIFAR10(root, train=False)) == 10
    assert sorted(path.name for path in root.iterdir() if path.name != ARCHIVE) == [BATCHES]


@pytest.fixture
def read_only_data(official: SimpleNamespace, open_folder: Path) -> Path:
    _unpacked(open_folder, official)
    open_folder.chmod(0o555)
    return open_folder


@pytest.mark.usefixtures("read_only_data", "as_ordinary_user")
def test_batches_in_a_folder_without_write_permission_are_used_as_they_are(
    read_only_data: Path, nobody_listens: str
) -> None:
    assert not os.access(read_only_data, os.W_OK, effective_ids=True)
    prepare_cifar10(read_only_data, nobody_listens)
    _assert_complete(read_only_data)


def test_an_archive_in_the_folder_is_unpacked_without_a_connection(
    official: SimpleNamespace, tmp_path: Path, nobody_listens: str
) -> None:
    (tmp_path / ARCHIVE).write_bytes(official.archive)
    prepare_cifar10(str(tmp_path), nobody_listens)
    _assert_complete(tmp_path)


def test_missing_batches_are_completed_and_the_others_left_alone(official: SimpleNamespace, tmp_path: Path) -> None:
    folder = _unpacked(tmp_path, official)
    (folder / "data_batch_3").unlink()
    (folder / "batches.meta").unlink()
    before = (folder / "test_batch").stat().st_ino
    (tmp_path / ARCHIVE).write_bytes(official.archive)
    prepare_cifar10(tmp_path)
    _assert_complete(tmp_path)
    assert (folder / "test_batch").stat().st_ino == before


def test_an_unpacking_cut_short_leaves_only_whole_batches_and_is_completed(
    official: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ARCHIVE).write_bytes(official.archive)
    really_replace = os.replace

    def replace_until_the_third(source: Path, target: Path) -> None:
        if target.name == "data_batch_3":
            raise KeyboardInterrupt
        really_replace(source, target)

    monkeypatch.setattr(os, "replace", replace_until_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare_cifar10(tmp_path)
    monkeypatch.setattr(os, "replace", really_replace)
    assert sorted(path.name for path in (tmp_path / BATCHES).iterdir()) == ["data_batch_1", "data_batch_2"]
    prepare_cifar10(tmp_path)
    _assert_complete(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_damaged_batch_is_named_and_not_deleted(official: SimpleNamespace, tmp_path: Path, name: str) -> None:
    path = _unpacked(tmp_path, official) / name
    path.write_bytes(b"damaged")
    message = _error(tmp_path)
    expected = md5(official.files[name]).hexdigest()
    for part in (str(path), md5(b"damaged").hexdigest(), expected, "delete it and run again"):
        assert part in message
    assert path.read_bytes() == b"damaged"


def test_an_archive_with_the_wrong_md5_is_named_and_never_unpacked(official: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(_tar(official.files | {"data_batch_1": b"another pickle"}))
    message = _error(tmp_path)
    for part in (str(tmp_path / ARCHIVE), CIFAR10.tgz_md5, "delete it and run again"):
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_a_download_makes_the_folder_and_keeps_the_archive(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new" / "data"
    prepare_cifar10(root, server.url)
    _assert_complete(root)
    assert (root / ARCHIVE).read_bytes() == server.body
    assert server.asked == [None]
    assert capfd.readouterr().err == f"Downloading {server.url}\n"


def test_without_a_url_the_download_takes_torchvisions_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "url", server.url)
    prepare_cifar10(tmp_path)
    _assert_complete(tmp_path)


def test_a_file_url_is_a_mirror_too(official: SimpleNamespace, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror.tar.gz"
    mirror.write_bytes(official.archive)
    prepare_cifar10(tmp_path / "data", mirror.as_uri())
    _assert_complete(tmp_path / "data")


def test_a_download_resumes_where_an_earlier_one_stopped(server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(server.body[:100_000])
    prepare_cifar10(tmp_path, server.url)
    _assert_complete(tmp_path)
    assert server.asked == ["bytes=100000-"]


@pytest.mark.parametrize("names_range", [False, True])
def test_a_server_that_ignores_ranges_starts_over(server: Server, tmp_path: Path, names_range: bool) -> None:
    server.ranges, server.names_range = False, names_range
    (tmp_path / PART).write_bytes(server.body[:100_000])
    prepare_cifar10(tmp_path, server.url)
    _assert_complete(tmp_path)


def test_a_useless_part_longer_than_the_archive_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(server.body + b"more")
    prepare_cifar10(tmp_path, server.url)
    _assert_complete(tmp_path)
    assert server.asked == [f"bytes={len(server.body) + 4}-", None]


def test_a_part_that_is_whole_needs_no_connection(
    official: SimpleNamespace, tmp_path: Path, nobody_listens: str
) -> None:
    (tmp_path / PART).write_bytes(official.archive)
    prepare_cifar10(tmp_path, nobody_listens)
    _assert_complete(tmp_path)


def test_a_connection_that_breaks_off_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.stop_after = 80_000
    prepare_cifar10(tmp_path, server.url)
    _assert_complete(tmp_path)
    assert server.asked == [None, "bytes=80000-", "bytes=160000-"]


def test_a_download_that_gets_no_further_is_kept_and_reported(server: Server, tmp_path: Path) -> None:
    server.ranges, server.stop_after = False, 80_000
    message = _error(tmp_path, server.url)
    assert "broke off" in message
    assert "running again resumes there" in message
    assert (tmp_path / PART).read_bytes() == server.body[:80_000]
    server.ranges = True
    prepare_cifar10(tmp_path, server.url)
    _assert_complete(tmp_path)


def test_a_download_with_the_wrong_md5_is_deleted_so_that_the_next_one_starts_clean(
    server: Server, tmp_path: Path, official: SimpleNamespace
) -> None:
    server.body = b"<html>please log in</html>"
    message = _error(tmp_path, server.url)
    for part in (server.url, md5(server.body).hexdigest(), CIFAR10.tgz_md5, "--data.url"):
        assert part in message
    assert list(tmp_path.iterdir()) == []
    server.body = official.archive
    prepare_cifar10(tmp_path, server.url)
    _assert_complete(tmp_path)


@pytest.mark.parametrize("url", [None, "nonsense", "gopher://127.0.0.1/x", "http://", "file:///no/such/file"])
def test_being_offline_says_what_to_do_and_writes_nothing(tmp_path: Path, nobody_listens: str, url: str | None) -> None:
    root = tmp_path / "data"
    message = _error(root, url or nobody_listens)
    for part in (str(root), ARCHIVE, CIFAR10.tgz_md5, "--data.url", "--data.dataset synthetic"):
        assert part in message
    assert not root.exists()


def test_an_http_error_is_named_and_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.status = 503
    (tmp_path / PART).write_bytes(b"x" * 2_000_000)
    message = _error(tmp_path, server.url)
    assert "503" in message
    assert "2.0 MB are kept" in message
    assert (tmp_path / PART).stat().st_size == 2_000_000


def test_a_relative_root_is_reported_as_an_absolute_folder(
    tmp_path: Path, nobody_listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "data") in _error(Path("data"), nobody_listens)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    assert f"{tmp_path / 'data'} is a file" in _error(tmp_path / "data")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_root_below_a_file_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file" / "data") in _error(tmp_path / "file" / "data", server.url)


@pytest.fixture
def closed_folder(open_folder: Path) -> Path:
    open_folder.chmod(0o555)
    return open_folder


@pytest.mark.usefixtures("closed_folder", "as_ordinary_user")
def test_a_folder_without_write_permission_is_refused(closed_folder: Path, server: Server) -> None:
    message = _error(closed_folder, server.url)
    assert "Permission denied" in message
    assert str(closed_folder) in message


def test_a_full_disk_is_one_line(official: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / ARCHIVE).write_bytes(official.archive)
    monkeypatch.setattr(tarfile, "copyfileobj", no_space)
    assert "No space left on device" in _error(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_a_second_download_to_the_same_file_is_refused(server: Server, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / PART).write_bytes(server.body[:1000])
    with (tmp_path / PART).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process" in _error(tmp_path, server.url)
    assert (tmp_path / PART).read_bytes() == server.body[:1000]


def test_progress_off_a_terminal_is_whole_lines_and_one_hint_when_slow(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"REPORT_S": 1e-9, "SETTLED_S": 0, "SLOW_S": 1e-9, "CHUNK_BYTES": 8192}.items():
        monkeypatch.setattr(download, name, value)
    prepare_cifar10(tmp_path, server.url)
    error = capfd.readouterr().err
    assert f" of {len(server.body) / 1e6:.1f} MB, " in error
    assert "kB/s, 0 min 00 s left\n" in error
    assert error.count("--data.url") == 1
    assert "\r" not in error


def test_progress_on_a_terminal_rewrites_one_line(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(download, "TERMINAL_REPORT_S", 1e-9)
    prepare_cifar10(tmp_path, server.url)
    error = capsys.readouterr().err
    assert error.count("\r") > 1
    assert error.count("\n") == 2
    assert "--data.url" not in error
