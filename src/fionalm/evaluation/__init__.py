"""How good: pass@k, best-of-k, majority votes, win rates, with intervals over problems."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
