"""`fiona serve`: a local model behind an OpenAI-compatible address."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import tyro

from fionalm.commands.listening import listen
from fionalm.commands.options import Positional
from fionalm.errors import UserError, require


def serve(
    model: Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    port: Annotated[int, tyro.conf.arg(metavar="N")] = 8000,
    host: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = "127.0.0.1",
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    api_key: Annotated[str | None, tyro.conf.arg(metavar="KEY")] = None,
    max_batch: Annotated[int, tyro.conf.arg(metavar="N")] = 64,
    context: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Serve a model to OpenAI clients on this machine, until Ctrl-C.

    It answers /v1/models, /v1/completions and /v1/chat/completions, with n, temperature, top_p, seed, stop, logprobs
    and streaming; top_k, min_p, stop_token_ids and return_token_ids as vLLM has them. Requests that come at the same
    time are computed together.

    For example: fiona serve smollm2 --port 8000

    Args:
        model: a model or run folder, a .gguf file, hf:NAME, or smollm2.
        port: 0 takes a free one and prints it.
        host: any other than this machine's own needs --api-key.
        name: the model's name for clients. None: the last part of MODEL.
        api_key: what clients must send.
        max_batch: completions computed at once.
        context: longest prompt and completion together. None: the model's.
        device: cpu or cuda. None: a GPU if there is one.
    """
    require("starlette", "serve")
    require("uvicorn", "serve")
    if api_key is None and not _is_loopback(host):
        raise UserError(f"--host {host} can be reached from elsewhere: expected --api-key beside it, or 127.0.0.1")
    place = listen(host, port)
    with place:
        from fionalm.sampling import EngineSampler
        from fionalm.sampling.make import load_for_sampling
        from fionalm.sampling.server import build_app, run_app

        loaded, tokenizer = load_for_sampling(model, device)
        sampler = EngineSampler(loaded, tokenizer, max_batch=max_batch, context=context)
        served = name or Path(model.removeprefix("hf:")).name.removesuffix(".gguf")
        app = build_app(sampler, served, api_key=api_key)
        address = f"http://{f'[{host}]' if ':' in host else host}:{place.getsockname()[1]}/v1"
        print(f"{served} is served at {address}; Ctrl-C stops", flush=True)
        run_app(app, place)
    print("stopped")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
