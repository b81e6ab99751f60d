"""One module a paper: its claims, its presets, its figures; everything above does the work."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fionalm.errors import choice_error

if TYPE_CHECKING:
    from fionalm.studies.study import Study

STUDIES = {
    "adversarial-arithmetic": "fionalm.studies.adversarial_arithmetic",
    "best-of-n": "fionalm.studies.best_of_n",
    "knowledge-hallucination": "fionalm.studies.knowledge_hallucination",
    "rest-em": "fionalm.studies.rest_em",
    "scaling-exponents": "fionalm.studies.scaling_exponents",
    "soft-preferences": "fionalm.studies.soft_preferences",
    "training-instabilities": "fionalm.studies.training_instabilities",
}


def get_study(name: str) -> Study[Any]:
    """Return a study by its name on the command line.

    Raises:
        UserError: no such study.
    """
    if name not in STUDIES:
        raise choice_error("study", name, STUDIES)
    return importlib.import_module(STUDIES[name]).STUDY
