"""The README and the docs: their commands exist, their Python runs, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fionalm.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {name for group in COMMANDS.values() for name in group}
METHODS = {name.split()[0] for name in NAMES if " " in name}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readmes_python_runs() -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    found: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), found)
    assert found["optimizer"].param_groups  # pyright: ignore[reportAttributeAccessIssue]
    comment = re.search(r'learning_rate_exponents\("mup", "adam", "full"\)  # (\{.*\})', code)
    assert comment is not None
    assert found["learning_rate_exponents"]("mup", "adam", "full") == eval(comment[1])  # pyright: ignore


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_exist(page: Path) -> None:
    from fionalm.studies import STUDIES
    from fionalm.studies.study import SCALES

    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for line in "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        if words[:1] == ["fiona"]:
            assert words[1] in NAMES or (words[1] in METHODS and " ".join(words[1:3]) in NAMES), line
            if words[1] in ("reproduce", "plan"):
                assert words[2] in (*STUDIES, "all"), line
                assert "--scale" not in words or words[words.index("--scale") + 1] in SCALES, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
