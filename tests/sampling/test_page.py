"""docs/sampling.md: its Python runs and its commands are understood."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from fionalm.cli import COMMANDS, _parse

from .conftest import Served

PAGE = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text(encoding="utf-8")
TARGETS = {name: command.target.split(":") for group in COMMANDS.values() for name, command in group.items()}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_its_python_runs(served: Served, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code in blocks("python"):
        code = code.replace('make_sampler("smollm2")', f"make_sampler({str(model_folder)!r})")
        code = code.replace("http://127.0.0.1:8000/v1", served.url).replace('"smollm2"', '"tiny"')
        found: dict[str, object] = {}
        exec(compile(code, "sampling.md", "exec"), found)
        if "client" in found:
            found["client"].close()  # pyright: ignore[reportAttributeAccessIssue]
    assert "Usage(requests=2" in capsys.readouterr().out


@pytest.mark.parametrize("line", "".join(blocks("sh")).splitlines())
def test_its_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, name, *words = shlex.split(line)
    module, function = TARGETS[name]
    command = getattr(importlib.import_module(f"fionalm.commands.{module}"), function)
    assert _parse(command, f"fiona {name}", words)


def test_every_field_it_names_exists() -> None:
    from fionalm.sampling import EndpointConfig

    for option in re.findall(r"--endpoint\.([a-z-]+)", PAGE):
        assert hasattr(EndpointConfig(), option.removeprefix("no-").replace("-", "_")), option
