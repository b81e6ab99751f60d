import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.data import END_OF_TEXT, end_of_text_id, load_tokenizer, train_tokenizer
from fionalm.data.tokenizer import encode_documents, token_dtype, vocabulary_size
from fionalm.errors import UserError

DOCUMENTS = ["def function(argument):\n    return argument\n" * 20, "the quick brown fox\n" * 20]
TOKENIZER = train_tokenizer(DOCUMENTS, 300)


@given(documents=st.lists(st.text(), max_size=5))
def test_any_text_survives_encoding_and_special_tokens_are_never_forged(documents):
    documents = [*documents, f"a{END_OF_TEXT}b"]
    encoded = list(encode_documents(TOKENIZER, documents))
    for document, tokens in zip(documents, encoded, strict=True):
        assert tokens[-1] == 0
        assert (tokens[:-1] != 0).all()
        assert TOKENIZER.decode(tokens[:-1].tolist()) == document


def test_training_is_deterministic_and_starts_with_end_of_text():
    assert train_tokenizer(iter(DOCUMENTS), 300).to_str() == TOKENIZER.to_str()
    assert TOKENIZER.token_to_id(END_OF_TEXT) == end_of_text_id(TOKENIZER) == 0
    assert 257 < vocabulary_size(TOKENIZER) <= 300
    assert token_dtype(TOKENIZER) == np.uint16
    with pytest.raises(UserError, match="at least 257"):
        train_tokenizer(DOCUMENTS, 256)


def test_a_loaded_tokenizer_is_the_saved_one_and_encodes_without_its_limits(tmp_path):
    limited = type(TOKENIZER).from_str(TOKENIZER.to_str())
    limited.enable_truncation(4)
    limited.enable_padding(length=64)
    limited.save(str(tmp_path / "tokenizer.json"))
    expected = list(encode_documents(TOKENIZER, DOCUMENTS))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        found = list(encode_documents(load_tokenizer(path), DOCUMENTS))
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert limited.truncation is not None


def test_transformers_opens_a_trained_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    peer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert peer.encode(DOCUMENTS[0]) == TOKENIZER.encode(DOCUMENTS[0]).ids


def test_what_is_not_a_tokenizer_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="found nothing"):
        load_tokenizer(tmp_path / "gone.json")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"found config\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
        load_tokenizer(tmp_path / "config.json")


def test_a_tokenizer_without_end_of_text_is_a_user_error():
    from tokenizers import Tokenizer, models

    with pytest.raises(UserError, match="no end-of-text token"):
        end_of_text_id(Tokenizer(models.BPE()))
    assert end_of_text_id(Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))) == 1


def test_ids_past_65535_take_four_bytes():
    from tokenizers import Tokenizer, models

    def wide(largest):
        return Tokenizer(models.WordLevel({END_OF_TEXT: 0, "a": largest}, unk_token="a"))

    assert token_dtype(wide(65_535)) == np.uint16
    assert token_dtype(wide(65_536)) == np.uint32
