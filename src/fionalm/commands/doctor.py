"""`fiona doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from fionalm.paths import home

CORE = ("torch", "numpy", "tokenizers", "safetensors", "rich", "tyro", "matplotlib", "jinja2")
EXTRAS = {
    "hub": ("transformers", "datasets", "peft", "gguf"),
    "evaluation": ("math-verify", "scipy", "scikit-learn"),
    "knowledge": ("countryinfo",),
    "serve": ("openai", "starlette", "uvicorn"),
    "trl": ("trl",),
    "search": ("optuna",),
    "ray": ("ray",),
    "vllm": ("vllm",),
    "web": ("playwright", "gymnasium", "miniwob", "bm25s", "pillow", "rapidfuzz"),
}
# Where the module is not named as the package.
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis; `mend` is the command that brings what is missing."""

    part: str
    found: str
    ok: bool = True
    mend: str = ""
    needed: bool = False


def doctor() -> None:
    """Say what is installed, what is missing and the command that mends it.

    Exits with 1 when something that the core needs is missing; a missing extra is only named.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    findings = list(diagnose())
    table = Table("", "part", "found", "mend", box=None, pad_edge=False)
    for finding in findings:
        absent = "[red]missing[/]" if finding.needed else "[yellow]absent[/]"
        mark = "[green]ok[/]" if finding.ok else absent
        table.add_row(mark, *map(escape, (finding.part, finding.found, finding.mend)))
    # A log has no width to keep to, and a command broken over lines cannot be copied from it.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    missing = [finding.part for finding in findings if finding.needed and not finding.ok]
    if missing:
        print(f"fiona: missing: {', '.join(missing)}", file=sys.stderr)
        sys.exit(1)


def diagnose() -> Iterator[Finding]:
    """Look at every part once."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in CORE:
        yield _package(name, f"pip install {name}", needed=True)
    yield from _devices()
    for extra, names in EXTRAS.items():
        for name in names:
            yield _package(name, f"pip install 'fiona-lm[{extra}]'", part=f"{name} (extra {extra})")
    yield _browser()
    yield _sandbox()
    yield _cache()


def _package(name: str, mend: str, *, part: str | None = None, needed: bool = False) -> Finding:
    if importlib.util.find_spec(MODULES.get(name, name.replace("-", "_"))) is None:
        return Finding(part or name, "-", ok=False, mend=mend, needed=needed)
    try:
        found = version(name)
    except PackageNotFoundError:
        found = "version unknown"
    return Finding(part or name, found)


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Finding("processor", f"{cores} cores, OMP_NUM_THREADS {threads}")
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    yield Finding("torch threads", str(torch.get_num_threads()))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Finding(f"gpu {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        yield Finding("gpu", "none seen by torch: everything runs on the processor")


def _browser() -> Finding:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        return Finding("browser", "-", ok=False, mend="apt-get install chromium")
    return Finding("browser", _first_line([path, "--version"]) or path)


def _sandbox() -> Finding:
    path = shutil.which("bwrap")
    if path is None:
        return Finding("sandbox", "-", ok=False, mend="apt-get install bubblewrap")
    trial = [path, "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "true"]
    if subprocess.run(trial, capture_output=True, check=False, timeout=20).returncode:
        return Finding(
            "sandbox",
            "bubblewrap is installed but may not make namespaces",
            ok=False,
            mend="sysctl kernel.unprivileged_userns_clone=1, or run where user namespaces are allowed",
        )
    return Finding("sandbox", _first_line([path, "--version"]) or path)


def _cache() -> Finding:
    folder = home()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        mend = "set FIONA_HOME to a folder of yours"
        return Finding("cache", f"{folder} cannot be written", ok=False, mend=mend, needed=True)
    free = shutil.disk_usage(existing).free / 2**30
    if free < 1:
        return Finding("cache", f"{folder}: {free:.1f} GiB free", ok=False, mend="free some disk space")
    return Finding("cache", f"{folder}, {free:.0f} GiB free on its disk")


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0]
