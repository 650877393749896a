"""What a result depends on besides its options: package versions, processor, GPU, system, this code's own revision."""

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
# Those of the processor's flags that torch's kernels, oneDNN and the BLAS libraries choose by: x86, then Arm.
KERNEL_FLAGS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
# A hung driver or file system must not hang a run.
TIMEOUT_SECONDS = 5


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return what a run on `device` depends on, for its summary; what cannot be found out is None."""
    return {
        "os": platform.platform(),
        "cpu": {
            "name": _cpu_field("model name") or platform.processor() or platform.machine(),
            "flags": cpu_flags(),
            "torch_kernels": torch.backends.cpu.get_cpu_capability(),
            "logical_cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "gpu": _describe_gpu(device) if device.type == "cuda" else None,
        "git": git_state(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "jsonargparse")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    name = _cpu_field("model name") or platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_flags() -> list[str]:
    """Return the processor's flags of KERNEL_FLAGS; none are known where there is no /proc."""
    flags = set((_cpu_field("flags") or _cpu_field("Features") or "").split())
    return [flag for flag in KERNEL_FLAGS if flag in flags]


def git_state(repository: Path = REPOSITORY) -> dict[str, Any] | None:
    """Return the revision of this code's checkout and whether its tracked files were clean.

    None where the package does not lie in its own checkout: installed packages may lie inside a repository of the
    user's, whose revision says nothing of them.
    """
    try:
        is_ours = 'name = "minivgg-pl"' in (repository / "pyproject.toml").read_text()
        if not is_ours or not (repository / ".git").exists():
            return None
        # A git hook that starts a run has variables that point at another repository. Git shall lock nothing in this
        # one, and start no daemon for it.
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
        status = _output(command, cwd=repository, env=env | {"GIT_OPTIONAL_LOCKS": "0"})
        revision = next(line for line in status if line.startswith("# branch.oid ")).split()[-1]
    except (OSError, ValueError, StopIteration, subprocess.SubprocessError):
        return None
    return {"revision": revision, "clean": all(line.startswith("#") for line in status)}


def weights_sha256(net: nn.Module) -> str:
    """Return one SHA-256 over the state dict: equal weights, bit for bit, and no others have the same.

    Hashed are, tensor after tensor in the state dict's order, the line `<name> <dtype> <shape>`, such as
    `block1.conv1.weight torch.float32 32,3,3,3`, and the values' bytes in row-major order, whatever their order in
    memory and their device.
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
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
        stdin=subprocess.DEVNULL,
        **options,
    )
    return done.stdout.splitlines()


def _cpu_field(name: str) -> str | None:
    """Return the first processor's field `name` of /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)
