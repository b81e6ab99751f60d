// What runs inside every page, before the page's own scripts: refs and observations of the DOM, visible points of
// elements, and waiting for a page to come to rest. Nothing is written into the DOM: refs live in a map beside it.
(() => {
  "use strict";
  // Several pages draw random numbers while they load, before anything can seed them.
  let state = 0x9e3779b9;
  Math.random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };

  const SKIPPED = new Set(["SCRIPT", "STYLE", "NOSCRIPT", "TEMPLATE", "LINK", "META", "HEAD"]);
  const ATTRIBUTES = [
    "type", "name", "placeholder", "title", "alt", "href", "for", "role", "aria-label", "aria-expanded", "label",
    "contenteditable", "readonly", "multiple", "min", "max", "step", "draggable",
  ];
  const DRAWN = [
    "fill", "stroke", "cx", "cy", "r", "rx", "ry", "x", "y", "width", "height", "x1", "y1", "x2", "y2", "points",
    "d", "transform", "font-size",
  ];
  const POINTS = [0.5, 0.25, 0.75, 0.1, 0.9, 0.4, 0.6, 0.02, 0.98];

  // The hooks of the task (see tasks.py) take the place of this one before the page's scripts run.
  const api = { clipboard: null, task: { status: () => ({}) } };
  let numbers = new WeakMap();
  let nodes = new Map();
  let nextElement = 1;
  let nextText = -1;

  api.resetRefs = () => {
    numbers = new WeakMap();
    nodes = new Map();
    nextElement = 1;
    nextText = -1;
  };

  const refOf = (node) => {
    let ref = numbers.get(node);
    if (ref === undefined) {
      ref = node.nodeType === 3 ? nextText-- : nextElement++;
      numbers.set(node, ref);
    }
    nodes.set(ref, node);
    return ref;
  };

  const inside = (frame) => {
    try {
      return frame.contentDocument;
    } catch {
      return null; // of another origin
    }
  };

  // One row a node, in document order; the fields are those of observations.Node, in its order.
  api.dom = (ignored) => {
    const rows = [];
    const seen = new Map();
    const round = (number) => Math.round(number * 100) / 100;

    const textRow = (node, parent, dx, dy, preserved) => {
      const text = preserved ? node.data : node.data.replace(/\s+/g, " ").trim();
      if (!text.trim()) return;
      const range = node.ownerDocument.createRange();
      range.selectNodeContents(node);
      const box = range.getBoundingClientRect();
      if (!box.width || !box.height) return;
      const ref = refOf(node);
      seen.set(ref, node);
      rows.push([ref, parent, "t", text, "", "", "", 0, 0, 0, round(box.left + dx), round(box.top + dy),
        round(box.width), round(box.height), "", "", []]);
    };

    const attributes = (element) => {
      const found = [];
      const names = element.namespaceURI === "http://www.w3.org/2000/svg" ? DRAWN : ATTRIBUTES;
      for (const name of element.getAttributeNames()) {
        if (names.includes(name)) found.push([name, element.getAttribute(name)]);
        else if (name === "src") found.push([name, element.getAttribute(name).split("/").pop().slice(0, 64)]);
      }
      return found;
    };

    const walk = (element, parent, dx, dy, shown) => {
      const tag = element.tagName;
      if (SKIPPED.has(tag) || ignored.has(element.id)) return;
      const style = element.ownerDocument.defaultView.getComputedStyle(element);
      if (style.display === "none") return;
      const box = element.getBoundingClientRect();
      // A list's options have no box until it is opened, yet they are what can be selected.
      const listed = shown && (tag === "OPTION" || tag === "OPTGROUP");
      const clipped = box.width <= 1 && box.height <= 1 && style.overflow === "hidden";
      const visible = listed || (style.visibility === "visible" && box.width > 0 && box.height > 0 && !clipped);
      if (clipped) return;
      const ref = refOf(element);
      let text = "";
      const children = element.childNodes;
      let mixed = false;
      for (const child of children) if (child.nodeType === 1) { mixed = true; break; }
      const preserved = style.whiteSpace.startsWith("pre");
      if (!mixed) {
        for (const child of children) if (child.nodeType === 3) text += child.data;
        text = preserved ? text : text.replace(/\s+/g, " ").trim();
      }
      const choice = tag === "OPTION" ? element.selected : element.checked;
      const row = [ref, parent, tag.toLowerCase(), tag === "TEXTAREA" ? "" : text,
        typeof element.value === "string" && tag !== "BUTTON" && tag !== "OPTION" ? element.value : "",
        element.id || "", element.getAttribute("class") || "",
        element.ownerDocument.activeElement === element && tag !== "BODY" ? 1 : 0,
        choice === true ? 1 : 0, element.disabled === true ? 1 : 0,
        round(box.left + dx), round(box.top + dy), round(box.width), round(box.height),
        style.color, style.backgroundColor, attributes(element)];
      const place = rows.length;
      rows.push(row);
      if (tag === "IFRAME" || tag === "FRAME") {
        const inner = inside(element);
        if (inner && inner.body) walk(inner.body, ref, dx + box.left + element.clientLeft, dy + box.top + element.clientTop, false);
      } else if (mixed) {
        for (const child of children) {
          if (child.nodeType === 1) walk(child, ref, dx, dy, tag === "SELECT" || tag === "OPTGROUP");
          else if (child.nodeType === 3 && visible) textRow(child, ref, dx, dy, preserved);
        }
      }
      if (element.shadowRoot) for (const child of element.shadowRoot.children) walk(child, ref, dx, dy, false);
      if (!visible && rows.length === place + 1) rows.pop();
      else seen.set(ref, element);
    };

    walk(document.body, 0, 0, 0, false);
    nodes = seen;
    return rows;
  };

  // Hit testing -----------------------------------------------------------------------------------------------------

  // The innermost element at a point of the page, through frames and shadow roots.
  api.hit = (x, y) => {
    let root = document;
    for (;;) {
      const found = root.elementFromPoint(x, y);
      if (!found) return null;
      if (found.shadowRoot && found.shadowRoot.elementFromPoint(x, y) !== found) {
        const deeper = found.shadowRoot.elementFromPoint(x, y);
        if (!deeper) return found;
        root = found.shadowRoot;
        continue;
      }
      const inner = found.tagName === "IFRAME" || found.tagName === "FRAME" ? inside(found) : null;
      if (!inner) return found;
      const box = found.getBoundingClientRect();
      x -= box.left + found.clientLeft;
      y -= box.top + found.clientTop;
      root = inner;
    }
  };

  // Offset of a node's document within the page: the sum of its frames' corners.
  const offset = (node) => {
    let dx = 0, dy = 0;
    for (let view = node.ownerDocument.defaultView; view && view.frameElement; view = view.parent) {
      const box = view.frameElement.getBoundingClientRect();
      dx += box.left + view.frameElement.clientLeft;
      dy += box.top + view.frameElement.clientTop;
    }
    return [dx, dy];
  };

  const boxes = (node) => {
    const [dx, dy] = offset(node);
    let source = node;
    if (node.nodeType === 3) {
      source = node.ownerDocument.createRange();
      source.selectNodeContents(node);
    }
    return Array.from(source.getClientRects())
      .filter((box) => box.width > 0 && box.height > 0)
      .map((box) => [box.left + dx, box.top + dy, box.width, box.height]);
  };

  const holds = (element, found) => {
    for (let node = found; node; node = node.parentNode || node.host || null) if (node === element) return true;
    return false;
  };

  const describe = (element) => {
    const id = element.id ? ` id="${element.id}"` : "";
    return `<${element.tagName.toLowerCase()}${id}>`;
  };

  const pointIn = (node, element) => {
    let second = null;
    for (const [left, top, width, height] of boxes(node)) {
      for (const v of POINTS) {
        for (const u of POINTS) {
          const x = Math.min(left + width * u, left + width - 0.01), y = Math.min(top + height * v, top + height - 0.01);
          if (x < 0 || y < 0 || x >= innerWidth || y >= innerHeight) continue;
          const found = api.hit(x, y);
          if (found === element) return [x, y];
          if (!second && found && holds(element, found)) second = [x, y];
        }
      }
    }
    return second;
  };

  api.node = (ref) => {
    const node = nodes.get(ref);
    return node && node.isConnected ? node : null;
  };

  // A point where a click on the node reaches it, scrolled into sight if need be: {x, y} or {error}.
  api.locate = (ref) => {
    const node = api.node(ref);
    if (!node) return { error: `there is no element with ref ${ref}` };
    const element = node.nodeType === 3 ? node.parentElement : node;
    let point = pointIn(node, element);
    if (!point) {
      element.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
      point = pointIn(node, element);
    }
    if (!point) {
      element.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
      point = pointIn(node, element);
    }
    if (point) return { x: point[0], y: point[1] };
    const [box] = boxes(node);
    if (!box) return { error: `element ${ref} is not visible` };
    const over = api.hit(box[0] + box[2] / 2, box[1] + box[3] / 2);
    return { error: over ? `element ${ref} is covered by ${describe(over)}` : `element ${ref} is outside the page` };
  };

  // Coming to rest --------------------------------------------------------------------------------------------------

  const moving = () => {
    if (document.getAnimations().some((animation) => {
      if (animation.playState !== "running" || !animation.effect) return false;
      return Number.isFinite(animation.effect.getComputedTiming().endTime);
    })) return true;
    const library = globalThis.jQuery;
    return Boolean(library && library.timers && library.timers.length);
  };

  // Calls `done` at once where nothing moves, else when animations have ended, or after `limit` milliseconds.
  api.rest = (limit, done) => {
    if (limit <= 0 || !moving()) return done();
    const end = performance.now() + limit;
    return new Promise((resolve) => {
      const look = () => {
        if (!moving() || performance.now() > end) resolve(done());
        else setTimeout(look, 10);
      };
      setTimeout(look, 10);
    });
  };

  api.images = () => Promise.all(
    Array.from(document.images, (image) => image.complete || new Promise((resolve) => {
      image.addEventListener("load", resolve, { once: true });
      image.addEventListener("error", resolve, { once: true });
    })),
  );

  // Pictures that style sheets name (`content: url(...)`) have no size until they are there, and are in no list of
  // images: loaded once a document, and kept, so that no episode sees the page without them.
  const kept = [];
  const styled = () => {
    const found = new Set();
    for (const sheet of document.styleSheets) {
      let rules = [];
      try {
        rules = sheet.cssRules;
      } catch { /* of another origin */ }
      for (const rule of rules) {
        for (const [, address] of (rule.cssText || "").matchAll(/url\("([^"]+)"\)/g)) {
          if (!address.startsWith("data:")) found.add(new URL(address, sheet.href || document.baseURI).href);
        }
      }
    }
    return Promise.all(Array.from(found, (address) => new Promise((resolve) => {
      const image = new Image();
      image.onload = image.onerror = resolve;
      image.src = address;
      kept.push(image);
    })));
  };

  api.loaded = () => (document.readyState === "complete" ? styled() : new Promise((resolve) => {
    addEventListener("load", () => setTimeout(() => resolve(styled()), 0), { once: true });
  }));

  // What the episode looks like now: the task's own status, and the DOM.
  api.observeNow = (ignored) => ({ ...api.task.status(api), dom: api.dom(new Set(ignored)) });
  api.observe = (ignored, limit) => api.rest(limit, () => api.observeNow(ignored));

  const patience = async (done) => {
    for (let tries = 0; tries < 200 && !done(); tries++) await new Promise((resolve) => setTimeout(resolve, 10));
  };

  // Starts an episode that depends on the seed alone, and observes it when its images are there and nothing moves.
  api.begin = (seed, options, ignored, limit) => {
    api.resetRefs();
    api.clipboard = null;
    if (document.activeElement && document.activeElement !== document.body) document.activeElement.blur();
    const started = api.task.start(seed, options, api);
    const ready = () => !api.task.ready || api.task.ready(api);
    const waiting = Array.from(document.images).some((image) => !image.complete);
    if (!waiting && ready() && !(started instanceof Promise)) return api.observe(ignored, limit);
    return (async () => {
      await started;
      await patience(ready);
      await api.images();
      return api.observe(ignored, limit);
    })();
  };

  // A clipboard of its own for each page: the browser's is shared by all.
  addEventListener("copy", () => { api.clipboard = selected(); });
  addEventListener("cut", () => { api.clipboard = selected(); });
  addEventListener("paste", (event) => {
    if (api.clipboard === null) return;
    event.preventDefault();
    document.execCommand("insertText", false, api.clipboard);
  });
  const selected = () => {
    const focus = document.activeElement;
    if (focus && typeof focus.selectionStart === "number" && focus.selectionStart !== focus.selectionEnd) {
      return focus.value.slice(focus.selectionStart, focus.selectionEnd);
    }
    return String(getSelection());
  };
  api.selected = selected;

  Object.defineProperty(globalThis, "__fiona", { value: api, configurable: false, enumerable: false });
})();
