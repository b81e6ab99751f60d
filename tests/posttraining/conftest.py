"""A tiny decoder, its tokenizer and rows of a copying task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_policies import make_policy, make_rows

from fionalm.posttraining import Policy


@pytest.fixture
def policy() -> Policy:
    return make_policy()


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return make_rows(24)


@pytest.fixture
def here() -> Path:
    return Path(__file__).parent
