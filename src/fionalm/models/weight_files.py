"""The files that weights live in: folders of safetensors and GGUF files, read a tensor at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from fionalm.errors import UserError, require
from fionalm.paths import write_error


class WeightFile(NamedTuple):
    """Names of the stored tensors and the function that reads one."""

    names: set[str]
    read: Callable[[str], Tensor]


class GgufFile(NamedTuple):
    """A GGUF file's metadata without its tokenizer, its tensors' shapes, and the function that reads one."""

    fields: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


def open_safetensors(folder: Path, stack: ExitStack) -> WeightFile:
    """Open `folder`'s safetensors until `stack` closes; shards need no index, since each names its tensors.

    Raises:
        UserError: no such file, or one that cannot be read.
    """
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise UserError(f"{folder} holds no weights: expected model.safetensors, or model-*.safetensors shards")
    files = {}
    for path in paths:
        try:
            opened = stack.enter_context(safetensors.safe_open(path, framework="pt"))
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"cannot read {path}: {error}; expected a whole safetensors file") from error
        files.update(dict.fromkeys(opened.keys(), opened))
    return WeightFile(set(files), lambda name: files[name].get_tensor(name))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` so that a kill at any moment leaves the old file or the new one.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(descriptor)
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        failure = error if isinstance(error, OSError) else OSError(str(error))
        raise write_error(path, failure) from error


def open_gguf(path: Path) -> GgufFile:
    """Open a GGUF file; its tensors are read dequantised to float32, in Hugging Face's order of rows.

    Raises:
        UserError: no GGUF file, or one that was cut short.
    """
    gguf = require("gguf", "hub")
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"cannot read {path}: {error}; expected a whole GGUF file") from error
    fields = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith(("tokenizer.", "GGUF."))
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    family = fields.get("general.architecture")
    heads = fields.get(f"{family}.attention.head_count", 1)
    key_heads = fields.get(f"{family}.attention.head_count_kv", heads)

    def read(name: str) -> Tensor:
        tensor = tensors[name]
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        if family == "llama" and ".attn_q." in name:
            return _paired_to_halves(weight, heads)
        if family == "llama" and ".attn_k." in name:
            return _paired_to_halves(weight, key_heads)
        return weight

    # GGUF lists the fastest axis first.
    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in tensors.items()}
    return GgufFile(fields, shapes, read)


def _paired_to_halves(weight: Tensor, heads: int) -> Tensor:
    """Order each head's rows (0, e/2, 1, e/2 + 1, ...), where llama.cpp turns neighbours, as (0, 1, ...)."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)
