"""Stand-in trial functions: they run in worker processes, so they live in a module that can be imported."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fionalm.errors import UserError

not_a_function = 3


def parabola(config: dict[str, Any]) -> dict[str, Any]:
    loss = (math.log10(config["lr"]) + 2) ** 2 + 0.01 * config.get("seed", 0)
    return {"final_loss": loss, "pid": os.getpid()}


def logged(config: dict[str, Any]) -> dict[str, Any]:
    """Note every call in a file, so that tests can count them; take a while."""
    with open(config["log"], "a") as file:
        file.write(f"{config['x']} {os.getpid()}\n")
    time.sleep(config.get("sleep", 0.0))
    return {"square": config["x"] ** 2}


def diverged(config: dict[str, Any]) -> dict[str, Any]:
    return {"final_loss": math.nan, "losses": [[0, 8.0], [1, math.inf], [2, -math.inf]], "diverged": True}


def fails(config: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("the model has no layers")


def fails_without(config: dict[str, Any]) -> dict[str, Any]:
    if not Path(config["file"]).exists():
        raise RuntimeError("not yet")
    return {"read": Path(config["file"]).read_text()}


def user_error(config: dict[str, Any]) -> dict[str, Any]:
    raise UserError(f"width {config['width']} is not divisible by the heads")


def leaves(config: dict[str, Any]) -> dict[str, Any]:
    sys.exit(4)


def dies(config: dict[str, Any]) -> dict[str, Any]:
    print("last words", flush=True)
    if config["how"] == "exit":
        os._exit(3)
    if config["how"] == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def with_child(config: dict[str, Any]) -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    Path(config["pids"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(100)
    return {}


def not_json(config: dict[str, Any]) -> dict[str, Any]:
    return {"value": object()}


def no_dict(config: dict[str, Any]) -> Any:
    return 3


def threads(config: dict[str, Any]) -> dict[str, Any]:
    import torch

    torch.manual_seed(config["seed"])
    matrix = torch.randn(64, 64)
    return {
        "threads": torch.get_num_threads(),
        "environment": os.environ.get("OMP_NUM_THREADS"),
        "trace": float((matrix @ matrix).softmax(-1).trace()),
    }
