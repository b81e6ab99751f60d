// Actions done inside the page: what real input needs prepared, and fast mode, which makes the events itself and does
// what a browser does after each unless the page prevented it.
(() => {
  "use strict";
  const api = globalThis.__fiona;
  const FOCUSABLE = "input,select,textarea,button,a[href],area[href],[tabindex],[contenteditable='true'],[contenteditable='']";
  const SET_AT_ONCE = new Set(["date", "time", "month", "week", "datetime-local", "range", "color"]);

  const active = () => {
    let element = document.activeElement;
    for (;;) {
      let inner = null;
      try {
        inner = element && (element.tagName === "IFRAME" || element.tagName === "FRAME") ? element.contentDocument : null;
      } catch { /* of another origin */ }
      inner = inner || (element && element.shadowRoot);
      if (!inner || !inner.activeElement) return element || document.body;
      element = inner.activeElement;
    }
  };

  const fire = (target, type, kind = "Event", more = {}) => {
    const view = target.ownerDocument.defaultView;
    const event = new view[kind](type, { bubbles: true, cancelable: true, composed: true, ...more });
    return target.dispatchEvent(event);
  };

  const setValue = (element, value) => {
    const kind = element.tagName === "TEXTAREA" ? "HTMLTextAreaElement" : "HTMLInputElement";
    const prototype = element.ownerDocument.defaultView[kind].prototype;
    Object.getOwnPropertyDescriptor(prototype, "value").set.call(element, value);
    fire(element, "input");
    fire(element, "change");
  };

  // 05/14/2016 to 2016-05-14, and 3:05 PM to 15:05: what such inputs take.
  const normalised = (type, text) => {
    const date = /^(\d{1,2})\/(\d{1,2})\/(\d{4})$/.exec(text);
    if (type === "date" && date) return `${date[3]}-${date[1].padStart(2, "0")}-${date[2].padStart(2, "0")}`;
    const time = /^(\d{1,2}):(\d{2})\s*([ap])\.?m\.?$/i.exec(text);
    if (type === "time" && time) {
      return `${String((Number(time[1]) % 12) + (time[3].toLowerCase() === "p" ? 12 : 0)).padStart(2, "0")}:${time[2]}`;
    }
    return text;
  };

  const elementOf = (ref) => {
    const node = api.node(ref);
    return node && node.nodeType === 3 ? node.parentElement : node;
  };

  // Whether a node is an option of a list that is closed, which is drawn by no page.
  api.isListed = (ref) => {
    const element = elementOf(ref);
    return Boolean(element && element.tagName === "OPTION" && !element.getClientRects().length);
  };

  // Prepares typing: "written" if the value is set at once, "focused" if no click is needed.
  api.writable = (ref, text) => {
    const element = ref === null ? null : elementOf(ref);
    if (!element) return "";
    if (element.tagName === "INPUT" && SET_AT_ONCE.has(element.type) && !element.disabled && !element.readOnly) {
      if (api.locate(ref).error) return "";
      element.focus();
      setValue(element, normalised(element.type, text));
      return "written";
    }
    return active() === element ? "focused" : "";
  };

  // Puts the caret behind the focused field's text, or selects the text.
  api.caret = (all) => {
    const element = active();
    if (typeof element.select === "function") {
      if (all) return element.select();
      try {
        element.setSelectionRange(element.value.length, element.value.length);
      } catch { /* numbers have no caret that scripts may set */ }
    } else if (element.isContentEditable) {
      const selection = element.ownerDocument.getSelection();
      selection.selectAllChildren(element);
      if (!all) selection.collapseToEnd();
    }
  };

  const TAKES_TEXT = (element) => element.isContentEditable || element.tagName === "TEXTAREA" || element.tagName === "INPUT";

  // Chooses an option by its own ref, or of the list with this ref by label or value. Returns what is wrong, or "".
  api.choose = (ref, text) => {
    const element = elementOf(ref);
    if (!element) return `there is no element with ref ${ref}`;
    const list = element.closest("select");
    if (!list) return `element ${ref} is <${element.tagName.toLowerCase()}>, not a list`;
    if (list.disabled) return `element ${ref} is disabled`;
    const shown = api.locate(ref);
    if (shown.error && element === list) return shown.error;
    const options = Array.from(list.options);
    const option = element.tagName === "OPTION" ? element
      : options.find((item) => item.label.trim() === text.trim()) || options.find((item) => item.value === text);
    if (!option) return `list ${ref} has no option ${JSON.stringify(text)}`;
    list.focus({ preventScroll: true });
    option.selected = true;
    fire(list, "input");
    fire(list, "change");
    return "";
  };

  // Fast mode -------------------------------------------------------------------------------------------------------

  const mouse = { x: 0, y: 0, over: null, down: null, start: null };

  const options = (target, more) => {
    let x = mouse.x, y = mouse.y;
    for (let view = target.ownerDocument.defaultView; view && view.frameElement; view = view.parent) {
      const box = view.frameElement.getBoundingClientRect();
      x -= box.left + view.frameElement.clientLeft;
      y -= box.top + view.frameElement.clientTop;
    }
    return { view: target.ownerDocument.defaultView, clientX: x, clientY: y, screenX: mouse.x, screenY: mouse.y, ...more };
  };

  const both = (target, name, more) => {
    const given = options(target, more);
    fire(target, `pointer${name}`, "PointerEvent", { ...given, detail: 0, pointerId: 1, isPrimary: true, pointerType: "mouse" });
    return fire(target, `mouse${name}`, "MouseEvent", given);
  };

  const ancestors = (node) => {
    const found = [];
    for (; node && node.nodeType === 1; node = node.parentElement) found.push(node);
    return found;
  };

  const disabled = (element) => Boolean(element.closest("button:disabled,input:disabled,select:disabled,textarea:disabled"));

  const moveTo = (x, y) => {
    mouse.x = x;
    mouse.y = y;
    const target = api.hit(x, y) || document.documentElement;
    const buttons = mouse.down ? 1 : 0;
    if (target !== mouse.over) {
      const before = mouse.over && mouse.over.isConnected ? ancestors(mouse.over) : [];
      const after = ancestors(target);
      if (before.length) {
        both(mouse.over, "out", { buttons, relatedTarget: target });
        for (const element of before) if (!after.includes(element)) both(element, "leave", { buttons, bubbles: false });
      }
      both(target, "over", { buttons, relatedTarget: before[0] || null });
      for (const element of after.reverse()) if (!before.includes(element)) both(element, "enter", { buttons, bubbles: false });
      mouse.over = target;
    }
    if (!disabled(target)) both(target, "move", { buttons });
    return target;
  };

  const caretAt = (x, y) => {
    const range = document.caretRangeFromPoint(x, y);
    return range && getComputedStyle(range.startContainer.nodeType === 1 ? range.startContainer : range.startContainer.parentElement)
      .userSelect !== "none" ? range : null;
  };

  const press = (detail) => {
    const target = mouse.over;
    mouse.down = target;
    mouse.start = [mouse.x, mouse.y];
    if (disabled(target)) {
      if (active() !== document.body) active().blur();
      return;
    }
    if (!both(target, "down", { button: 0, buttons: 1, detail })) {
      mouse.start = null;
      return;
    }
    const focus = target.closest(FOCUSABLE);
    if (focus) focus.focus({ preventScroll: true });
    else if (active() !== document.body) active().blur();
    if (TAKES_TEXT(target)) return;
    const caret = caretAt(mouse.x, mouse.y);
    if (caret) getSelection().collapse(caret.startContainer, caret.startOffset);
  };

  const release = (detail) => {
    const target = mouse.over, down = mouse.down;
    mouse.down = null;
    if (disabled(target)) return;
    both(target, "up", { button: 0, buttons: 0, detail });
    if (!down || !down.isConnected) return;
    const clicked = ancestors(down).find((element) => element.contains(target));
    if (clicked && !disabled(clicked)) fire(clicked, "click", "MouseEvent", options(clicked, { button: 0, detail }));
  };

  const clickAt = (x, y, count) => {
    moveTo(x, y);
    for (let detail = 1; detail <= count; detail++) {
      press(detail);
      release(detail);
    }
    if (count === 2 && mouse.over.isConnected) fire(mouse.over, "dblclick", "MouseEvent", options(mouse.over, { button: 0, detail: 2 }));
  };

  const resize = (box, dx, dy) => {
    if (box.tagName !== "TEXTAREA" || getComputedStyle(box).resize === "none") return;
    const edge = box.getBoundingClientRect();
    if (mouse.start[0] < edge.right - 17 || mouse.start[1] < edge.bottom - 17) return;
    box.style.width = `${edge.width + dx}px`;
    box.style.height = `${edge.height + dy}px`;
  };

  const drag = (x, y, toX, toY) => {
    moveTo(x, y);
    press(1);
    const from = mouse.down, caret = mouse.start && !TAKES_TEXT(from) ? caretAt(x, y) : null;
    for (let step = 1; step <= 4; step++) moveTo(x + ((toX - x) * step) / 4, y + ((toY - y) * step) / 4);
    const end = caret && caretAt(toX, toY);
    if (end) getSelection().setBaseAndExtent(caret.startContainer, caret.startOffset, end.startContainer, end.startOffset);
    if (mouse.start) resize(from, toX - x, toY - y);
    release(1);
  };

  const scroll = (x, y, dx, dy) => {
    const target = moveTo(x, y);
    if (!fire(target, "wheel", "WheelEvent", options(target, { deltaX: dx, deltaY: dy }))) return;
    for (const element of [...ancestors(target), document.scrollingElement]) {
      const style = getComputedStyle(element);
      const own = element === document.scrollingElement || /auto|scroll/.test(style.overflowY + style.overflowX);
      const before = [element.scrollLeft, element.scrollTop];
      if (own) element.scrollBy({ left: dx, top: dy, behavior: "instant" });
      if (before[0] !== element.scrollLeft || before[1] !== element.scrollTop) return;
    }
  };

  const insert = (text) => {
    const element = active();
    if (TAKES_TEXT(element) && !element.readOnly && !element.disabled) element.ownerDocument.execCommand("insertText", false, text);
  };

  // A change that Enter has told of is not told of again when the field is left.
  const told = new WeakMap();
  const before = new WeakMap();
  addEventListener("change", (event) => {
    if (event.isTrusted && told.get(event.target) === event.target.value) event.stopImmediatePropagation();
  }, true);
  addEventListener("focus", (event) => before.set(event.target, event.target.value), true);

  const submit = (element) => {
    if (before.has(element) && before.get(element) !== element.value && told.get(element) !== element.value) {
      told.set(element, element.value);
      fire(element, "change", "Event", { cancelable: false });
    }
    if (!element.form) return;
    const button = element.form.querySelector("button:not([type=button]):not([type=reset]),input[type=submit],input[type=image]");
    if (button) button.click();
    else if (element.form.querySelectorAll("input").length === 1) element.form.requestSubmit();
  };

  const tab = (back) => {
    const all = Array.from(document.querySelectorAll(FOCUSABLE)).filter((item) => item.tabIndex >= 0 && !item.disabled && item.getClientRects().length);
    const place = all.indexOf(active());
    const next = all[place < 0 ? (back ? all.length - 1 : 0) : place + (back ? -1 : 1)];
    if (!next) return active().blur();
    next.focus();
    if (next.tagName === "INPUT" && next.select) next.select();
  };

  const moveCaret = (element, key) => {
    if (typeof element.selectionStart !== "number") return;
    const { selectionStart: start, selectionEnd: end, value } = element;
    const place = { Home: 0, End: value.length, ArrowLeft: start === end ? Math.max(0, start - 1) : start,
      ArrowRight: start === end ? Math.min(value.length, end + 1) : end }[key];
    if (place !== undefined) element.setSelectionRange(place, place);
  };

  const step = (element, by) => {
    if (element.tagName === "SELECT") {
      const place = Math.min(Math.max(element.selectedIndex + by, 0), element.options.length - 1);
      if (place === element.selectedIndex) return;
      element.selectedIndex = place;
      fire(element, "input");
      fire(element, "change");
    } else if (element.tagName === "INPUT" && (element.type === "number" || element.type === "range")) {
      const before = element.value;
      if (by * (element.type === "number" ? -1 : 1) > 0) element.stepUp();
      else element.stepDown();
      if (element.value !== before) fire(element, "input");
    }
  };

  // What the browser itself does when a key goes down.
  const keyDefault = (element, key, held) => {
    const field = TAKES_TEXT(element) && !element.readOnly && !element.disabled;
    if (held.ctrlKey || held.metaKey) {
      const letter = key.toLowerCase();
      if (letter === "a") element.select ? element.select() : document.execCommand("selectAll");
      else if (letter === "c") api.clipboard = api.selected();
      else if (letter === "x") { api.clipboard = api.selected(); document.execCommand("delete"); }
      else if (letter === "v" && api.clipboard !== null) insert(api.clipboard);
      else if (letter === "z") document.execCommand("undo");
    } else if (key === "Tab") tab(held.shiftKey);
    else if (key === "Backspace" && field) document.execCommand("delete");
    else if (key === "Delete" && field) document.execCommand("forwardDelete");
    else if (key === "ArrowDown") step(element, 1);
    else if (key === "ArrowUp") step(element, -1);
    else moveCaret(element, key);
  };

  const stroke = (key, info, held) => {
    const target = active();
    const given = { key: info.key, code: info.code, keyCode: info.number, which: info.number, view: window, ...held };
    if (fire(target, "keydown", "KeyboardEvent", given)) {
      const character = held.ctrlKey || held.metaKey || held.altKey ? "" : info.text;
      if (!character) keyDefault(target, key, held);
      else {
        const number = character.charCodeAt(0);
        if (fire(active(), "keypress", "KeyboardEvent", { ...given, keyCode: number, charCode: number, which: number })) {
          const element = active();
          const kind = element.tagName === "INPUT" ? element.type : element.tagName;
          if (key === "Enter" && (kind === "BUTTON" || kind === "A" || kind === "submit" || kind === "button")) element.click();
          else if (key === "Enter" && element.tagName === "INPUT") submit(element);
          else if (key === "Enter") element.isContentEditable ? document.execCommand("insertParagraph") : insert("\n");
          else if (key === "Space" && (kind === "BUTTON" || /^(checkbox|radio|submit|button)$/.test(kind))) element.click();
          else insert(character);
        }
      }
    }
    fire(active(), "keyup", "KeyboardEvent", given);
  };

  const type = (action) => {
    if (action.ref !== null || action.x !== null) {
      const prepared = api.writable(action.ref, action.text);
      if (prepared === "written") return "";
      if (prepared !== "focused") {
        const at = point(action.ref, action.x, action.y);
        if (at.error) return at.error;
        clickAt(at.x, at.y, 1);
      }
      api.caret(action.clear);
    }
    if (action.clear) stroke("Delete", action.strokes[0].info, {});
    for (const { key, info, held } of action.strokes.slice(action.clear ? 1 : 0)) {
      if (info) stroke(key, info, held);
      else insert(key);
    }
    return "";
  };

  const point = (ref, x, y) => (ref === null ? { x, y } : api.locate(ref));

  // Does an action (the fields of actions.Action, and its key strokes) by synthetic events; returns what is wrong, or "".
  api.act = (action) => {
    if (action.kind === "type") return type(action);
    if (action.kind === "press") {
      for (const { key, info, held } of action.strokes) stroke(key, info, held);
      return "";
    }
    if (action.kind === "select" || (action.kind.endsWith("click") && action.ref !== null && api.isListed(action.ref))) {
      return api.choose(action.ref, action.text);
    }
    const at = point(action.ref, action.x, action.y);
    if (at.error) return at.error;
    if (action.kind === "click") clickAt(at.x, at.y, 1);
    else if (action.kind === "double_click") clickAt(at.x, at.y, 2);
    else if (action.kind === "scroll") scroll(at.x, at.y, action.dx, action.dy);
    else if (action.kind === "drag") {
      const to = point(action.to_ref, action.to_x, action.to_y);
      if (to.error) return to.error;
      drag(at.x, at.y, to.x, to.y);
    } else {
      moveTo(at.x, at.y);
      if (action.kind === "mouse_down") press(1);
      if (action.kind === "mouse_up") release(1);
    }
    return "";
  };

  // An action and what comes of it, in one go.
  api.step = (action, ignored, limit) => {
    const error = action ? api.act(action) : "";
    return api.rest(limit, () => ({ ...api.observeNow(ignored), error }));
  };
})();
