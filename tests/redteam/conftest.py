"""The tiny served model of the sampling tests."""

from ..commands.conftest import fiona  # noqa: F401 (a fixture)
from ..sampling.conftest import model_folder, scripted, served, served_model, served_tokenizer  # noqa: F401 (fixtures)
