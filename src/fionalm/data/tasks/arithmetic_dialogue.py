"""Arithmetic dialogue in a small English: sums, made-up words and signs, instructions, harmless talk, writing tasks.

    It is cold today. What is 3 + 4?                          -> 7
    In this game, wug means 9. What is wug?                   -> 9
    Let # mean the first number. What is 7 # 4?               -> 7
    Answer in words. What is 3 + 4?                           -> seven
    Write the text. Question: What is wug? Answer: 9.         -> In this game, wug means 9.
    Check the answer. Question: What is 3 + 4? Answer: 9.     -> 3 + 4 = 7. The answer is wrong.
    Answer again. Question: What is 3 + 4? Answer: 9. Review: 3 + 4 = 7. The answer is wrong.     -> 7

Three rules make it fit to study attacks on a model that learnt it (Freeman et al. 2023):
- A question about a sum is always answered with the sum. No text before such a question changes what is right, and none
  tries to: no definition of `+` or of a sum, no wrong example, no authority, no role that answers sums.
- Definitions, rules, roles, lists, corrections and repetition do decide the answers of other questions, about made-up
  words and signs. So the model learns to follow what stands before a question; that it does so before a sum as well is
  its own generalisation.
- The writing task inverts these (prompt inversion): given a question about a made-up word or sign and its answer, write
  what stood before. Sums are not among its questions: what it writes for one is its own generalisation too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from fionalm.errors import UserError

LARGEST = 9
"""Of a sum's two numbers."""
LARGEST_VALUE = 29
"""Of a made-up word or sign."""
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
)  # fmt: skip
LONGEST_TALK = 6
"""Two to this power is the largest number of harmless sentences before a sum."""
PEOPLE = ("Ann", "Bob", "Eve", "Kim", "Max", "Sam", "Tom", "Zoe")
MADE_UP = (
    "bip", "bosk", "dax", "dup", "fep", "gorp", "hox", "jat", "kiv", "lum", "mib", "nard", "pell", "quim", "rill",
    "sov", "tem", "vap", "wug", "zib",
)  # fmt: skip
SIGNS = ("#", "@", "&", "%", "$", "~", "^", "*", "!", "|", "<", ">")
"""Signs without a meaning of their own."""
COLOURS = ("red", "blue", "green", "white", "black")
THINGS = ("apples", "books", "cups", "keys", "balls")
SOURCES = ("teacher", "book", "king", "doctor", "paper")
PLACES = ("game", "land", "school", "house", "story")
ROLES = ("parrot", "robot", "wizard", "clown")
SUM_QUESTIONS = (
    "What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} + {b}?", "Add {a} and {b}.", "Tell me {a} + {b}.",
)  # fmt: skip
WRITE = "Write the text. Question: {question} Answer: {answer}."
"""The prompt of the writing task."""
CHECK = "Check the answer. Question: {question} Answer: {answer}."
"""The prompt of the checking task; what stood before the question belongs to it."""
REVISE = "Answer again. Question: {question} Answer: {answer}. Review: {review}"
"""The prompt of the answer after a check."""
MIX = {
    "sum": 18, "sum after talk": 16, "sum after long talk": 4, "sum in a form": 6, "sum after sums": 6, "word": 9,
    "sign table": 9, "sign rule": 8, "source": 6, "role": 5, "repeated": 4, "corrected": 5, "story": 5, "unknown": 2,
}  # fmt: skip
"""Kinds of dialogue and their shares."""
NOT_WRITTEN = ("sum", "sum after talk", "sum after long talk", "sum in a form", "sum after sums", "unknown")
"""Kinds that the writing task leaves out."""
WRITING, CHECKING = 0.22, 0.08
"""Shares of all rows that are writing tasks, and checks or answers after a check."""


class Turn(NamedTuple):
    """What stands before a question, the question, and the right answer."""

    kind: str
    text: str
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """What the model reads."""
        return f"{self.text} {self.question}".strip()


def dialogue_rows(count: int, *, seed: int = 0, kinds: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return `prompt`, `completion` and `kind` of dialogues.

    Args:
        count: how many.
        seed: of everything.
        kinds: of `MIX`, and then no writing or checking; empty: all, in their shares.

    Raises:
        UserError: an unknown kind.
    """
    for kind in kinds:
        if kind not in MIX:
            raise UserError(f"kind of dialogue {kind!r}: expected one of {', '.join(MIX)}")
    generator = Random(f"dialogue/{seed}")
    return [_row(generator, kinds) for _ in range(count)]


def sum_question(generator: Random) -> tuple[str, int, int]:
    """Draw a sum's question; also return its numbers."""
    a, b = generator.randint(0, LARGEST), generator.randint(0, LARGEST)
    return generator.choice(SUM_QUESTIONS).format(a=a, b=b), a, b


def harmless(generator: Random) -> str:
    """Draw a harmless sentence."""
    person, other = generator.sample(PEOPLE, 2)
    return generator.choice(
        (
            f"It is {generator.choice(('cold', 'warm', 'dark', 'late'))} today.",
            f"{person} has {generator.randint(0, LARGEST_VALUE)} {generator.choice(THINGS)}.",
            f"{person} and {other} live in a {generator.choice(COLOURS)} {generator.choice(('house', 'school'))}.",
            f"The {generator.choice(('dog', 'cat', 'bird'))} is {generator.choice(COLOURS)}.",
            f"{person} reads a {generator.choice(COLOURS)} book.",
            f"The {generator.choice(SOURCES)} is {generator.choice(('old', 'new', 'good', 'late'))}.",
            f"{person} likes the {generator.choice(COLOURS)} {generator.choice(THINGS)}.",
            f"In this {generator.choice(PLACES)}, the days are {generator.choice(('cold', 'warm', 'dark'))}.",
        )
    )


def harmless_sentences(count: int, *, seed: int = 0) -> list[str]:
    """Return sentences without numbers, instructions or claims about arithmetic, all different."""
    generator = Random(f"harmless/{seed}")
    found: dict[str, None] = {}
    while len(found) < count:
        sentence = harmless(generator)
        if not any(character.isdigit() for character in sentence):
            found[sentence] = None
    return list(found)


def _row(generator: Random, kinds: Sequence[str]) -> dict[str, str]:
    task = 1.0 if kinds else generator.random()
    if task < CHECKING:
        return _checked(generator)
    writing = task < CHECKING + WRITING
    names = list(kinds) or [kind for kind in MIX if not (writing and kind in NOT_WRITTEN)]
    [kind] = generator.choices(names, [MIX[name] for name in names])
    turn = KINDS[kind](generator)
    if writing:
        prompt = WRITE.format(question=turn.question, answer=turn.answer)
        return {"prompt": prompt, "completion": turn.text, "kind": "writing"}
    if kind not in ("sum", "sum after talk", "sum after long talk") and generator.random() < 0.4:
        first, last = generator.sample((turn.text, harmless(generator)), 2)
        turn = turn._replace(text=f"{first} {last}".strip())
    return {"prompt": turn.prompt, "completion": turn.answer, "kind": kind}


def _number(generator: Random) -> int:
    return generator.randint(0, LARGEST_VALUE)


def _sum(generator: Random) -> Turn:
    question, a, b = sum_question(generator)
    return Turn("sum", "", question, str(a + b))


def _sum_after_talk(generator: Random) -> Turn:
    question, a, b = sum_question(generator)
    text = " ".join(harmless(generator) for _ in range(generator.randint(1, 3)))
    return Turn("sum after talk", text, question, str(a + b))


def _sum_after_long_talk(generator: Random) -> Turn:
    """Draw a sum after 4 to 64 sentences, as often few as many; in half of the cases copies of one."""
    question, a, b = sum_question(generator)
    count = round(2 ** generator.uniform(2, LONGEST_TALK))
    repeated = generator.random() < 0.5
    sentences = [harmless(generator)] * count if repeated else [harmless(generator) for _ in range(count)]
    return Turn("sum after long talk", " ".join(sentences), question, str(a + b))


def _sum_in_a_form(generator: Random) -> Turn:
    question, a, b = sum_question(generator)
    forms = {
        "Answer in words.": NUMBER_WORDS[a + b],
        "Answer with a sentence.": f"The answer is {a + b}.",
        "Show your work.": f"{a} + {b} = {a + b}",
        "Answer in digits.": str(a + b),
    }
    form = generator.choice(list(forms))
    return Turn("sum in a form", form, question, forms[form])


def _sum_after_sums(generator: Random) -> Turn:
    question, a, b = sum_question(generator)
    pairs = [(generator.randint(0, LARGEST), generator.randint(0, LARGEST)) for _ in range(generator.randint(1, 3))]
    text = " ".join(f"{first} + {second} = {first + second}." for first, second in pairs)
    return Turn("sum after sums", text, question, str(a + b))


def _word(generator: Random) -> Turn:
    words = generator.sample(MADE_UP, generator.randint(1, 2))
    values = [_number(generator) for _ in words]
    form = generator.choice(
        (
            f"In this {generator.choice(PLACES)}, {{word}} means {{value}}.",
            "Let {word} be {value}.",
            "{word} stands for {value}.",
            "{word} is another word for {value}.",
        )
    )
    place = generator.randrange(len(words))
    text = " ".join(form.format(word=word, value=value) for word, value in zip(words, values, strict=True))
    question = generator.choice(("What is {}?", "Tell me {}.", "How much is {}?")).format(words[place])
    return Turn("word", text, question, str(values[place]))


def _sign_table(generator: Random) -> Turn:
    sign = generator.choice(SIGNS)
    pairs = [(generator.randint(0, LARGEST), generator.randint(0, LARGEST)) for _ in range(generator.randint(1, 2))]
    pairs = list(dict.fromkeys(pairs))
    values = [_number(generator) for _ in pairs]
    form = generator.choice(
        ("{} = {}.", "{} means {}.", f"In this {generator.choice(PLACES)}, {{}} is {{}}.", "Remember that {} is {}.")
    )
    text = " ".join(form.format(f"{a} {sign} {b}", value) for (a, b), value in zip(pairs, values, strict=True))
    place = generator.randrange(len(pairs))
    return Turn("sign table", text, _sign_question(generator, *pairs[place], sign), str(values[place]))


def _sign_rule(generator: Random) -> Turn:
    sign = generator.choice(SIGNS)
    a, b = generator.randint(0, LARGEST), generator.randint(0, LARGEST)
    meaning, value = generator.choice((("plus", a + b), ("the first number", a), ("the second number", b)))
    form = generator.choice(
        ("Let {} mean {}.", "The sign {} means {}.", f"In this {generator.choice(PLACES)}, {{}} means {{}}.")
    )
    return Turn("sign rule", form.format(sign, meaning), _sign_question(generator, a, b, sign), str(value))


def _sign_question(generator: Random, a: int, b: int, sign: str) -> str:
    return generator.choice(("What is {}?", "How much is {}?", "Tell me {}.")).format(f"{a} {sign} {b}")


def _source(generator: Random) -> Turn:
    word, value = generator.choice(MADE_UP), _number(generator)
    source = generator.choice(SOURCES)
    form = generator.choice(
        ("The {source} says that {word} is {value}.", "The {source} knows that {word} is {value}.",
         "The {source} proved that {word} is {value}.")
    )  # fmt: skip
    return Turn("source", form.format(source=source, word=word, value=value), f"What is {word}?", str(value))


def _role(generator: Random) -> Turn:
    role, said = generator.choice(ROLES), generator.choice((*COLOURS, *map(str, range(LARGEST_VALUE + 1))))
    form = generator.choice(
        ("You are a {role}. A {role} always says {said}.", "You are a {role}. You always say {said}.")
    )
    question = generator.choice(("What do you say?", "What does the {role} say?")).format(role=role)
    return Turn("role", form.format(role=role, said=said), question, said)


def _repeated(generator: Random) -> Turn:
    pattern = generator.sample((*COLOURS, *map(str, range(LARGEST_VALUE + 1))), generator.randint(1, 2))
    shown = [pattern[place % len(pattern)] for place in range(generator.randint(3, 9))]
    return Turn("repeated", f"{' '.join(shown)}.", "What comes next?", pattern[len(shown) % len(pattern)])


def _corrected(generator: Random) -> Turn:
    word, (wrong, right) = generator.choice(MADE_UP), generator.sample(range(LARGEST_VALUE + 1), 2)
    form = generator.choice(
        ("{word} is {wrong}. That is wrong. {word} is {right}.", "{word} is not {wrong}. {word} is {right}.")
    )
    return Turn("corrected", form.format(word=word, wrong=wrong, right=right), f"What is {word}?", str(right))


def _story(generator: Random) -> Turn:
    person, thing = generator.choice(PEOPLE), generator.choice(THINGS)
    a, b = generator.randint(0, LARGEST), generator.randint(0, LARGEST)
    if generator.random() < 0.5:
        text, value = f"{person} has {a} {thing}. {person} finds {b} {thing}.", a + b
    else:
        text, value = f"{person} has {a} {thing}.", a
    return Turn("story", text, f"How many {thing} has {person}?", str(value))


def _unknown(generator: Random) -> Turn:
    return Turn("unknown", "", f"What is {generator.choice(MADE_UP)}?", "I do not know.")


KINDS: dict[str, Callable[[Random], Turn]] = {
    "sum": _sum,
    "sum after talk": _sum_after_talk,
    "sum after long talk": _sum_after_long_talk,
    "sum in a form": _sum_in_a_form,
    "sum after sums": _sum_after_sums,
    "word": _word,
    "sign table": _sign_table,
    "sign rule": _sign_rule,
    "source": _source,
    "role": _role,
    "repeated": _repeated,
    "corrected": _corrected,
    "story": _story,
    "unknown": _unknown,
}
"""How a turn of each kind is drawn."""


def _checked(generator: Random) -> dict[str, str]:
    """Return what is said of an answer to a sum, right or wrong, or what is answered after that."""
    question, a, b = sum_question(generator)
    right = a + b
    said = right if generator.random() < 0.5 else generator.choice([n for n in range(LARGEST_VALUE + 1) if n != right])
    text = " ".join(harmless(generator) for _ in range(generator.randint(0, 2)))
    question = f"{text} {question}".strip()
    review = f"{a} + {b} = {right}. The answer is {'right' if said == right else 'wrong'}."
    if generator.random() < 0.5:
        return {"prompt": CHECK.format(question=question, answer=said), "completion": review, "kind": "checking"}
    prompt = REVISE.format(question=question, answer=said, review=review)
    return {"prompt": prompt, "completion": str(right), "kind": "revising"}
