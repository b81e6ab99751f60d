from .likelihood import LogZ as LogZ
from .likelihood import cross_entropy_with_z_loss as cross_entropy_with_z_loss
from .likelihood import linear_cross_entropy as linear_cross_entropy
from .preferences import PREFERENCE_KINDS as PREFERENCE_KINDS
from .preferences import PreferenceKind as PreferenceKind
from .preferences import log_ratio as log_ratio
from .preferences import preference_loss as preference_loss
