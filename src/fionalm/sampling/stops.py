"""Stop strings, found as tokens arrive, also where they cross the tokens' borders."""

from __future__ import annotations

from collections.abc import Sequence

from fionalm.data.text_tokenizer import TextTokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class StopFinder:
    """Reads one completion's tokens and tells when a stop string is complete.

    Only the newest tokens are decoded at each step, together with those before them that they may depend on (a
    character's bytes over several tokens, spaces that a decoder joins).
    """

    def __init__(self, tokenizer: TextTokenizer, stop: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.reach = max(map(len, stop), default=1) - 1
        self.tail = ""
        """The text's last `reach` characters, up to `read`."""
        self.context = self.read = 0
        """Tokens from `context` are decoded; those before `read` are in `tail`."""

    def found(self, ids: Sequence[int]) -> bool:
        """Tell whether a stop string is complete in the text of `ids`, all tokens so far."""
        known = self.tokenizer.decode(ids[self.context : self.read])
        fresh = self.tokenizer.decode(ids[self.context :])
        text = self.tail + fresh[len(known) :]
        found = any(stop in text for stop in self.stop) and cut_at_stop(self.tokenizer.decode(ids), self.stop)[1]
        if len(fresh) > len(known) and not fresh.endswith(UNFINISHED):
            self.tail = text[-self.reach :] if self.reach else ""
            self.context, self.read = self.read, len(ids)
        return found


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Return the text before the first stop string in it, and whether there was one."""
    starts = [start for start in map(text.find, stop) if start >= 0]
    return (text[: min(starts)], True) if starts else (text, False)
