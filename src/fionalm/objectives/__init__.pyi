from .likelihood import LogZ as LogZ
from .likelihood import cross_entropy_with_z_loss as cross_entropy_with_z_loss
from .likelihood import linear_cross_entropy as linear_cross_entropy
