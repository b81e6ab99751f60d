"""The word MODEL of a command: the own decoder, a folder, a configuration, or a built-in example of `transformers`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fionalm.errors import UserError, nearest, require
from fionalm.models.config import DecoderConfig
from fionalm.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

BUILT_IN = ("decoder", "gpt2", "llama")
EXAMPLE_VOCABULARY = 512
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def builder(model: str) -> tuple[Callable[[int], nn.Module], int, int]:
    """Return what builds MODEL at a width, its vocabulary size, and the longest sequence that it reads.

    Raises:
        UserError: no such model, or a configuration that cannot be read.
    """
    from fionalm.models import Decoder
    from fionalm.scaling import scale_config

    config = DecoderConfig(EXAMPLE_VOCABULARY, d_model=64, n_layers=2, n_heads=4, max_seq_len=64)
    if model != "decoder":
        found = _example(model) if model in BUILT_IN else read_config(model, BUILT_IN)
        if found.get("model_type") == "fiona_decoder":
            config = _own(found)
        else:
            return _transformers_builder(model, found)
    return (lambda width: Decoder(scale_config(config, width))), config.vocab_size, config.max_seq_len


def with_model(config: TrainConfig, model: str) -> TrainConfig:
    """Return `config` with MODEL in place of its model; `decoder` leaves it as it is.

    Raises:
        UserError: no such model, or another one in `config` already.
    """
    if model == "decoder":
        return fitted(config)
    if config.model_path is not None:
        raise UserError(f"both the model {model} and --model-path {config.model_path} were given: expected one of them")
    if not model.startswith("hf:") and not Path(model).exists():
        raise _no_model(model, ("decoder",))
    return fitted(replace(config, model_path=model))


def fitted(config: TrainConfig) -> TrainConfig:
    """Return `config` with a corpus in the tokens of the model at its `model_path`.

    Raises:
        UserError: a configuration that cannot be read, or a GGUF file without `data.tokenizer`.
    """
    path, data = config.model_path, config.data
    if path is None or path.startswith("hf:") or data.tokenizer is not None:
        return config
    place = Path(path)
    if place.suffix == ".gguf":
        raise UserError(f"{path} needs --data.tokenizer: expected a folder that holds the model's tokenizer.json")
    values = read_config(path)
    for folder in (place, place / "model"):
        if (folder / "tokenizer.json").is_file():
            print(f"the corpus is cut into the tokens of {folder / 'tokenizer.json'}", file=sys.stderr)
            return replace(config, data=replace(data, tokenizer=str(folder)))
    vocabulary = values.get("vocab_size", data.vocab_size)
    if isinstance(vocabulary, int) and vocabulary < data.vocab_size:
        print(f"the corpus gets the model's vocabulary size, {vocabulary}", file=sys.stderr)
        return replace(config, data=replace(data, vocab_size=vocabulary))
    return config


def decoder_shape(model: str) -> DecoderConfig:
    """Return the shape of a decoder or a Llama-family model, as a configuration that can change its width.

    Raises:
        UserError: another architecture, or a configuration that cannot be read.
    """
    from fionalm.models.llama_format import config_from_hugging_face

    values = read_config(model)
    return _own(values) if values.get("model_type") == "fiona_decoder" else config_from_hugging_face(values)


def read_config(model: str, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values of a folder's config.json, of its `model` folder's, or of a configuration file.

    Raises:
        UserError: nothing there, or no model's configuration.
    """
    path = Path(model)
    places = (path,) if path.is_file() else (path / "model" / "config.json", path / "config.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise _no_model(model, names)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; expected a model's configuration as JSON") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise UserError(f"{file} holds no model_type: expected a model's configuration, such as transformers writes")
    return values


def _no_model(model: str, names: tuple[str, ...]) -> UserError:
    expected = ", ".join((*names, "a model folder, or a model's config.json"))
    return UserError(f"no model {model!r}: expected {expected}{nearest(model, names)}")


def _own(values: dict[str, Any]) -> DecoderConfig:
    return DecoderConfig.from_dict({key: value for key, value in values.items() if key not in ("model_type", "dtype")})


def _example(name: str) -> dict[str, Any]:
    if name == "gpt2":
        shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    else:
        shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
        shape["max_position_embeddings"] = 64
    return {"model_type": name, "vocab_size": EXAMPLE_VOCABULARY, **shape}


def _transformers_builder(model: str, values: dict[str, Any]) -> tuple[Callable[[int], nn.Module], int, int]:
    from fionalm.scaling import scale_config

    transformers = require("transformers", "hub")
    # A default id past a small vocabulary (GPT-2's end of text is 50256) means nothing in this check, and warns.
    family = values["model_type"]
    size = values.get("vocab_size", 0)
    try:
        known = transformers.AutoConfig.for_model(**values, **{name: None for name in _TOKEN_IDS if name not in values})
    except (ValueError, TypeError) as error:
        raise UserError(f"{model} is of the unknown architecture {family!r}: {_first_line(error)}") from error
    size = known.vocab_size
    for name in _TOKEN_IDS:
        if isinstance(getattr(known, name, None), int) and getattr(known, name) >= size:
            setattr(known, name, None)

    def build(width: int) -> nn.Module:
        config = scale_config(known, width)
        try:
            return transformers.AutoModelForCausalLM.from_config(config)
        except (ValueError, KeyError) as error:
            raise UserError(f"{model}, a {family}, is no causal language model: {_first_line(error)}") from error

    return build, size, getattr(known, "max_position_embeddings", None) or 64


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
