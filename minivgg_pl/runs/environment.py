"""Hardware, operating system, package versions and Git revision: what a result depends on besides its options."""

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[2]
# Prefixes of the CPU flags by which torch, oneDNN and the BLAS libraries choose kernels, on x86 and on Arm.
KERNEL_FLAGS = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "bf16", "i8mm", "sve")
# A hung driver or file system must not hang a run.
TIMEOUT_SECONDS = 5


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return hardware, system and revision of a run on `device`, for its summary; what is unknown is None."""
    return {
        "os": platform.platform(),
        "cpu": {
            "name": _cpu_name(),
            "flags": cpu_flags(),
            "torch_kernels": torch.backends.cpu.get_cpu_capability(),
            "logical_cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "gpu": _describe_gpu(device) if device.type == "cuda" else None,
        "git": git_state(),
    }


def global_seed() -> int | None:
    """Return the seed that `seed_everything` set, or None."""
    return int(seed) if (seed := os.environ.get("PL_GLOBAL_SEED")) else None


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    names = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "jsonargparse")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's name with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{_cpu_name()} GPU"
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_flags() -> list[str]:
    """Return the processor's flags that begin as KERNEL_FLAGS say; an empty list without /proc."""
    cpu = _cpu_info()
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return [flag for flag in flags if flag.startswith(KERNEL_FLAGS)]


def git_state(repository: Path = REPOSITORY) -> dict[str, Any] | None:
    """Return the checkout's `revision`, and `clean`: whether its tracked files are unchanged.

    Returns None if the package was not imported from its own checkout. An installed package may lie inside another
    repository of the user, and that revision says nothing about this code.
    """
    # Without locks: a commit may be under way.
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        is_ours = 'name = "minivgg-pl"' in (repository / "pyproject.toml").read_text()
        if not is_ours or not (repository / ".git").exists():
            return None
        status = _output(command, cwd=repository)
        revision = next(line for line in status if line.startswith("# branch.oid ")).split()[-1]
    except (OSError, ValueError, StopIteration, subprocess.SubprocessError):
        return None
    return {"revision": revision, "clean": all(line.startswith("#") for line in status)}


def weights_sha256(net: nn.Module) -> str:
    """Return a SHA-256 over the state dict: equal for equal weights, bit for bit, and for no others.

    It covers each tensor in the order of the state dict: the line `<name> <dtype> <shape>`, such as
    `block1.conv1.weight torch.float32 32,3,3,3`, then the bytes of its values in row-major order. Device and memory
    format do not matter.
    """
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name} {tensor.dtype} {shape}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _describe_gpu(device: torch.device) -> dict[str, Any]:
    driver = None
    with suppress(OSError, IndexError, subprocess.SubprocessError):
        driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])[0]
    return {
        "name": torch.cuda.get_device_name(device),
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _output(command: list[str], cwd: Path | None = None) -> list[str]:
    """Return the lines that a command prints within TIMEOUT_SECONDS."""
    options = {"stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL, "text": True}
    return subprocess.check_output(command, cwd=cwd, timeout=TIMEOUT_SECONDS, **options).splitlines()


def _cpu_name() -> str:
    if name := _cpu_info().get("model name"):
        return name
    # Of a Mac's, Python says `arm` alone.
    with suppress(OSError, IndexError, subprocess.SubprocessError):
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"])[0]
    return platform.processor() or platform.machine()


def _cpu_info() -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo, if there is one."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}
