"""Hallucination detectors: does a causal language model's representation tell that an answer is made up?

    splits = split_by_group(rows)           # rows: prompt, completion, label (1 = hallucinated), group
    detector = train_detector(policy, splits["train"], DetectorConfig(), validation=splits["validation"])
    evaluate_detector(detector, splits["test"]).auc_pr

As Hron et al. 2024 (arXiv 2408.07852, section 4): a `head` on frozen representations or a `full` fine-tune, of the
generator itself or of any other model; for the sentence task the detector reads prompt and answer and tells at the end,
for the token task it tells at the prompt's last token, before the answer is there. A detector is a `RewardModel`
whose logit is that of "hallucinated", with a calibrator that validation has fitted.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fionalm.evaluation.calibration import Calibrator, fit_calibrator
from fionalm.evaluation.detection import Detection, evaluate_detection
from fionalm.posttraining.detector import DETECTOR_FILE, Detector, write_head
from fionalm.posttraining.detector_config import DetectorConfig
from fionalm.posttraining.detector_features import fit_head, head_features, weights_digest
from fionalm.posttraining.detector_rows import Row, check_no_leak, check_rows, group_of
from fionalm.posttraining.policy import Policy
from fionalm.posttraining.reward_model import HEAD_FILE, RewardModel, ScalarHead
from fionalm.posttraining.reward_training import RewardTrainer
from fionalm.posttraining.run import fingerprint, open_run
from fionalm.training.config_json import to_plain
from fionalm.training.distributed import World

FEATURES_FOLDER = "features"


def train_detector(
    policy: Policy,
    rows: Sequence[Row],
    config: DetectorConfig = DetectorConfig(),  # noqa: B008 (frozen)
    *,
    validation: Sequence[Row] = (),
    out: str | Path | None = None,
    quiet: bool = False,
    in_place: bool = False,
) -> Detector:
    """Train a detector of the answers in `rows` from any causal language model.

    Args:
        policy: the model whose representation is read: the generator's, or another. It is not changed, unless
            `in_place`.
        rows: `prompt`, `completion`, `label` (1 = hallucinated) and, so that leaks are found, `group`.
        config: how.
        validation: other rows of other groups: they choose the penalty, or when to stop, and fit the calibrator.
        out: run folder, which the same call resumes; None: nothing is written.
        quiet: no progress.
        in_place: let `full` train the policy's own weights, which saves the memory of a copy.

    Raises:
        UserError: rows of one class (named), missing columns, bad labels, a group on both sides, a folder of another
            run.
        KeyboardInterrupt: stopped; the same call resumes in `out`.
    """
    labels = check_rows(rows, "train")
    held = check_rows(validation, "validation", both=False) if validation else None
    check_no_leak(rows, validation, "validation")
    started = time.perf_counter()
    logits = None
    if config.variant == "full":
        detector = _full(policy, rows, validation, config, out, quiet, in_place)
    else:
        detector, logits = _head(policy, rows, labels, validation, held, config, out, quiet)
    before = None if out is None else _written(Path(out), config)
    if before is not None:  # the run had ended: its rows and settings are the same
        detector.calibrator, detector.facts = before
        return detector
    if held is not None:
        logits = detector.logits(*_texts(validation)) if logits is None else logits
        detector.calibrator = fit_calibrator(logits, held, config.calibration)
    detector.facts |= {"rows": len(rows), "validation_rows": len(validation), "base_rate": float(labels.mean())}
    detector.facts["seconds"] = time.perf_counter() - started
    if out is not None and config.variant == "head":
        detector.save(out)
    elif out is not None:  # the model is there already
        detector.write_facts(Path(out))
    return detector


def evaluate_detector(
    detector: Detector,
    rows: Sequence[Row],
    *,
    split: str = "test",
    group: str = "group",
    resamples: int = 2000,
    seed: int = 0,
) -> Detection:
    """Return how well a detector does on rows that it has not learnt from; intervals are over groups.

    Raises:
        UserError: missing columns or bad labels; one class alone is no error, but leaves the areas undefined.
    """
    labels = check_rows(rows, split, both=False)
    logits = detector.logits(*_texts(rows))
    return evaluate_detection(
        logits,
        labels,
        groups=[group_of(row, group) for row in rows],
        probabilities=detector.calibrator(logits),
        split=split,
        resamples=resamples,
        seed=seed,
    )


def _head(
    policy: Policy,
    rows: Sequence[Row],
    labels: Any,
    validation: Sequence[Row],
    held: Any,
    config: DetectorConfig,
    out: str | Path | None,
    quiet: bool,
) -> tuple[Detector, Any]:
    """Return the detector and, if it was not trained before, its logits of the validation rows."""
    module = ScalarHead(policy.model).to(policy.device)
    model = RewardModel(module, policy.tokenizer, reads=config.full.reads)
    settings = {
        "method": "detector",
        "model": policy.name,
        "weights": None if out is None else weights_digest(policy.model),
        "data": fingerprint([*rows, None, *validation]),
        **to_plain(config),
    }
    from safetensors.torch import load_file

    with open_run(out, settings, World(policy.device)) as run:
        if run.path is not None and run.result is not None:
            module.score.load_state_dict(load_file(run.path / HEAD_FILE))
            return Detector(model, config, Calibrator("none"), _base_name(policy), dict(run.result)), None
        kept = None if run.path is None else run.path / FEATURES_FOLDER
        examples = model.encode(*_texts([*rows, *validation]))
        found = head_features(
            model, examples, folder=kept, micro_batch_tokens=config.training.micro_batch_tokens, quiet=quiet
        )
        other = None if held is None else (found[len(rows) :], held)
        head = fit_head(found[: len(rows)], labels, config.penalties, validation=other)
        with torch.no_grad():
            module.score.weight.copy_(torch.from_numpy(head.weight)[None])
            module.score.bias.fill_(head.bias)
        facts = {"penalty": head.penalty, "losses": list(head.losses)}
        if held is not None:
            facts["validation_loss"] = min(head.losses)
        if run.path is not None:
            write_head(module, run.path)
        run.finish(facts)
        if kept is not None:
            shutil.rmtree(kept, ignore_errors=True)
    logits = None if other is None else other[0].numpy() @ head.weight + head.bias
    return Detector(model, config, Calibrator("none"), _base_name(policy), facts), logits


def _full(
    policy: Policy,
    rows: Sequence[Row],
    validation: Sequence[Row],
    config: DetectorConfig,
    out: str | Path | None,
    quiet: bool,
    in_place: bool,
) -> Detector:
    if not in_place:
        own = copy.deepcopy(policy.model).requires_grad_(True)
        policy = Policy(own, policy.tokenizer, device=policy.device, name=policy.name)
    parts = [_distinct(part, config.task) for part in (rows, validation)]
    trainer = RewardTrainer(policy, parts[0], config.full, validation=parts[1], out=out, quiet=quiet)
    result = trainer.run()
    facts = {name: value for name, value in asdict(result).items() if name != "rows"}
    return Detector(trainer.model, config, Calibrator("none"), None, facts, policy)


def _written(folder: Path, config: DetectorConfig) -> tuple[Calibrator, dict[str, Any]] | None:
    """Return the calibrator and facts of a detector that was written with this configuration, or None."""
    path = folder / DETECTOR_FILE
    if not path.exists():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    same = facts["config"] == json.loads(json.dumps(to_plain(config)))
    return (Calibrator.from_dict(facts["calibrator"]), facts["facts"]) if same else None


def _base_name(policy: Policy) -> str | None:
    """Return the name that the model is loaded by from any folder."""
    if policy.name is None:
        return None
    path = Path(policy.name).expanduser()
    return str(path.resolve()) if path.exists() else policy.name


def _distinct(rows: Sequence[Row], task: str) -> list[dict[str, Any]]:
    """Return what the detector reads, each once, with the mean of its labels and the number of its rows as weight.

    The cross-entropy of the mean label, times the number of rows, is the sum of the rows' cross-entropies: nothing is
    lost, and a prompt's samples are one row of the token task.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        completion = "" if task == "token" else row["completion"]
        one = {"prompt": row["prompt"], "completion": completion, "label": 0.0, "weight": 0.0}
        one = found.setdefault(json.dumps([row["prompt"], completion], sort_keys=True, default=str), one)
        one["label"] += float(row["label"])
        one["weight"] += 1.0
    return [{**one, "label": one["label"] / one["weight"]} for one in found.values()]


def _texts(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    return [row["prompt"] for row in rows], [row["completion"] for row in rows]
