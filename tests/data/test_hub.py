import json

import pytest

from fionalm.data import DataConfig, load_corpus, read_documents
from fionalm.data.hub import parse_source
from fionalm.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    """A Hugging Face dataset in a local folder: two splits of JSON lines."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"text": f"{split} row {number}\n", "label": number} for number in range(50)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Keep the hub's client from waiting for a network."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_dataset_is_streamed_once_and_kept(dataset, monkeypatch):
    config = DataConfig(source=f"hf:{dataset}", split="test")
    documents = list(read_documents(config))
    assert documents == [f"test row {number}\n" for number in range(50)]
    monkeypatch.setattr("fionalm.data.text.stream_rows", None)
    assert list(read_documents(config)) == documents


def test_only_the_head_of_a_dataset_is_streamed(dataset, cache):
    config = DataConfig(source=f"hf:{dataset}", max_bytes=40)
    assert "".join(read_documents(config)) == "".join(f"train row {number}\n" for number in range(4))[:40]
    (kept,) = cache.glob("datasets/*/documents.jsonl")
    assert len(kept.read_text().splitlines()) == 4


def test_a_changed_local_dataset_is_streamed_again(dataset):
    config = DataConfig(source=f"hf:{dataset}")
    assert len(list(read_documents(config))) == 50
    (dataset / "train.jsonl").write_text('{"text": "new", "label": 0}\n')
    assert list(read_documents(config)) == ["new"]


def test_a_dataset_makes_a_corpus(dataset):
    corpus = load_corpus(DataConfig(source=f"hf:{dataset}", vocab_size=300, seq_len=8, validation_fraction=0.2))
    assert corpus.tokenizer.decode(corpus.train.tolist()).count("train row") > 30


def test_an_unknown_column_names_those_there(dataset, cache):
    with pytest.raises(UserError, match="it has 'text', 'label'; did you mean 'text'"):
        list(read_documents(DataConfig(source=f"hf:{dataset}", text_field="texts")))
    assert not list(cache.glob("datasets/*/"))


def test_an_unknown_split_and_an_unknown_dataset_are_one_sentence(dataset):
    with pytest.raises(UserError, match=r"'trian' .* Available splits") as raised:
        list(read_documents(DataConfig(source=f"hf:{dataset}", split="trian")))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"cannot stream .* 'hf:nobody/nothing'"):
        list(read_documents(DataConfig(source="hf:nobody/nothing")))


@pytest.mark.parametrize(
    ("source", "name", "subset"),
    [
        ("hf:wikitext", "wikitext", None),
        ("hf:allenai/c4", "allenai/c4", None),
        ("hf:allenai/c4:en", "allenai/c4", "en"),
        ("hf:allenai/c4/en", "allenai/c4", "en"),
        ("hf:/data/sets/mine", "/data/sets/mine", None),
    ],
)
def test_a_source_names_dataset_and_configuration(source, name, subset):
    assert parse_source(source) == (name, subset)
