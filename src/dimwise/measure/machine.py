"""The machine that a number was measured on, and whether it was quiet. Needs no torch until a device is asked for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "numpy", "onnx", "onnxruntime", "safetensors")
CAPABILITIES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "i8mm",
)
"""Instruction sets that decide how fast matrices multiply, by their names in /proc/cpuinfo."""


def environment() -> dict[str, Any]:
    """What a reader must know to believe a number; no names of people, hosts or folders.

    Returns:
        Plain JSON: dimwise, commit (None outside a checkout), python, os, the version of each library (None when
        not installed), cpu, cores, capabilities, memory_bytes; and, once torch is loaded, threads and cuda.

    Example:
        >>> found = environment()
        >>> found["cores"] >= 1, found["python"].count(".")
        (True, 2)
    """
    import psutil

    import dimwise

    found: dict[str, Any] = {
        "dimwise": dimwise.__version__,
        "commit": _commit(Path(dimwise.__file__).parents[2]),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
    }
    for library in LIBRARIES:
        found[library] = _version(library)
    cpu, capabilities = _cpu()
    found |= {
        "cpu": cpu,
        "cores": cores(),
        "capabilities": capabilities,
        "memory_bytes": psutil.virtual_memory().total,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found["threads"] = torch.get_num_threads()
        found["cuda"] = [torch.cuda.get_device_name(i) for i in range(n_cuda)]
    return found


def machine_is_busy(*, interval_s: float = 0.2, limit_frac: float = 0.25) -> str | None:
    """A line of warning when other processes use more than ``limit_frac`` of one core, else None.

    Waits ``interval_s`` and looks at what the cores did meanwhile, without this process.
    """
    import psutil

    own = psutil.Process()
    own_before = sum(own.cpu_times()[:2])
    busy_frac = psutil.cpu_percent(interval=interval_s) / 100
    own_cores = (sum(own.cpu_times()[:2]) - own_before) / interval_s
    n_cores = psutil.cpu_count() or 1
    others = busy_frac * n_cores - own_cores
    if others <= limit_frac:
        return None
    return f"Other processes use {others:.1f} of {n_cores} cores: times come out longer and less steady."


def device() -> torch.device:
    """CUDA when there is one, else the CPU.

    Example:
        >>> device().type in ("cuda", "cpu")
        True
    """
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """Model name and the instruction sets that matter; the list is empty where the system does not say."""
    facts: dict[str, str] = {}
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip().lower(), value.strip())
    flags = set((facts.get("flags") or facts.get("features") or "").split())
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, [c for c in CAPABILITIES if c in flags]


def _commit(root: Path) -> str | None:
    """The commit of a checkout of this project, with "-dirty" when files differ; None for an installed package."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
