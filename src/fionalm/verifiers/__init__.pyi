from .judge import Judge as Judge
from .judge import Judgement as Judgement
from .judge import choice_logps as choice_logps
from .types import Verdict as Verdict
from .types import Verifier as Verifier
from .types import count_outcomes as count_outcomes
