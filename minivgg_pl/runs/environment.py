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
# The processor's flags that torch's kernels, oneDNN and the BLAS libraries choose by: x86 first, then Arm.
KERNEL_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
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


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    names = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "jsonargparse")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's name with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_flags() -> list[str]:
    """Return those of KERNEL_FLAGS that the processor has; an empty list without /proc."""
    flags = (_cpu_field("flags") or _cpu_field("Features") or "").split()
    return [flag for flag in KERNEL_FLAGS if flag in flags]


def git_state(repository: Path = REPOSITORY) -> dict[str, Any] | None:
    """Return the checkout's `revision`, and `clean`: whether its tracked files are unchanged.

    Returns None if the package was not imported from its own checkout. An installed package may lie inside another
    repository of the user, and that revision says nothing about this code.
    """
    # A Git hook that starts a run sets variables that point at another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env["GIT_OPTIONAL_LOCKS"] = "0"
    # Git must not start a daemon for this one question.
    command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        is_ours = 'name = "minivgg-pl"' in (repository / "pyproject.toml").read_text()
        if not is_ours or not (repository / ".git").exists():
            return None
        status = _output(command, cwd=repository, env=env)
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


def _output(command: list[str], **options: Any) -> list[str]:
    """Return the lines that a command prints; it gets no input and TIMEOUT_SECONDS."""
    options |= {"capture_output": True, "text": True, "check": True, "stdin": subprocess.DEVNULL}
    return subprocess.run(command, timeout=TIMEOUT_SECONDS, **options).stdout.splitlines()


def _cpu_name() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_field(name: str) -> str | None:
    """Return the field `name` of the first processor in /proc/cpuinfo, if there is one."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            field, _, value = line.partition(":")
            if field.strip() == name:
                return value.strip()
    return None
