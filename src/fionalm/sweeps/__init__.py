"""Many runs: trials named by their configuration, a store that survives kills, processes or Ray to run them.

On top of it the sweeps over learning rates: transfer across widths, stability, per-layer constants.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
