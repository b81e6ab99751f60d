import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test a cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FIONA_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    """A corpus of 60 small, distinct documents."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.txt").write_text(f"document {number}\n" + f"the word {number} again\n" * 20)
    return folder
