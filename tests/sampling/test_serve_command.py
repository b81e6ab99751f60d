"""`fiona serve` as a process, asked by the official client."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import openai
import pytest

from fionalm.sampling import EngineSampler, SamplingParams

from ..commands.conftest import Fiona


def test_a_model_is_served_until_ctrl_c(model_folder: Path, served_model: object, served_tokenizer: object) -> None:
    command = [sys.executable, "-m", "fionalm.cli", "serve", str(model_folder), "--port", "0", "--api-key", "secret"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    killer = threading.Timer(120, process.kill)
    killer.start()
    try:
        line = process.stdout.readline()
        address = re.search(r"tiny is served at (http://127\.0\.0\.1:\d+/v1)", line)
        assert address is not None, line
        with openai.OpenAI(base_url=address[1], api_key="secret", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["tiny"]
            reply = client.completions.create(model="tiny", prompt="hello", seed=3, max_tokens=8)
            sampler = EngineSampler(served_model, served_tokenizer)  # pyright: ignore[reportArgumentType]
            expected = sampler.sample(["hello"], SamplingParams(max_tokens=8), seeds=[[3]])
            assert reply.choices[0].text == expected[0][0].text
            stream = client.completions.create(
                model="tiny", prompt="hello", temperature=0, max_tokens=2000, stream=True
            )
            next(iter(stream))
            process.send_signal(signal.SIGINT)
            said, complaints = process.communicate(timeout=60)
            stream.close()
    finally:
        killer.cancel()
        process.kill()
        process.wait()
    assert process.returncode == 0, complaints
    assert said.strip() == "stopped"
    assert "Traceback" not in complaints


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "--port 70000"),
        (["--host", "0.0.0.0"], "expected --api-key"),
        (["--host", "999.1.1.1", "--api-key", "k"], "cannot listen at 999.1.1.1"),
        (["--port", "0"], "there is no model at nowhere"),
    ],
    ids=str,
)
def test_a_mistake_gets_one_sentence(fiona: Fiona, words: list[str], said: str) -> None:
    done = fiona("serve", "nowhere", *words)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_taken_port_is_named(fiona: Fiona) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = fiona("serve", "nowhere", "--port", port)
    assert done.code == 2
    assert f"port {port} is in use" in done.err
