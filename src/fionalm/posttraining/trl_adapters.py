"""TRL's trainers with this project's objectives (extra `trl`): change the trainer's name, and keep the rest."""

from fionalm.posttraining.trl_best_of_n import BestOfNGRPOTrainer as BestOfNGRPOTrainer
from fionalm.posttraining.trl_preferences import SoftDPOTrainer as SoftDPOTrainer

__all__ = ["BestOfNGRPOTrainer", "SoftDPOTrainer"]
