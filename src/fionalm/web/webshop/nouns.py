"""Which words of a product's title are nouns, by rule: the reward compares the nouns of two titles.

The original asks a statistical tagger (spaCy's large English model). In titles it calls nearly every capitalised word
a proper noun, adjectives included, so here a word with a capital is a noun unless it is a function word; a word in
lower case is one unless it is on a list of common adjectives, or has an ending of adjectives, adverbs or participles
and is not on the list of nouns that end so (table, earring, ...).
"""

from __future__ import annotations

import re
from functools import lru_cache

_FUNCTION_WORDS = """
a about above after all also am an and any are as at be been before below between both but by can do does down each for
from get had has have he her him his how i if in inside into is it its just like made make me more most my no non nor
not of off on one only or our out outside over own per plus she so some such than that the their them then there these
they this those through to too under until up us use very via was we were what when where which while who will with
within without you your"""
_ADJECTIVES = """
anti bad best better big black blue bright brown cheap classic clean clear cold compact cool cozy curly cute dark deep
dual early easy extra false fast faux fine firm fit flat free fresh full fun gentle good great green grey gray half
happy hard heavy high hot huge ideal large late light long loose loud low lower main matte mini modern moist narrow new
nice normal old open oily original oval pale perfect pink plain plush popular premium pretty proof pure purple quick
quiet raw ready real red regular rich rough round rustic safe same second sharp sheer shiny short silent silky simple
single skinny slim slow small smart smooth soft solid square stiff straight strong super sweet tall thick thin tight
tiny top tough true ultra unique upper vegan vintage vivid warm wet white whole wide wild yellow young"""
_NOUNS = """
animal building cable capital cereal ceiling clothing crystal decal dental earring easel family flooring garlic
hospital jelly journal lighting lining logic magic manual material medal metal mineral morning music napkin opening
outing painting pedal petal picnic plastic pudding railing sandal serving shaving shelving shilling siding signal
spring string stuffing supply table topic vegetable wedding"""
FUNCTION_WORDS, ADJECTIVES, NOUNS = (frozenset(text.split()) for text in (_FUNCTION_WORDS, _ADJECTIVES, _NOUNS))
_ENDING = re.compile(r"(?:able|ible|ful|less|ous|ive|ic|ical|al|ary|ish|ed|ing|ly|est)$")
_WORD = re.compile(r"[^\W_]+(?:['’.][^\W_]+)*")


@lru_cache(maxsize=65536)
def title_nouns(title: str) -> tuple[str, ...]:
    """Return the nouns of a title in lower case, repeated ones too; hyphenated words count as their parts."""
    words = (word.removesuffix("'s").removesuffix("’s") for word in _WORD.findall(title))
    return tuple(word.lower() for word in words if is_noun(word))


def is_noun(word: str) -> bool:
    """Whether a word of a title counts as a noun."""
    small = word.lower()
    if len(word) < 2 or not any(letter.isalpha() for letter in word) or small in FUNCTION_WORDS:
        return False
    if word != small or small in NOUNS:
        return True
    return small not in ADJECTIVES and (len(word) < 6 or _ENDING.search(word) is None)
