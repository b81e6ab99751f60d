"""The names of the preference losses; needs no torch."""

from __future__ import annotations

from typing import Literal, get_args

PreferenceKind = Literal["dpo", "cdpo", "geometric_dpo", "ipo", "cipo", "geometric_ipo", "ropo", "geometric_ropo"]
PREFERENCE_KINDS: tuple[PreferenceKind, ...] = get_args(PreferenceKind)
