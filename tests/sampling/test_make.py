"""`make_sampler`: what its words mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from fionalm.errors import MissingExtraError, UserError
from fionalm.models import Decoder
from fionalm.models.config import DecoderConfig
from fionalm.sampling import EndpointConfig, EndpointSampler, EngineSampler, SamplingParams, make_sampler

from .conftest import Served


def test_a_folder_is_computed_here(model_folder: Path, served: Served) -> None:
    sampler = make_sampler(model_folder, max_batch=3, context=64)
    assert isinstance(sampler, EngineSampler)
    assert (sampler.max_batch, sampler.context) == (3, 64)
    params = SamplingParams(n=2, max_tokens=8)
    found, expected = (one.sample(["hello"], params)[0] for one in (sampler, served.sampler))
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]


@pytest.mark.parametrize("ending", ["/v1", "/v1#tiny", "", "/"])
def test_a_url_is_an_endpoint(served: Served, ending: str) -> None:
    sampler = make_sampler(served.url.removesuffix("/v1") + ending, endpoint=EndpointConfig(concurrency=2))
    assert isinstance(sampler, EndpointSampler)
    assert (sampler.url, sampler.model, sampler.config.concurrency) == (served.url, "tiny", 2)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model at"):
        make_sampler(tmp_path / "nothing")
    Decoder(DecoderConfig(300, d_model=16, n_layers=1, n_heads=2)).save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="no tokenizer"):
        make_sampler(tmp_path / "bare")


def test_a_device_that_is_not_there(model_folder: Path) -> None:
    with pytest.raises(UserError, match="no device 'toaster'"):
        make_sampler(model_folder, device="toaster")


def test_vllm_is_an_extra() -> None:
    try:
        import vllm  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        with pytest.raises(MissingExtraError, match=r"fiona-lm\[vllm\]"):
            make_sampler("vllm:some/model")
