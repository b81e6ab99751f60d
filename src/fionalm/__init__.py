"""Fiona: the working life of a language model, one readable PyTorch codebase.

Import the room you need (`fionalm.scaling`, `fionalm.optim`, `fionalm.models`, ...); importing the package
itself loads nothing heavy.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fiona-lm")
except PackageNotFoundError:  # a source tree on the path that was never installed
    __version__ = "0+unknown"
