from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fionalm.training.__main__ import main
from fionalm.training.config import TrainConfig


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0), capsys.readouterr().err


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "config.json"
    code, said = run(capsys, path, "--out", tmp_path / "run")
    assert (code, said.count("\n")) == (2, 1) and "cannot read the training config" in said
    path.write_text('{"optimiser": {}}')
    code, said = run(capsys, path, "--out", tmp_path / "run")
    assert (code, said.count("\n")) == (2, 1) and "did you mean 'optimizer'" in said
    path.write_text('{"data": {"source": "/no/such/place"}}')
    code, said = run(capsys, path, "--out", tmp_path / "run")
    assert (code, said.count("\n")) == (2, 1) and "/no/such/place" in said
    assert run(capsys, path)[0] == 2  # no --out


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.argv = ['x', '--help']\nfrom fionalm.training.__main__ import main\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    sys.exit('torch' in sys.modules or end.code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "run folder" in done.stdout


@pytest.mark.slow
def test_ctrl_c_says_how_to_resume(tiny: TrainConfig, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the number {i} follows the number {i - 1}\n" for i in range(400)))
    data = replace(tiny.data, source=str(text), vocab_size=300, validation_fraction=0.2)
    config = replace(tiny, data=data, model=replace(tiny.model, vocab_size=300), steps=100_000)
    (tmp_path / "config.json").write_text(config.to_json())
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fionalm.training", str(tmp_path / "config.json"), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy()) as process:
        while not (out / "metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    step = json.loads((out / "checkpoints" / os.listdir(out / "checkpoints")[0] / "state.json").read_text())["step"]
    assert f"stopped; training is at step {step} of 100000: the same command resumes it" in said
    assert "Traceback" not in said
