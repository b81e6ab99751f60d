"""The methods as trainers for any causal language model: supervised, ReST-EM, best-of-N-aware, preferences."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
