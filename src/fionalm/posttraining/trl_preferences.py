"""TRL's DPOTrainer with soft labels (extra `trl`): the column `soft_label`, and all eight losses.

    from fionalm.posttraining.trl_preferences import SoftDPOTrainer

    trainer = SoftDPOTrainer(model, args=DPOConfig(...), train_dataset=pairs)   # in place of trl.DPOTrainer(...)

TRL's own label smoothing is one number for all pairs, and its default loss does not use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fionalm.errors import UserError, choice_error, require
from fionalm.objectives import PREFERENCE_KINDS, PreferenceKind, preference_loss

trl: Any = require("trl", "trl")

COLUMN = "soft_label"


class SoftDPOTrainer(trl.DPOTrainer):
    """`DPOTrainer` whose loss is `preference_loss`; data, reference, metrics and everything else are TRL's.

    `args.beta` is the loss's beta: 0.1 is TRL's default and the paper's choice for DPO and ROPO, 1 is the paper's for
    the IPO family.

    Args:
        *args: DPOTrainer's.
        kind: which loss.
        average_logps: means over a completion's tokens in place of sums; None: as TRL, for the IPO family (this
            project's own trainer sums unless told otherwise).
        ropo_gamma: weight of ROPO's DPO term.
        ropo_eta: weight of ROPO's bounded term.
        **kwargs: DPOTrainer's.

    Raises:
        UserError: an unknown kind, a label that is no probability (its row is named), or a setting of TRL's that only
            its own losses have.
    """

    def __init__(
        self,
        *args: Any,
        kind: PreferenceKind = "geometric_dpo",
        average_logps: bool | None = None,
        ropo_gamma: float = 0.1,
        ropo_eta: float = 2.0,
        **kwargs: Any,
    ) -> None:
        if kind not in PREFERENCE_KINDS:
            raise choice_error("preference loss", kind, PREFERENCE_KINDS)
        super().__init__(*args, **kwargs)
        self.kind: PreferenceKind = kind
        self.average_logps = kind.endswith("ipo") if average_logps is None else average_logps
        self.ropo_gamma, self.ropo_eta = ropo_gamma, ropo_eta
        own = {
            "loss_type": self.loss_types != ["sigmoid"],
            "f_divergence_type": self.f_divergence_type != "reverse_kl",
            "ld_alpha": self.ld_alpha is not None,
            "use_weighting": self.use_weighting,
        }
        for name, given in own.items():
            if given:
                raise UserError(
                    f"{name} was set in DPOConfig, but SoftDPOTrainer's loss is kind={kind!r}: expected its default"
                )
        for dataset in (self.train_dataset, self.eval_dataset):
            for one in dataset.values() if isinstance(dataset, Mapping) else (dataset,):
                _check(one)
        self.data_collator = _WithLabels(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if COLUMN not in self._signature_columns:
            self._signature_columns.append(COLUMN)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        inputs = dict(inputs)
        labels = inputs.pop(COLUMN, None)
        if not self.precompute_ref_logps:
            reference = self.ref_model if self.ref_model is not None else self.model
            inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = self.compute_ref_log_probs(reference, inputs)
        outputs: list[Any] = []

        def forward(**keywords: Any) -> Any:
            outputs.append(model(**keywords))
            return outputs[-1]

        # TRL's own method makes the forward pass and its metrics; only the loss is another.
        precomputed, self.precompute_ref_logps = self.precompute_ref_logps, True
        try:
            theirs = super()._compute_loss(forward, inputs, return_outputs)
        finally:
            self.precompute_ref_logps = precomputed
        loss = self._soft_loss(outputs[0].log_probs, inputs, labels).mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs[0].aux_loss
        return (loss, theirs[1]) if return_outputs else loss

    def _soft_loss(self, log_probs: Tensor, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        """Return the pairs' losses [pairs] of token log-probabilities [2 pairs, s - 1], chosen first."""
        mask = inputs["completion_mask"][:, 1:]
        chosen, rejected = log_probs[:, -mask.shape[1] :].sum(1).chunk(2)
        reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        if self.average_logps:
            lengths = mask.sum(1).clamp(min=1).chunk(2)
            chosen, rejected = chosen / lengths[0], rejected / lengths[1]
            reference = reference[0] / lengths[0], reference[1] / lengths[1]
        return preference_loss(
            chosen,
            rejected,
            *reference,
            soft_labels=labels,
            kind=self.kind,
            beta=self.beta,
            ropo_gamma=self.ropo_gamma,
            ropo_eta=self.ropo_eta,
        )


class _WithLabels:
    """A collator that also keeps the labels; a row without one is sure."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = self.inner(examples)
        if any(COLUMN in example for example in examples):
            batch[COLUMN] = torch.tensor([_label(example.get(COLUMN, 1.0), "a pair") for example in examples])
        return batch


def _check(dataset: Any) -> None:
    """Raise `UserError` for a label that is no probability; a stream's labels are checked as they come."""
    if (
        dataset is None
        or COLUMN not in (getattr(dataset, "column_names", None) or ())
        or not hasattr(dataset, "__len__")
    ):
        return
    for number, value in enumerate(dataset[COLUMN], 1):
        _label(value, f"row {number}")


def _label(value: Any, where: str) -> float:
    try:
        label = float(value)
    except (TypeError, ValueError):
        label = float("nan")
    if not 0 <= label <= 1:
        raise UserError(f"{where}: the {COLUMN} is {value!r}: expected a probability in [0, 1]")
    return label
