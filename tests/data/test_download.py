"""The download, against a small stand-in for the official archive and a real server on the loopback interface."""

import io
import os
import pickle
import shutil
import socket
import tarfile
import threading
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch import Trainer
from torchvision.datasets import CIFAR10

from minivgg_pl import CIFAR10DataModule, LitMiniVGG
from minivgg_pl.errors import InputError

ARCHIVE = "cifar-10-python.tar.gz"
PART = ARCHIVE + ".part"
BATCHES = "cifar-10-batches-py"


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{BATCHES}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make sixty random images the official ones, by their MD5s in torchvision's class."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    batches = [{"labels": list(range(10)), "data": rng.integers(0, 256, (10, 3072), dtype=np.uint8)} for _ in names]
    files = {name: pickle.dumps(batch, protocol=2) for name, batch in zip(names, batches, strict=True)}
    files["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=2)
    archive = tar_of(files)
    sums = {name: md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    return SimpleNamespace(files=files, archive=archive)


class Server(ThreadingHTTPServer):
    """Serves `body`; each answer stops after `stop_after` bytes, as a broken connection does."""

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges, self.stop_after, self.status = body, True, None, 200
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/mirror.tar.gz"


class Handler(BaseHTTPRequestHandler):
    """Answers like a web server: 206 and Content-Range to a range, 416 to one past the end."""

    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if server.status != 200 or start >= len(server.body):
            self.send_error(server.status if server.status != 200 else 416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(server.body) - start))
        self.end_headers()
        self.wfile.write(server.body[start:][: server.stop_after])

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(official: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server(official.archive) as http_server:
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


def prepare(root: Path, url: str | None = None) -> None:
    CIFAR10DataModule(root, url=url).prepare_data()


def error_of(root: Path, url: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        prepare(root, url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unpack(root: Path, official: SimpleNamespace) -> Path:
    folder = root / BATCHES
    folder.mkdir(parents=True)
    for name, content in official.files.items():
        (folder / name).write_bytes(content)
    return folder


def assert_complete(root: Path) -> None:
    assert len(CIFAR10(root, train=True)) == 50
    assert len(CIFAR10(root, train=False)) == 10
    assert sorted(path.name for path in root.iterdir() if path.name != ARCHIVE) == [BATCHES]


def test_an_archive_in_the_folder_is_unpacked_without_a_connection(official, tmp_path, nobody_listens):
    (tmp_path / ARCHIVE).write_bytes(official.archive)
    prepare(tmp_path, nobody_listens)
    assert_complete(tmp_path)


def test_missing_batches_are_completed_and_the_others_left_alone(official, tmp_path):
    folder = unpack(tmp_path, official)
    (folder / "data_batch_3").unlink()
    (folder / "batches.meta").unlink()
    before = (folder / "test_batch").stat().st_ino
    (tmp_path / ARCHIVE).write_bytes(official.archive)
    prepare(tmp_path)
    assert_complete(tmp_path)
    assert (folder / "test_batch").stat().st_ino == before


def test_an_unpacking_cut_short_leaves_only_whole_batches_and_is_completed(official, tmp_path, monkeypatch):
    (tmp_path / ARCHIVE).write_bytes(official.archive)
    replace = os.replace

    def replace_until_the_third(source: Path, target: Path) -> None:
        if target.name == "data_batch_3":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_until_the_third)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path)
    assert sorted(path.name for path in (tmp_path / BATCHES).iterdir()) == ["data_batch_1", "data_batch_2"]
    prepare(tmp_path)
    assert_complete(tmp_path)


def test_a_damaged_batch_is_named_and_not_deleted(official, tmp_path):
    path = unpack(tmp_path, official) / "data_batch_2"
    path.write_bytes(b"damaged")
    message = error_of(tmp_path)
    expected = md5(official.files["data_batch_2"]).hexdigest()
    for part in (str(path), md5(b"damaged").hexdigest(), expected, "delete it and run again"):
        assert part in message
    assert path.read_bytes() == b"damaged"


def test_an_archive_with_the_wrong_md5_is_named_and_never_unpacked(official, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(tar_of(official.files | {"data_batch_1": b"another pickle"}))
    message = error_of(tmp_path)
    for part in (str(tmp_path / ARCHIVE), CIFAR10.tgz_md5, "delete it and run again"):
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_a_download_makes_the_folder_keeps_the_archive_and_hints_at_mirrors(server, tmp_path, capfd):
    root = tmp_path / "new" / "data"
    prepare(root, server.url)
    assert_complete(root)
    assert (root / ARCHIVE).read_bytes() == server.body
    assert server.asked == [None]
    error = capfd.readouterr().err
    assert error.startswith(f"Downloading {server.url}")
    assert "(url)" in error
    # No bar off a terminal.
    assert error.count("\n") == 1


def test_a_file_url_is_a_mirror_too(official, tmp_path):
    (tmp_path / "mirror.tar.gz").write_bytes(official.archive)
    prepare(tmp_path / "data", (tmp_path / "mirror.tar.gz").as_uri())
    assert_complete(tmp_path / "data")


@pytest.mark.parametrize(
    ("part", "ranges", "asked"),
    [
        # A download resumes where an earlier one stopped.
        (slice(100_000), True, ["bytes=100000-"]),
        # A server that ignores ranges starts over.
        (slice(100_000), False, ["bytes=100000-"]),
        # A part that is whole needs no connection.
        (slice(None), True, []),
    ],
)
def test_a_part_of_the_archive_is_completed(server, tmp_path, part, ranges, asked):
    server.ranges = ranges
    (tmp_path / PART).write_bytes(server.body[part])
    prepare(tmp_path, server.url)
    assert_complete(tmp_path)
    assert server.asked == asked


def test_a_useless_part_longer_than_the_archive_starts_over(server, tmp_path):
    (tmp_path / PART).write_bytes(server.body + b"more")
    prepare(tmp_path, server.url)
    assert_complete(tmp_path)
    assert server.asked == [f"bytes={len(server.body) + 4}-", None]


def test_a_connection_that_breaks_off_is_taken_up_again(server, tmp_path):
    server.stop_after = 80_000
    prepare(tmp_path, server.url)
    assert_complete(tmp_path)
    assert server.asked == [None, "bytes=80000-", "bytes=160000-"]


def test_a_download_that_gets_no_further_is_kept_and_reported(server, tmp_path):
    server.ranges, server.stop_after = False, 80_000
    message = error_of(tmp_path, server.url)
    assert "broke off" in message
    assert "running again resumes there" in message
    assert (tmp_path / PART).read_bytes() == server.body[:80_000]


def test_a_download_with_the_wrong_md5_is_deleted_so_that_the_next_one_starts_clean(server, tmp_path, official):
    server.body = b"<html>please log in</html>"
    message = error_of(tmp_path, server.url)
    for part in (server.url, CIFAR10.tgz_md5, "(url)"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", [None, "nonsense", "file:///no/such/file"])
def test_being_offline_says_what_to_do_and_writes_nothing(tmp_path, nobody_listens, url, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = error_of(Path("data"), url or nobody_listens)
    for part in (str(tmp_path / "data"), ARCHIVE, CIFAR10.tgz_md5, "(url)", "(dataset synthetic)"):
        assert part in message
    assert not (tmp_path / "data").exists()


def test_an_http_error_is_named_and_keeps_the_part(server, tmp_path):
    server.status = 503
    (tmp_path / PART).write_bytes(b"x" * 2_000_000)
    message = error_of(tmp_path, server.url)
    assert "503" in message
    assert "2.0 MB are kept" in message
    assert (tmp_path / PART).stat().st_size == 2_000_000


def test_the_folder_of_the_batches_is_no_root(tmp_path):
    (tmp_path / BATCHES).mkdir()
    assert f"name the folder above it, {tmp_path} (root)" in error_of(tmp_path / BATCHES)
    assert not list((tmp_path / BATCHES).iterdir())


def test_a_root_that_is_a_file_or_below_one_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert f"{tmp_path / 'file'} is a file" in error_of(tmp_path / "file")
    assert str(tmp_path / "file" / "data") in error_of(tmp_path / "file" / "data", server.url)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_one_line(official, tmp_path, monkeypatch):
    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / ARCHIVE).write_bytes(official.archive)
    monkeypatch.setattr(tarfile, "copyfileobj", no_space)
    assert "No space left on device; make room or give permission there" in error_of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_a_second_download_to_the_same_file_is_refused(server, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / PART).write_bytes(server.body[:1000])
    with (tmp_path / PART).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process" in error_of(tmp_path, server.url)
    assert (tmp_path / PART).read_bytes() == server.body[:1000]


def test_the_files_may_go_away_while_a_run_trains(official, tmp_path):
    unpack(tmp_path, official)
    data = CIFAR10DataModule(tmp_path, batch_size=10)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer, module = Trainer(fast_dev_run=True, accelerator="cpu", **quiet), LitMiniVGG()
    trainer.fit(module, datamodule=data)
    shutil.rmtree(tmp_path / BATCHES)
    assert trainer.test(module, datamodule=data, verbose=False)[0]["test_loss"] > 0
    assert list(tmp_path.iterdir()) == []
