"""Measured counterparts of the derived exponents: a width sweep of a small network.

    python -m fionalm.scaling.measured

prints, for every parameterization and optimizer, the derived exponents of updates, gradients and logits beside
those fitted over widths; docs/parameterizations.md shows what it printed.
"""
