"""The trained model out of the trainer, as a folder that `fionalm.models.load_model` reads."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fionalm.errors import UserError
from fionalm.models import Decoder
from fionalm.paths import write_error
from fionalm.training.distributed import World


def export_model(
    model: nn.Module, tokenizer: Any, folder: Path, world: World, weights: dict[str, Any] | None = None
) -> bool:
    """Write the model and its tokenizer to `folder`, whole or not at all; every process calls this.

    Args:
        model: has `save_pretrained`, as the own decoder and `transformers` models do; sharded ones are gathered.
        tokenizer: has `save` (of tokenizers) or `save_pretrained` (of transformers); None: none is written.
        folder: replaced if it is there.
        world: the processes.
        weights: what is written in place of the model's own, such as those with adapters merged into them.

    Returns:
        Whether the model can save itself; nothing is written otherwise.

    Raises:
        UserError: the folder cannot be written.
    """
    if not hasattr(model, "save_pretrained"):
        return False
    if weights is None and world.size > 1:
        weights = gather_weights(model)

    def write() -> None:
        unfinished = folder.with_name(f".unfinished-{folder.name}")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _save(model, weights, unfinished)
            if hasattr(tokenizer, "save_pretrained"):
                tokenizer.save_pretrained(str(unfinished))
            elif hasattr(tokenizer, "save"):
                tokenizer.save(str(unfinished / "tokenizer.json"))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(unfinished, folder)
        except (OSError, UserError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise (error if isinstance(error, UserError) else write_error(folder, error)) from error

    world.on_main(write)
    return True


def gather_weights(model: nn.Module) -> dict[str, Any]:
    """Return the whole weights on the main process's CPU, and an empty dict in the others."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def _save(model: Any, weights: dict[str, Any] | None, folder: Path) -> None:
    if not isinstance(model, Decoder):
        with _no_progress_of_transformers():
            model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    elif weights is None:
        model.save_pretrained(folder)
    else:
        with torch.device("meta"):
            whole = Decoder(model.config)
        whole.load_state_dict(weights, assign=True)
        whole.save_pretrained(folder)


@contextmanager
def _no_progress_of_transformers() -> Iterator[None]:
    logging = getattr(getattr(sys.modules.get("transformers"), "utils", None), "logging", None)
    if logging is None or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
