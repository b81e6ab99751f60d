"""The training loop, its checkpoints, its distribution, its run folders, and what a run will cost."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
