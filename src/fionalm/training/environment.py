"""What a run ran on: versions, commit, processor, threads, device. Written beside its numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fionalm

PACKAGES = ("torch", "numpy", "tokenizers", "safetensors", "transformers", "datasets", "ray", "vllm")


def environment(device: Any = None) -> dict[str, Any]:
    """Return versions, the package's git commit if it runs from a checkout, and the machine, as JSON values."""
    import torch

    found: dict[str, Any] = {
        "fionalm": fionalm.__version__,
        "commit": git_commit(Path(fionalm.__file__).parent),
        "python": sys.version.split()[0],
        "packages": {name: known for name in PACKAGES if (known := _version(name)) is not None},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": str(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpus"] = torch.cuda.device_count()
        found["cuda"] = torch.version.cuda
    return found


def git_commit(folder: Path) -> str | None:
    """Return the commit of the checkout that `folder`'s files are tracked in, with `+changes` where they differ.

    A package installed under somebody else's checkout is not tracked there, and has none.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit}+changes" if commit and changed else commit


def processor_name() -> str:
    """Return the processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
