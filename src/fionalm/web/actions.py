"""What an agent can do to a page, and how it is done: by real input events, or by synthetic ones in fast mode.

Actions name an element by its ref in the last observation, or a point by coordinates in pixels of the page. One on an
element goes to a point of it where nothing covers it. `perform` returns what went wrong with an action (no such
element, covered, not a list), in a sentence: a fault of the page itself is raised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from fionalm.errors import UserError, choice_error
from fionalm.web.keys import KEYS, SHIFTED, key_events, key_info, split_key
from fionalm.web.page import Call, Operation, Page

Kind = Literal[
    "none",
    "click",
    "double_click",
    "move",
    "mouse_down",
    "mouse_up",
    "drag",
    "scroll",
    "type",
    "press",
    "select",
]
KINDS: tuple[str, ...] = get_args(Kind)
DRAG_STEPS = 4


@dataclass(frozen=True)
class Action:
    """One action: `Action("click", ref=5)`, `Action("type", ref=3, text="Ada")`, `Action("drag", x=9, y=80, to_x=50, to_y=80)`.

    Without a ref, the point is `x`, `y`; `press`, and `type` without either, go to the focused element.
    """  # noqa: E501

    kind: Kind = "none"
    ref: int | None = None
    x: float | None = None
    y: float | None = None
    text: str = ""
    """what `type` writes; what `select` chooses (a label or a value)"""
    key: str = ""
    """what `press` presses: Enter, ArrowLeft, a, Control+a"""
    to_ref: int | None = None
    to_x: float | None = None
    to_y: float | None = None
    """where `drag` ends; without a `to_ref`"""
    dx: float = 0
    dy: float = 0
    """pixels that `scroll` turns the wheel by"""
    clear: bool = False
    """whether `type` empties the field first"""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise choice_error("kind of action", self.kind, KINDS)

    @classmethod
    def of(cls, action: Action | Mapping[str, Any] | None) -> Action:
        """Return an action from itself, from its fields by name, or from a sample of the action space.

        Raises:
            UserError: a field has an unknown name.
        """
        if action is None:
            return cls()
        if isinstance(action, Action):
            return action
        if "by" in action:
            return cls._of_sample(action)
        known = {field.name for field in fields(cls)}
        for name in action:
            if name not in known:
                raise choice_error("field of an action", name, known)
        return cls(**action)

    @classmethod
    def _of_sample(cls, sample: Mapping[str, Any]) -> Action:
        by_ref = int(sample["by"]) == 0
        point: dict[str, Any] = (
            {"ref": int(sample["ref"]), "to_ref": int(sample["to_ref"])}
            if by_ref
            else {name: int(sample[name]) for name in ("x", "y", "to_x", "to_y")}
        )
        return cls(
            kind=KINDS[int(sample["kind"])],  # type: ignore[arg-type]
            text=str(sample["text"]),
            key=KEYS[int(sample["key"])],
            dx=int(sample["dx"]),
            dy=int(sample["dy"]),
            clear=bool(sample["clear"]),
            **point,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, for records and replays."""
        default = Action()
        return {name: value for name, value in asdict(self).items() if value != getattr(default, name)}


class Refused(Exception):
    """An action that cannot be done; the episode goes on."""


def perform(page: Page, action: Action, fast: bool = False) -> Operation[str]:
    """Do an action in a page; return what was wrong with it, or an empty string.

    Raises:
        PageError: the page failed.
    """
    if action.kind == "none":
        return ""
    try:
        check(action)
        if fast:
            return (yield from page.evaluate(f"__fiona.act({script_action(action)})"))
        yield from REAL[action.kind](page, action)
    except (Refused, UserError) as refused:
        return str(refused)
    return ""


def script_action(action: Action) -> str:
    """Return an action as fast mode's scripts take it: its fields, and the key strokes that it consists of."""
    names = [action.key] if action.kind == "press" else [*(["Delete"] if action.clear else []), *typed(action.text)]
    return json.dumps({**asdict(action), "strokes": [script_stroke(name) for name in names]})


def script_stroke(key: str) -> dict[str, Any]:
    """Return a key as fast mode's scripts take it."""
    modifiers, name = split_key(key)
    info = key_info(name)
    held = {f"{'ctrl' if one == 'Control' else one.lower()}Key": True for one in modifiers}
    if len(name) == 1 and (name.isupper() or name in SHIFTED):
        held["shiftKey"] = True
    if info:
        info = {"key": info["key"], "code": info["code"], "number": info["windowsVirtualKeyCode"], "text": info["text"]}
    return {"key": name, "info": info or None, "held": held}


def typed(text: str) -> list[str]:
    """Return the keys whose strokes write a text."""
    return [{"\n": "Enter", "\t": "Tab", " ": "Space"}.get(character, character) for character in text]


def check(action: Action) -> None:
    """Refuse an action that lacks what its kind needs, in either mode with the same words."""
    if action.kind == "press":
        key_events(action.key)
    elif action.kind == "select" and action.ref is None:
        raise Refused("select needs the ref of a list or of an option")
    elif action.kind != "type" and action.ref is None and (action.x is None or action.y is None):
        raise Refused(f"{action.kind} needs a ref, or x and y")
    if action.kind == "drag" and action.to_ref is None and (action.to_x is None or action.to_y is None):
        raise Refused("drag needs a to_ref, or to_x and to_y")


def locate(page: Page, ref: int | None, x: float | None, y: float | None) -> Operation[tuple[float, float]]:
    """Return the point that an action is about."""
    if ref is None:
        assert x is not None and y is not None
        return float(x), float(y)
    found = yield from page.evaluate(f"__fiona.locate({ref})")
    if "error" in found:
        raise Refused(found["error"])
    return found["x"], found["y"]


def mouse(page: Page, kind: str, x: float, y: float, **more: Any) -> Call:
    """Return one real mouse event."""
    return Call(page.session, "Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})


def click_at(page: Page, x: float, y: float, count: int = 1) -> Operation[None]:
    """Move there, press and release, `count` times."""
    events = [mouse(page, "mouseMoved", x, y)]
    for number in range(1, count + 1):
        for kind, buttons in (("mousePressed", 1), ("mouseReleased", 0)):
            events.append(mouse(page, kind, x, y, button="left", buttons=buttons, clickCount=number))
    yield events


def click(page: Page, action: Action) -> Operation[None]:
    """Click or double-click; a list's option, which the page does not draw, is chosen instead."""
    if action.ref is not None and (yield from page.evaluate(f"__fiona.isListed({action.ref})")):
        return (yield from select(page, action))
    x, y = yield from locate(page, action.ref, action.x, action.y)
    yield from click_at(page, x, y, 2 if action.kind == "double_click" else 1)


def move(page: Page, action: Action) -> Operation[None]:
    """Move the pointer."""
    x, y = yield from locate(page, action.ref, action.x, action.y)
    held = 1 if page.held else 0
    yield [mouse(page, "mouseMoved", x, y, button="left" if held else "none", buttons=held)]


def press_button(page: Page, action: Action) -> Operation[None]:
    """Press the mouse button, or release it."""
    x, y = yield from locate(page, action.ref, action.x, action.y)
    page.held = action.kind == "mouse_down"
    kind = "mousePressed" if page.held else "mouseReleased"
    held = 1 if page.held else 0
    yield [mouse(page, "mouseMoved", x, y, button="none" if page.held else "left", buttons=1 - held)]
    yield [mouse(page, kind, x, y, button="left", buttons=held, clickCount=1)]


def drag(page: Page, action: Action) -> Operation[None]:
    """Press at one point, move to the other in steps, release there."""
    x, y = yield from locate(page, action.ref, action.x, action.y)
    to_x, to_y = yield from locate(page, action.to_ref, action.to_x, action.to_y)
    yield [mouse(page, "mouseMoved", x, y), mouse(page, "mousePressed", x, y, button="left", buttons=1, clickCount=1)]
    for step in range(1, DRAG_STEPS + 1):
        share = step / DRAG_STEPS
        point = (x + (to_x - x) * share, y + (to_y - y) * share)
        # One at a time: moves that wait together reach the page as one.
        yield [mouse(page, "mouseMoved", *point, button="left", buttons=1)]
    yield [mouse(page, "mouseReleased", to_x, to_y, button="left", buttons=0, clickCount=1)]


def scroll(page: Page, action: Action) -> Operation[None]:
    """Turn the wheel."""
    x, y = yield from locate(page, action.ref, action.x, action.y)
    yield [mouse(page, "mouseWheel", x, y, deltaX=action.dx, deltaY=action.dy)]
    # The page scrolls with its next frame.
    yield from page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def keys(page: Page, *names: str) -> list[Call]:
    """Return the real key events of keys pressed one after the other."""
    return [Call(page.session, "Input.dispatchKeyEvent", event) for name in names for event in key_events(name)]


def write(page: Page, action: Action) -> Operation[None]:
    """Focus the field, if one is named, and type."""
    if action.ref is not None or action.x is not None:
        prepared = yield from page.evaluate(f"__fiona.writable({json.dumps(action.ref)}, {json.dumps(action.text)})")
        if prepared == "written":
            return
        if prepared != "focused":
            x, y = yield from locate(page, action.ref, action.x, action.y)
            yield from click_at(page, x, y)
        yield from page.evaluate(f"__fiona.caret({json.dumps(action.clear)})")
    if action.clear:
        yield keys(page, "Delete")
    calls: list[Call] = []
    for name in typed(action.text):
        if key_info(name):
            calls += keys(page, name)
        else:
            calls.append(Call(page.session, "Input.insertText", {"text": name}))
    if calls:
        yield calls


def press(page: Page, action: Action) -> Operation[None]:
    """Press a key with its modifiers."""
    yield keys(page, action.key)


def select(page: Page, action: Action) -> Operation[None]:
    """Choose an option of a list: as in a browser's tests everywhere, by the events that choosing it ends with."""
    error = yield from page.evaluate(f"__fiona.choose({action.ref}, {json.dumps(action.text)})")
    if error:
        raise Refused(error)


REAL = {
    "click": click,
    "double_click": click,
    "move": move,
    "mouse_down": press_button,
    "mouse_up": press_button,
    "drag": drag,
    "scroll": scroll,
    "type": write,
    "press": press,
    "select": select,
}
