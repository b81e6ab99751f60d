from .types import Verdict as Verdict
from .types import Verifier as Verifier
from .types import count_outcomes as count_outcomes
