"""What goes in: text corpora, tokenizers and packed batches.

`load_corpus(DataConfig())` reads, tokenises and caches a corpus; `PackedLoader` serves it in batches that
depend on the seed and the step number alone.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
