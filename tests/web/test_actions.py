"""Every kind of action on a real page, by real events and by synthetic ones, which agree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.errors import UserError
from fionalm.web import Action, Browser, Episode, EpisodeConfig
from fionalm.web.keys import key_events, split_key

MODES = pytest.mark.parametrize("fast", [False, True], ids=["real", "fast"])
# A page that writes down every event that pages commonly listen to.
LOG = """<script>
const log = [];
const note = (e) => log.push([e.type, (e.target.id || e.target.tagName || 'document'), e.key || '']);
for (const type of ['mousedown', 'mouseup', 'click', 'dblclick', 'keydown', 'keypress', 'keyup', 'input', 'change',
  'focusin', 'focusout', 'submit']) addEventListener(type, note, true);
</script>"""
MEASURE = "<script>const width = (range) => range.getBoundingClientRect().width;</script>"
BODY = (
    """<style>*{box-sizing:border-box} #over{position:absolute;left:0;top:100px;width:60px;height:40px;background:#eee}
#under,#half{position:absolute;left:0;top:100px;width:60px;height:40px} #half{left:40px}
#far{position:absolute;top:900px} #list{height:40px;width:100px;overflow:auto;position:absolute;top:150px}</style>
<input id=name value=ab><textarea id=area></textarea><input id=box type=checkbox><label id=label for=box>pick</label>
<select id=menu><option>one<option value=2>two</select><input id=day type=date>
<button id=under>u</button><button id=half>h</button><div id=over>o</div>
<div id=list><div id=inner style='height:400px'>tall</div></div><button id=far>far</button>
<button id=off disabled>off</button>
<form id=form onsubmit='event.preventDefault()'><input id=only></form><div id=rich contenteditable>hi</div>"""
    + LOG
)


class Driver:
    """A page of this body with its elements' refs by id."""

    def __init__(self, browser: Browser, task: Any, fast: bool) -> None:
        self.browser, self.episode = browser, Episode(browser, task, EpisodeConfig(fast=fast))
        self.see(browser.run(self.episode.reset(1), timeout=30))

    def see(self, outcome: Any) -> str:
        self.nodes = {node["id"]: node for node in outcome.observation["dom"] if node["id"]}
        return outcome.error

    def do(self, kind: str, target: str | None = None, **more: Any) -> str:
        ref = None if target is None else self.nodes[target]["ref"]
        return self.see(self.browser.run(self.episode.step(Action(kind, ref=ref, **more))))  # type: ignore[arg-type]

    def ask(self, expression: str) -> Any:
        assert self.episode.page is not None
        return self.browser.run(self.episode.page.evaluate(expression))

    def log(self) -> list[list[str]]:
        return self.ask("log.splice(0)")


@pytest.fixture
def drive(browser: Browser, page_task):
    made: list[Driver] = []

    def make(fast: bool, body: str = BODY) -> Driver:
        made.append(Driver(browser, page_task(body, name=f"page{len(made)}"), fast))
        return made[-1]

    yield make
    for driver in made:
        browser.run(driver.episode.close())


@MODES
def test_clicks_reach_what_can_be_seen(drive, fast: bool) -> None:
    page = drive(fast)
    assert page.do("click", "box") == "" and page.nodes["box"]["checked"] == 1
    assert page.do("click", "label") == "" and page.nodes["box"]["checked"] == 0
    page.log()
    # Half of it lies under another element: its centre would be missed.
    assert page.do("click", "half") == ""
    assert ["click", "half", ""] in page.log()
    assert "element" in (error := page.do("click", "under")) and 'covered by <div id="over">' in error
    assert page.log() == []
    assert page.do("click", "far") == "" and ["click", "far", ""] in page.log()
    assert page.do("double_click", "list") == ""
    assert [entry[0] for entry in page.log() if entry[0] in ("click", "dblclick")] == ["click", "click", "dblclick"]
    assert page.do("click", "off") == "" and ["click", "off", ""] not in page.log()
    assert page.see(page.browser.run(page.episode.step(Action("click", ref=99)))) == "there is no element with ref 99"
    page.ask("document.getElementById('far').remove()")
    assert "there is no element" in page.do("click", "far")
    assert page.do("click") == "click needs a ref, or x and y"


@MODES
def test_typing(drive, fast: bool) -> None:
    page = drive(fast)
    assert page.do("type", "name", text="c D") == "" and page.nodes["name"]["value"] == "abc D"
    assert page.nodes["name"]["focused"] == 1
    assert page.do("type", "name", text="né", clear=True) == "" and page.nodes["name"]["value"] == "né"
    assert page.do("type", "area", text="x\ny!") == "" and page.nodes["area"]["value"] == "x\ny!"
    assert page.do("type", text="z") == "" and page.nodes["area"]["value"] == "x\ny!z"
    assert page.do("type", "day", text="05/14/2016") == "" and page.nodes["day"]["value"] == "2016-05-14"
    assert page.do("type", "rich", text=" you") == ""
    assert page.ask("rich.textContent").replace("\xa0", " ") == "hi you"
    page.log()
    assert page.do("type", "only", text="q\n") == "" and ["submit", "form", ""] in page.log()


@MODES
def test_keys(drive, fast: bool) -> None:
    page = drive(fast)
    page.do("type", "name", text="")
    for key in ("Backspace", "ArrowLeft", "q", "End", "w"):
        assert page.do("press", key=key) == ""
    assert page.nodes["name"]["value"] == "qaw"
    for key in ("Control+a", "Control+c", "End", "Control+v"):
        assert page.do("press", key=key) == ""
    assert page.nodes["name"]["value"] == "qawqaw"
    assert page.do("press", key="Tab") == "" and page.nodes["area"]["focused"] == 1
    assert page.do("press", key="Shift+Tab") == "" and page.nodes["name"]["focused"] == 1
    assert "unknown key 'Entre'" in page.do("press", key="Entre")


@MODES
def test_lists(drive, fast: bool) -> None:
    page = drive(fast)
    assert page.do("select", "menu", text="two") == "" and page.nodes["menu"]["value"] == "2"
    assert ["change", "menu", ""] in page.log()
    options = [node for node in page.episode.last["dom"] if node["tag"] == "option"]
    assert [node["text"] for node in options] == ["one", "two"] and [node["checked"] for node in options] == [0, 1]
    page.see(page.browser.run(page.episode.step(Action("click", ref=options[0]["ref"]))))
    assert page.nodes["menu"]["value"] == "one"
    assert "has no option" in page.do("select", "menu", text="three")
    assert "not a list" in page.do("select", "name", text="three")


@MODES
def test_scrolling_and_dragging(drive, fast: bool) -> None:
    page = drive(fast)
    assert page.do("scroll", "list", dy=60) == "" and page.ask("list.scrollTop") == 60
    moved = drive(
        fast,
        """<div id=a style='position:absolute;left:10px;top:10px;width:20px;height:20px;background:red'></div>
        <script>let held = null;
        const at = (e) => [e.clientX, e.clientY];
        a.onmousedown = (e) => { held = [at(e)[0] - a.offsetLeft, at(e)[1] - a.offsetTop]; e.preventDefault(); };
        onmousemove = (e) => {
          if (!held) return;
          a.style.left = at(e)[0] - held[0] + 'px';
          a.style.top = at(e)[1] - held[1] + 'px';
        };
        onmouseup = () => { held = null; };</script>""",
    )
    assert moved.do("drag", "a", to_x=70, to_y=90) == ""
    assert moved.nodes["a"]["bbox"].tolist() == [60, 80, 20, 20]
    for kind, x in (("mouse_down", 70), ("move", 90), ("mouse_up", 100)):
        assert moved.do(kind, x=x, y=90) == ""
    assert moved.do("move", x=150, y=150) == "" and moved.nodes["a"]["bbox"].tolist() == [90, 80, 20, 20]
    assert moved.do("drag", "a") == "drag needs a to_ref, or to_x and to_y"


@MODES
def test_selecting_text(drive, fast: bool) -> None:
    page = drive(fast, "<p id=p style='font:16px monospace;margin:0'>alpha beta</p>" + MEASURE)
    left, top, _, height = page.nodes["p"]["bbox"].tolist()
    width = page.ask(
        "const r = document.createRange(); r.setStart(p.firstChild, 0); r.setEnd(p.firstChild, 5); width(r)"
    )
    assert page.do("drag", x=left + 1, y=top + height / 2, to_x=left + width, to_y=top + height / 2) == ""
    assert page.ask("String(getSelection())") == "alpha"


@MODES
def test_a_frame_is_part_of_its_page(drive, fast: bool, tmp_path) -> None:
    (tmp_path / "inner.html").write_text(
        "<!doctype html><body style='margin:0'><div style='height:300px'>t</div>"
        "<button id=b onclick='this.textContent = 1'>0"
    )
    page = drive(
        fast,
        "<p id=p>above</p><iframe id=f src=inner.html style='width:90px;height:60px;border:3px solid'></iframe>",
    )
    assert page.nodes["b"]["text"] == "0"
    assert page.do("click", "b") == "" and page.nodes["b"]["text"] == "1"


def test_fast_events_are_the_real_ones(drive) -> None:
    logs = []
    for fast in (False, True):
        page = drive(fast)
        page.do("click", "box")
        page.do("type", "name", text="a B!")
        page.do("click", "half")
        page.do("double_click", "list")
        page.do("press", key="Enter")
        page.do("type", "only", text="x\n")
        page.do("select", "menu", text="two")
        page.do("click", "off")
        logs.append(page.log())
    # The key that is held for a capital is no event of ours in either mode.
    assert logs[0] == logs[1]


def test_hidden_nodes_are_not_observed(drive) -> None:
    page = drive(
        False,
        """<p id=gone style='display:none'>x</p><p id=veiled style='visibility:hidden'>x</p>
        <div id=flat style='height:0'><b id=shown style='position:absolute'>y</b></div><i id=empty></i>
        <p id=mixed>one <b>two</b> three</p><script>/* no */</script>""",
    )
    assert set(page.nodes) == {"flat", "shown", "mixed"}
    texts = [(node["tag"], node["text"], node["ref"] < 0) for node in page.episode.last["dom"] if node["text"]]
    assert texts == [("b", "y", False), ("t", "one", True), ("b", "two", False), ("t", "three", True)]


def test_refs_stay_within_an_episode(drive) -> None:
    script = "<script>const add = () => document.body.insertAdjacentHTML('afterbegin', '<b id=n>1</b>');</script>"
    page = drive(False, "<button id=a onclick='add()'>x</button>" + script)
    before = page.nodes["a"]["ref"]
    page.do("click", "a")
    assert page.nodes["a"]["ref"] == before and page.nodes["n"]["ref"] > before


def test_fields_of_actions() -> None:
    assert Action.of({"kind": "click", "ref": 3}) == Action("click", ref=3)
    assert Action.of(None) == Action()
    assert Action("type", ref=0, text="x").to_json() == {"kind": "type", "ref": 0, "text": "x"}
    with pytest.raises(UserError, match="did you mean 'click'"):
        Action("clik")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown field of an action 'reff'"):
        Action.of({"kind": "click", "reff": 3})


@given(
    st.lists(st.sampled_from(["Control", "Shift", "Alt", "Meta"]), unique=True),
    st.characters(exclude_categories=["Cs"]),
)
def test_any_key_goes_down_and_up(modifiers: list[str], key: str) -> None:
    name = "+".join([*modifiers, key])
    assert split_key(name) == (modifiers, key)
    events = key_events(name)
    key = {"\n": "Enter", "\t": "Tab"}.get(key, key)
    downs = [event["key"] for event in events if event["type"] != "keyUp"]
    ups = [event["key"] for event in events if event["type"] == "keyUp"]
    assert downs == [*modifiers, key] and ups == [key, *reversed(modifiers)]
