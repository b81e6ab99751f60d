"""From an attacker's reply to an adversarial text, without what was said about it; or why there is none."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from fionalm.redteam.answers import refuses

Status = Literal["usable", "refused", "empty", "too long"]

_QUOTED = re.compile(r"[\"“]([^\"“”]{12,})[\"”]", re.DOTALL)
_LEAD = re.compile(
    r"^\s*(?:(?:sure|certainly|of course|okay|ok|absolutely)\b[^\n:.!]*[.!,:]?\s*)?"
    r"(?:(?:here(?:'s| is| are)|this is|(?:(?:the|a) )?(?:text|sentence|rule|hint|passage)|answer)\b[^\n:]{0,80}:\s*)?",
    re.IGNORECASE,
)
_MARKS = re.compile(r"\*\*|__|^\s*(?:[-*#>]+|\d+[.)])\s+", re.MULTILINE)
_END = re.compile(r"[.!?][\"”')]?(?=\s|$)")


class Candidate(NamedTuple):
    """A text, or why there is none."""

    status: Status
    text: str = ""


def candidate_of(reply: str, max_characters: int = 400) -> Candidate:
    """Return the adversarial text in an attacker's reply.

    A quoted passage is the text, if there is one; else all but an opening such as "Sure, here is the sentence:". Lines
    become one. What is longer than allowed is cut after its last whole sentence.

    Args:
        reply: of the attacker.
        max_characters: of the text.

    Returns:
        The text; or `refused` (a refusal, with no text in quotes), `empty` (no letter or digit), `too long` (no
        sentence ends within the limit).
    """
    quoted = _QUOTED.findall(reply)
    if not quoted and refuses(reply):
        return Candidate("refused")
    text = max(quoted, key=len) if quoted else _LEAD.sub("", reply, count=1)
    text = " ".join(_MARKS.sub("", text).split()).strip('"“” ')
    if not any(character.isalnum() for character in text):
        return Candidate("empty")
    if len(text) > max_characters:
        ends = [match.end() for match in _END.finditer(text) if match.end() <= max_characters]
        if not ends:
            return Candidate("too long")
        text = text[: ends[-1]]
    return Candidate("usable", text)


READS_LIKE = {
    "code": r"\bdef \w+\(|\bprint\(|\breturn\b.*[;{}()]|=>|->|\bsystem:|\boverride\b",
    "number bases": r"\bbase[- ]\w+\b|\b(?:binary|octal|hexadecimal)\b|\b(?:number|counting|numeral) system\b",
    "redefined symbols": r"\b(?:symbol|sign|operator|notation)\b|\bdefine[ds]?\b|\bredefin|\bstands for\b|\bmeans?\b",
    "authority": r"\b(?:professor|expert|scientist|teacher|official|according to|bureau|university|prove[dn])",
    "fiction": r"\b(?:story|world|land|kingdom|king|wizard|magic|once upon|planet|universe|game|film|novel|imagine)\b",
    "correction": r"\b(?:mistake|error|corrected|actually|contrary|wrong|misconception|not \d+)\b",
    "direct instruction": r"\b(?:ignore|answer with|reply with|respond with|write|say|output|must be answered)\b",
    "consensus": r"\b(?:everyone|everybody|well known|commonly|agree[sd]?|nobody doubts)\b",
    "appeal": r"\b(?:please|help|grandmother|job|beg|happy)\b",
    "invented rules": r"\b(?:rules?|law|exercise|always|counts? as|convention|add(?:s|ed)? (?:extra|another))\b",
}


def reads_like(text: str) -> str:
    """Return the hand-written family that a text's words suggest, by the first pattern that fits; `other` by none.

    A label for readers of a gallery: nothing is counted by it.
    """
    for family, pattern in READS_LIKE.items():
        if re.search(pattern, text, re.IGNORECASE):
            return family
    return "other"
