"""Real data for verifiers: GSM8K, MATH-500 and HumanEval, where they are."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("FIONA_TEST_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


@pytest.fixture(scope="session")
def real_rows() -> Callable[[str], list[dict[str, Any]]]:
    """Read the rows of a file in the folder `FIONA_TEST_DATA`."""

    def read(name: str) -> list[dict[str, Any]]:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"no {name}: set FIONA_TEST_DATA to a folder that holds it")
        data = path.read_bytes()
        return [json.loads(line) for line in (gzip.decompress(data) if name.endswith("gz") else data).splitlines()]

    return read
