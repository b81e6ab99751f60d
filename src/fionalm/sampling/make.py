"""One word for any sampler: a model here, an endpoint's URL, or a model for vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fionalm.data.text_tokenizer import TextTokenizer
from fionalm.errors import UserError
from fionalm.sampling.endpoint_config import EndpointConfig
from fionalm.sampling.types import Sampler

VLLM = "vllm:"


def make_sampler(
    spec: str | Path,
    *,
    endpoint: EndpointConfig = EndpointConfig(),  # noqa: B008 (frozen)
    max_batch: int = 64,
    context: int | None = None,
    device: str | None = None,
) -> Sampler:
    """Return the sampler that `spec` names.

    Args:
        spec: `http(s)://HOST:PORT/v1#MODEL` for an endpoint (without #MODEL: its only one), `vllm:NAME` for vLLM in
            this process, or whatever `load_model` loads, for the engine.
        endpoint: how an endpoint is asked; others do not read it.
        max_batch: completions that the engine computes at once.
        context: longest sequence of the engine. None: the model's.
        device: of the engine. None: a GPU if there is one.

    Raises:
        UserError: nothing at `spec`, a model without tokenizer, an endpoint that lists several models, no vLLM.
    """
    word = str(spec)
    if is_endpoint(word):
        from fionalm.sampling.endpoint import EndpointSampler

        url, _, model = word.partition("#")
        return EndpointSampler(
            url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1", model or None, endpoint
        )
    if word.startswith(VLLM):
        from fionalm.sampling.vllm_sampler import VllmSampler

        return VllmSampler(word.removeprefix(VLLM))
    return _engine(word, max_batch, context, device)


def is_endpoint(spec: str | Path) -> bool:
    """Tell whether a sampler's word is a URL."""
    return str(spec).startswith(("http://", "https://"))


def load_for_sampling(spec: str | Path, device: str | None = None) -> tuple[Any, TextTokenizer]:
    """Return a model on its device, and its tokenizer.

    Raises:
        UserError: nothing at `spec`, no tokenizer, or no such device.
    """
    import torch

    from fionalm.models import load_model

    model, tokenizer = load_model(spec)
    if tokenizer is None:
        raise UserError(f"{spec} has no tokenizer: expected a tokenizer.json beside the model")
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(chosen), TextTokenizer(tokenizer)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"no device {chosen!r}: {str(error).splitlines()[0]}") from error


def _engine(spec: str, max_batch: int, context: int | None, device: str | None) -> Sampler:
    from fionalm.sampling import EngineSampler

    model, tokenizer = load_for_sampling(spec, device)
    return EngineSampler(model, tokenizer, max_batch=max_batch, context=context)
