"""Hron et al. 2024: what a model trained on a knowledge graph makes up, and whether that can be detected.

Trains decoders over sizes, epochs and shares of two graphs of which every fact is known, counts what they make up about
facts that training showed and facts that it did not, and makes models of every size detectors of each other's
hallucinations. At `laptop` also FB15k-237, where its files are there.

    fiona reproduce knowledge-hallucination --scale quick
"""

from __future__ import annotations

from fionalm.report.claims import Measured
from fionalm.studies.knowledge_hallucination.claims import CLAIMS
from fionalm.studies.knowledge_hallucination.cost import plan
from fionalm.studies.knowledge_hallucination.presets import KnowledgeHallucinationConfig, preset
from fionalm.studies.knowledge_hallucination.runs import detecting_trial, detectings, generator_trial, generators
from fionalm.studies.study import Lab, Study


def run(config: KnowledgeHallucinationConfig, lab: Lab) -> list[Measured]:
    """Train, ask and detect; measure the claims and draw the figures."""
    from fionalm.studies.knowledge_hallucination.analysis import measure_claims
    from fionalm.studies.knowledge_hallucination.figures import draw_figures
    from fionalm.studies.knowledge_hallucination.fits import add_fits
    from fionalm.studies.knowledge_hallucination.real import run_real
    from fionalm.studies.knowledge_hallucination.results import Results
    from fionalm.studies.knowledge_hallucination.tables import add_tables

    models = generators(config)
    made = dict(zip(models, lab.sweep([generator_trial(one) for one in models.values()], "models"), strict=True))
    asked = {key for key, result in made.items() if result is not None and result["measures"]}
    # A model that crashed or diverged has no objects, and is no detector.
    pairs = {
        key: one
        for key, one in detectings(config).items()
        if all((key[0], shape, config.epochs[-1], 1.0, key[3]) in asked for shape in key[1:3])
    }
    detected = lab.sweep([detecting_trial(one) for one in pairs.values()], "detectors")
    results = Results(config, made, dict(zip(pairs, detected, strict=True)))
    draw_figures(results, lab)
    add_fits(results, lab)
    add_tables(results, lab)
    lab.sections.append(run_real(config, lab))
    return list(measure_claims(results))


STUDY = Study(
    name="knowledge-hallucination",
    title="What models of a knowledge graph make up, and whether that can be detected",
    paper="Hron et al. 2024, Training Language Models on the Knowledge Graph: Insights on Hallucinations and Their "
    "Detectability, arXiv 2408.07852",
    claims=CLAIMS,
    preset=preset,
    plan=plan,
    run=run,
)
