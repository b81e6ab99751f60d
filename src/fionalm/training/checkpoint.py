"""Checkpoints that are whole or absent, and that any number of processes can load.

A checkpoint is a folder `step-00000200` of torch.distributed.checkpoint files (parameters, optimizer state and random
generators as tensors by name, each process writing its part) and `state.json` (everything that is not a tensor; Python
writes and reads floats exactly). It is written under another name, forced onto the disk and then renamed, so a kill at
any moment leaves the last whole one in place. Importing this takes over a second: only runs with a folder do.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from fionalm.errors import UserError
from fionalm.paths import atomic_write_text, write_error
from fionalm.training.distributed import World
from fionalm.training.state import TrainState

STATE_FILE = "state.json"


def save(folder: Path, state: TrainState, world: World, keep: int = 2) -> Path:
    """Write a checkpoint of `state` in `folder`, and remove all but the newest `keep`; every process calls this.

    A checkpoint of the same step that is there already is the same, and is left.

    Raises:
        UserError: it cannot be written; the checkpoints before are kept.
    """
    final = folder / f"step-{state.step:08d}"
    unfinished = folder / f".unfinished-{final.name}"

    def begin() -> bool:
        if final.exists():
            return False
        with _writing(final, unfinished):
            _clean(folder)
            unfinished.mkdir(parents=True)
        return True

    def finish() -> None:
        with _writing(final, unfinished):
            _write_plain(unfinished / STATE_FILE, state, world)
            _sync(unfinished)
            unfinished.rename(final)
            _sync(folder)
            for old in sorted(folder.glob("step-*"))[:-keep]:
                _remove(old)

    if not world.on_main(begin):
        return final
    with _writing(final, unfinished), _single_process_is_meant():
        save_tensors(_tensors(state, world), storage_writer=FileSystemWriter(unfinished), no_dist=world.size == 1)
    world.on_main(finish)
    return final


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint, if there is one."""
    return max(folder.glob("step-*"), default=None)


def load(path: Path, state: TrainState, world: World) -> None:
    """Fill `state` with a checkpoint's values, in place; every process calls this.

    The number of processes, and whether they share the model by DDP or FSDP2, may differ from those that wrote it.

    Raises:
        UserError: the checkpoint is of another model, or cannot be read.
    """
    try:
        plain = json.loads((path / STATE_FILE).read_text())
        reader = FileSystemReader(path)
        stored: dict[str, Any] = reader.read_metadata().state_dict_metadata
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the checkpoint {path}: {error}; remove it to resume from the one before"
        ) from error
    _make_optimizer_state(state.optimizer)
    wanted = _tensors(state, world)
    _check_model(path, state, stored)
    present = {name: tensor for name, tensor in wanted.items() if name in stored}
    with _single_process_is_meant():
        load_tensors(present, storage_reader=reader, no_dist=world.size == 1)
    _restore_plain(plain, state, stored)
    _restore_generators(present, state, world)


def _tensors(state: TrainState, world: World) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {f"model/{name}": p.detach() for name, p in state.parameters.items()}
    tensors |= {f"buffer/{name}": buffer for name, buffer in state.buffers.items()}
    for name, key, value in _optimizer_items(state):
        if isinstance(value, Tensor):
            tensors[f"optimizer/{name}/{key}"] = value
    tensors[f"generator/{world.rank}/cpu"] = torch.get_rng_state()
    if world.device.type == "cuda":
        tensors[f"generator/{world.rank}/cuda"] = torch.cuda.get_rng_state(world.device)
    return tensors


def _optimizer_items(state: TrainState) -> Iterator[tuple[str, str, Any]]:
    for name, parameter in state.parameters.items():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            yield name, key, value


def _write_plain(path: Path, state: TrainState, world: World) -> None:
    optimizer: dict[str, dict[str, Any]] = {}
    for name, key, value in _optimizer_items(state):
        if not isinstance(value, Tensor):
            optimizer.setdefault(name, {})[key] = value
    groups = [
        {key: float(value) if isinstance(value, Tensor) else value for key, value in group.items() if _is_number(value)}
        for group in state.optimizer.param_groups
    ]
    plain = {
        "step": state.step,
        "seconds": state.seconds,
        "processes": world.size,
        "optimizer": optimizer,
        "groups": groups,
        "scheduler": state.scheduler.state_dict(),
        "extra": state.extra,
    }
    atomic_write_text(path, json.dumps(plain))


def _restore_plain(plain: dict[str, Any], state: TrainState, stored: dict[str, Any]) -> None:
    state.step, state.seconds, state.extra = plain["step"], plain["seconds"], plain.get("extra", {})
    for name, parameter in state.parameters.items():
        values = plain["optimizer"].get(name, {})
        prefix = f"optimizer/{name}/"
        if values or any(key.startswith(prefix) for key in stored):
            state.optimizer.state[parameter].update(values)
        else:  # it had no gradient yet
            state.optimizer.state.pop(parameter, None)
    state.scheduler.load_state_dict(plain["scheduler"])
    for group, values in zip(state.optimizer.param_groups, plain["groups"], strict=True):
        for key, value in values.items():
            if isinstance(group.get(key), Tensor):
                group[key].fill_(value)
            else:
                group[key] = value


def _restore_generators(loaded: dict[str, Tensor], state: TrainState, world: World) -> None:
    own = f"generator/{world.rank}"
    if f"{own}/cpu" in loaded:
        torch.set_rng_state(loaded[f"{own}/cpu"])
    else:  # there were fewer processes: a new one starts a stream of its own
        torch.manual_seed(state.step * 1_000_003 + world.rank)
    if f"{own}/cuda" in loaded:
        torch.cuda.set_rng_state(loaded[f"{own}/cuda"], world.device)


def _make_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer allocate its state, by a step with zero gradients whose effects are then overwritten.

    Only the optimizer knows its tensors' shapes and how FSDP2 shards them; torch's own loader does the same.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _check_model(path: Path, state: TrainState, stored: dict[str, Any]) -> None:
    for name, parameter in state.parameters.items():
        entry = stored.get(f"model/{name}")
        size = None if entry is None else tuple(entry.size)
        if size != tuple(parameter.shape):
            raise UserError(
                f"the checkpoint {path} is of another model: it has {name} with shape {size}, "
                f"expected {tuple(parameter.shape)}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


@contextmanager
def _writing(final: Path, unfinished: Path) -> Iterator[None]:
    """Turn a failed write into the user's sentence, and leave nothing half-written."""
    try:
        yield
    except (OSError, CheckpointException, UserError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError):
            raise write_error(final, error) from error
        causes = [failure[0] for failure in error.failures.values()]
        known = next((cause for cause in causes if isinstance(cause, OSError)), None)
        raise write_error(final, known or _os_error(causes[0])) from error


def _os_error(cause: BaseException) -> OSError:
    # torch's writer reports a short write, which is what a full disk gives, as a failed assertion of its own.
    if "inline_container" in str(cause):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(str(cause))


@contextmanager
def _single_process_is_meant() -> Iterator[None]:
    """Silence the guess that torch announces when there is no process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _clean(folder: Path) -> None:
    """Remove what a kill left unfinished."""
    for pattern in (".unfinished-*", ".old-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove a checkpoint; one that is half removed has another name, and is never loaded."""
    old = path.with_name(f".old-{path.name}")
    path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Force a folder's entries onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
