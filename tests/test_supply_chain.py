"""The lock of CI names every file, and no range lets in a version that is known to be bad."""

import re
import tomllib

from tests.conftest import REPOSITORY

LOCK = (REPOSITORY / ".ci" / "constraints.txt").read_text().splitlines()[1:]
REQUIREMENTS = (REPOSITORY / "requirements.txt").read_text()


def test_the_lock_has_one_hash_a_package_and_every_requirement():
    packages = [re.fullmatch(r"([A-Za-z0-9_.-]+)==\S+ --hash=sha256:[0-9a-f]{64}", line)[1].lower() for line in LOCK]
    assert len(set(packages)) == len(packages)
    required = re.findall(r"^([a-z]+)", REQUIREMENTS, flags=re.MULTILINE)
    assert set(required) <= set(packages)


def test_the_ranges_leave_known_bad_versions_out():
    """Torch: CVE-2025-32434. Lightning: GHSA-w37p-236h-pfx3 and CVE-2026-58659. Keras: CVE-2025-9905."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "\n".join([REQUIREMENTS, *extras["test"]])
    lowest = dict(re.findall(r"^(torch|lightning|keras)>=([\d.]+)", text, flags=re.MULTILINE))
    versions = {name: tuple(map(int, version.split("."))) for name, version in lowest.items()}
    assert versions["torch"] >= (2, 6)
    assert versions["lightning"] >= (2, 6, 6)
    assert versions["keras"] >= (3, 11, 3)
