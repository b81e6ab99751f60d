"""Names of keys, as `KeyboardEvent.key` gives them, and what the DevTools protocol wants to know of each."""

from __future__ import annotations

from typing import Any

from fionalm.errors import choice_error

# name: (code, virtual key code, text)
NAMED: dict[str, tuple[str, int, str]] = {
    "Enter": ("Enter", 13, "\r"),
    "Tab": ("Tab", 9, ""),
    "Backspace": ("Backspace", 8, ""),
    "Delete": ("Delete", 46, ""),
    "Escape": ("Escape", 27, ""),
    "Space": ("Space", 32, " "),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
    "PageUp": ("PageUp", 33, ""),
    "PageDown": ("PageDown", 34, ""),
}
MODIFIERS: dict[str, tuple[int, str, int]] = {
    "Alt": (1, "AltLeft", 18),
    "Control": (2, "ControlLeft", 17),
    "Meta": (4, "MetaLeft", 91),
    "Shift": (8, "ShiftLeft", 16),
}
SHORTCUTS = ("Control+a", "Control+c", "Control+v", "Control+x", "Control+z", "Shift+Tab")
KEYS = (*NAMED, *SHORTCUTS)
# Where a character sits on a US keyboard: characters without a place are inserted as text.
PUNCTUATION: dict[str, tuple[str, int]] = {}
for _plain, _shifted, _code, _number in (
    ("`", "~", "Backquote", 192),
    ("-", "_", "Minus", 189),
    ("=", "+", "Equal", 187),
    ("[", "{", "BracketLeft", 219),
    ("]", "}", "BracketRight", 221),
    ("\\", "|", "Backslash", 220),
    (";", ":", "Semicolon", 186),
    ("'", '"', "Quote", 222),
    (",", "<", "Comma", 188),
    (".", ">", "Period", 190),
    ("/", "?", "Slash", 191),
):
    PUNCTUATION[_plain] = PUNCTUATION[_shifted] = (_code, _number)
SHIFTED_DIGITS = dict(zip(")!@#$%^&*(", "0123456789", strict=True))
SHIFTED = set('~_+{}|:"<>?') | set(SHIFTED_DIGITS)


def split_key(key: str) -> tuple[list[str], str]:
    """Split `Control+Shift+a` into modifiers and the key.

    Raises:
        UserError: the key or a modifier has an unknown name.
    """
    if key == "+" or key.endswith("++"):
        modifiers, name = key[:-2].split("+") if len(key) > 1 else [], "+"
    else:
        *modifiers, name = key.split("+")
    for modifier in modifiers:
        if modifier not in MODIFIERS:
            raise choice_error("modifier", modifier, MODIFIERS)
    if len(name) != 1 and name not in NAMED:
        raise choice_error("key", name, NAMED)
    return modifiers, name


def key_info(name: str) -> dict[str, Any]:
    """Return code, number and text of a key or character; an empty dict for one that no key has."""
    if name in NAMED:
        code, number, text = NAMED[name]
        return {"key": " " if name == "Space" else name, "code": code, "windowsVirtualKeyCode": number, "text": text}
    if name == "\n":
        return key_info("Enter")
    if name == "\t":
        return key_info("Tab")
    if name == " ":
        return key_info("Space")
    if name in PUNCTUATION:
        code, number = PUNCTUATION[name]
    elif name.isascii() and name.isalpha():
        code, number = f"Key{name.upper()}", ord(name.upper())
    elif name in SHIFTED_DIGITS or (name.isascii() and name.isdigit()):
        digit = SHIFTED_DIGITS.get(name, name)
        code, number = f"Digit{digit}", ord(digit)
    else:
        return {}
    return {"key": name, "code": code, "windowsVirtualKeyCode": number, "text": name}


def key_events(key: str) -> list[dict[str, Any]]:
    """Return the parameters of `Input.dispatchKeyEvent` that press and release a key with its modifiers.

    Raises:
        UserError: the key or a modifier has an unknown name.
    """
    modifiers, name = split_key(key)
    events: list[dict[str, Any]] = []
    held = 0
    for modifier in modifiers:
        bit, code, number = MODIFIERS[modifier]
        held |= bit
        events.append(
            {"type": "rawKeyDown", "key": modifier, "code": code, "windowsVirtualKeyCode": number, "modifiers": held}
        )
    info = key_info(name)
    if not info:
        info = {"key": name, "text": name}
    # A held Control or Alt makes a command of the key, not a character.
    text = "" if held & 7 else info.pop("text")
    info.pop("text", None)
    if len(name) == 1 and (name.isupper() or name in SHIFTED):
        held |= 8
    down: dict[str, Any] = {"type": "keyDown" if text else "rawKeyDown", **info, "modifiers": held}
    if text:
        down |= {"text": text, "unmodifiedText": text}
    events += [down, {"type": "keyUp", **info, "modifiers": held}]
    for modifier in reversed(modifiers):
        bit, code, number = MODIFIERS[modifier]
        held &= ~bit
        events.append(
            {"type": "keyUp", "key": modifier, "code": code, "windowsVirtualKeyCode": number, "modifiers": held}
        )
    return events
