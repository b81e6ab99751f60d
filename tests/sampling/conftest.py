"""A tiny model behind a running server, and an endpoint that misbehaves as a script tells it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from openai import OpenAI
from transformers import PreTrainedTokenizerFast

from fionalm.data import END_OF_TEXT, train_tokenizer
from fionalm.models import Decoder
from fionalm.models.config import DecoderConfig
from fionalm.sampling import EngineSampler, build_app
from fionalm.sampling.serving_loop import ServingLoop

from ..commands.conftest import fiona  # noqa: F401 (a fixture)

CONTEXT = 2048
TEXT = "once upon a time there was a small model, and it said: hello (1) (2), naïve café ☃\n"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@dataclass
class Served:
    """A server in a thread of this process."""

    url: str
    sampler: EngineSampler
    loop: ServingLoop

    @cached_property
    def client(self) -> OpenAI:
        return OpenAI(base_url=self.url, api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def served_tokenizer() -> PreTrainedTokenizerFast:
    ends = {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    tokenizer = train_tokenizer([TEXT] * 3, 300)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, **ends)


@pytest.fixture(scope="session")
def served_model(served_tokenizer: PreTrainedTokenizerFast) -> Decoder:
    """A random decoder whose distributions are neither flat nor certain."""
    shape: dict[str, Any] = {"norm": "rmsnorm", "mlp": "silu_gated", "max_seq_len": CONTEXT}
    config = DecoderConfig(len(served_tokenizer), d_model=32, n_layers=2, n_heads=2, **shape)
    model = Decoder(config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


@pytest.fixture(scope="session")
def model_folder(
    served_model: Decoder, served_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    served_model.save_pretrained(folder)
    served_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def served(served_model: Decoder, served_tokenizer: PreTrainedTokenizerFast) -> Iterator[Served]:
    with serving(EngineSampler(served_model, served_tokenizer)) as one:
        yield one


class serving:
    """Serve `sampler` as the model `tiny` at a free port."""

    def __init__(self, sampler: EngineSampler, **options: Any) -> None:
        self.place = socket.create_server(("127.0.0.1", 0))
        self.app = build_app(sampler, "tiny", **options)
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_level="warning", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.place]})
        self.sampler = sampler

    def __enter__(self) -> Served:
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            self.thread.join(0.01)
        url = f"http://127.0.0.1:{self.place.getsockname()[1]}/v1"
        self.served = Served(url, self.sampler, self.app.state.loop)
        return self.served

    def __exit__(self, *_: object) -> None:
        self.served.client.close()
        self.server.should_exit = True
        self.thread.join()


Answer = Callable[[int, str, dict[str, Any]], tuple[int, dict[str, str], Any]]


@dataclass
class Scripted:
    """A real HTTP server whose answers a function decides: (call, path, body) -> (status, headers, body).

    A body of bytes is sent as it is and the connection is cut, short of the length announced.
    """

    url: str
    answer: Answer
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def scripted() -> Iterator[Callable[[Answer], Scripted]]:
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> Scripted:
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply({})

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: dict[str, Any]) -> None:
                with lock:
                    number = len(one.calls)
                    one.calls.append((self.path, body))
                    one.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, headers, said = one.answer(number, self.path, body)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                headers = {"Content-Type": "application/json", **headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) + (10 if isinstance(said, bytes) else 0)))
                self.close_connection = True
                with suppress(ConnectionError):  # a client that gave up
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        one = Scripted(f"http://127.0.0.1:{server.server_address[1]}/v1", answer)
        return one

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def text_reply(*texts: str, **more: Any) -> dict[str, Any]:
    """Return the body of a plain completion with these choices."""
    choices = [{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": 10, "completion_tokens": 5 * len(texts), "total_tokens": 10 + 5 * len(texts)}
    head = {"id": "1", "object": "text_completion", "created": 1, "model": "m"}
    return {**head, "choices": choices, "usage": usage, **more}
