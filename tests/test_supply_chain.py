"""Known-bad versions are reported without importing them, and CI's lock names every file."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

LOCK = (REPOSITORY / ".ci" / "constraints.txt").read_text().splitlines()[1:]


def check_versions(folder=None):
    return subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "check_versions.py"],
        env=os.environ | ({"PYTHONPATH": str(folder)} if folder else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_known_to_be_bad_is_installed_here():
    process = check_versions()
    assert process.returncode == 0, process.stdout
    assert re.fullmatch(r"no known-bad version among lightning \S+, pytorch-lightning .*\n", process.stdout)


@pytest.mark.parametrize(
    ("name", "version", "reasons"),
    [
        ("lightning", "2.6.3", ["GHSA-w37p-236h-pfx3", "CVE-2026-58659"]),
        ("lightning", "2.5.9.post1", ["CVE-2026-58659"]),
        ("pytorch_lightning", "2.6.5", ["CVE-2026-58659"]),
        ("torch", "2.5.1+cpu", ["CVE-2025-32434"]),
        ("torch", "2.10.0", []),
        ("keras", "3.9.0", ["CVE-2025-9905"]),
    ],
)
def test_a_bad_version_is_one_line_each_and_is_never_imported(tmp_path, name, version, reasons):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    information = tmp_path / f"{name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    process = check_versions(tmp_path)
    assert process.returncode == bool(reasons)
    assert not process.stderr
    lines = process.stdout.splitlines()
    assert len(lines) == max(len(reasons), 1)
    for line, reason in zip(lines, reasons, strict=False):
        assert line.startswith(f"{name.replace('_', '-')} {version}: ")
        assert reason in line


def test_the_lock_has_one_hash_a_package_and_every_requirement():
    packages = [re.fullmatch(r"([A-Za-z0-9_.-]+)==\S+ --hash=sha256:[0-9a-f]{64}", line)[1].lower() for line in LOCK]
    assert len(set(packages)) == len(packages)
    required = re.findall(r"^([a-z]+)", (REPOSITORY / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert set(required) <= set(packages)
