"""A trained hallucination detector: scores, calibrated probabilities, saving and loading.

Detector.load("runs/detect/detectors/head-sentence").probabilities(["Capital of France?"], ["Lyon"])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fionalm.data import Prompt
from fionalm.errors import UserError
from fionalm.evaluation.calibration import Calibrator
from fionalm.evaluation.detection import DIRECTION, POSITIVE
from fionalm.paths import atomic_write_text
from fionalm.posttraining.detector_config import DetectorConfig
from fionalm.posttraining.detector_features import head_features, weights_digest
from fionalm.posttraining.policy import Policy, load_policy
from fionalm.posttraining.reward_model import HEAD_FILE, Answer, RewardModel, ScalarHead
from fionalm.posttraining.run import MODEL_FOLDER
from fionalm.training.config_json import to_plain

DETECTOR_FILE = "detector.json"


@dataclass(eq=False)
class Detector:
    """Scores answers; larger means hallucinated.

    Attributes:
        model: whose score is the logit of "hallucinated".
        config: how it was trained.
        calibrator: from logits to probabilities.
        base: name of the model below a head, which is not saved with it; None: it is.
        facts: what training came to.
        policy: of the model that was trained, if it has adapters, which saving merges.
    """

    model: RewardModel
    config: DetectorConfig
    calibrator: Calibrator
    base: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    policy: Policy | None = None

    @property
    def name(self) -> str:
        """Variant and task, such as head-sentence."""
        return self.config.name

    def logits(self, prompts: Sequence[Prompt], completions: Sequence[Answer]) -> list[float]:
        """Return the logit of "hallucinated" of each answer, before calibration; the token task reads prompts alone.

        Raises:
            UserError: unequal numbers of both, or what the model's context does not hold.
        """
        if len(prompts) != len(completions):
            raise UserError(f"{len(prompts)} prompts for {len(completions)} completions: expected one each")
        examples = self.model.encode(prompts, completions)
        found = head_features(self.model, examples)
        with torch.no_grad():
            return self.model.module.score(found.to(self.model.device)).squeeze(-1).float().tolist()

    def probabilities(self, prompts: Sequence[Prompt], completions: Sequence[Answer]) -> list[float]:
        """Return the calibrated probability of each answer that it is hallucinated."""
        return self.calibrator(self.logits(prompts, completions)).tolist()

    def save(self, folder: str | Path) -> None:
        """Write the detector; a head whose base has a name is written without the base.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = Path(folder)
        if self.base is None:
            self.model.save(folder / MODEL_FOLDER, policy=self.policy)
        else:
            write_head(self.model.module, folder)
        self.write_facts(folder)

    def write_facts(self, folder: Path) -> None:
        """Write what the detector is, beside the weights that are there already."""
        base = None
        if self.base is not None:
            base = {"name": self.base, "weights": weights_digest(self.model.module.model)}
        facts = {
            "positive": POSITIVE,
            "direction": DIRECTION,
            "config": to_plain(self.config),
            "calibrator": self.calibrator.to_dict(),
            "base": base,
            "facts": self.facts,
        }
        atomic_write_text(folder / DETECTOR_FILE, json.dumps(facts, indent=2) + "\n")

    @classmethod
    def load(
        cls, folder: str | Path, *, policy: Policy | None = None, device: str | torch.device | None = None
    ) -> Detector:
        """Load what `save` or `train_detector(..., out=folder)` wrote.

        Args:
            folder: of the detector.
            policy: the model below a head, if it is there already; None: it is loaded by its name.
            device: where to; None: a GPU if there is one.

        Raises:
            UserError: no detector there, or a head whose base has other weights now.
        """
        from safetensors.torch import load_file

        from fionalm.training.config_json import from_plain

        folder = Path(folder).expanduser()
        path = folder / DETECTOR_FILE
        if not path.exists():
            raise UserError(
                f"there is no detector in {folder}: expected {DETECTOR_FILE}, as `fiona detect train` writes it"
            )
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            config = from_plain(DetectorConfig, facts["config"])
            calibrator = Calibrator.from_dict(facts["calibrator"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): expected what `fiona detect train` wrote") from error
        base = facts["base"]
        if base is None:
            model = RewardModel.load(folder / MODEL_FOLDER, device=device)
        else:
            policy = policy or load_policy(base["name"], device=device)
            if weights_digest(policy.model) != base["weights"]:
                raise UserError(
                    f"{policy.name or 'the model'} has other weights than the head in {folder} learnt from: expected "
                    f"{base['name']} as it was"
                )
            module = ScalarHead(policy.model)
            module.score.load_state_dict(load_file(folder / HEAD_FILE))
            model = RewardModel(module.to(policy.device), policy.tokenizer, reads=config.full.reads)
        return cls(model, config, calibrator, base and base["name"], facts["facts"])


def write_head(module: ScalarHead, folder: Path) -> None:
    """Write a head without the model below it."""
    from fionalm.models.weight_files import write_safetensors

    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / HEAD_FILE, {k: v.detach().cpu() for k, v in module.score.state_dict().items()})
