
"use strict";
// The graph: what is drawn, what is selected, what part of it is seen.
const lineage = JSON.parse(document.getElementById("lineage").textContent);
const { nodes, edges } = lineage;
const byId = (id) => document.getElementById(id);
const svg = byId("graph");
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

const ICONS = {
  data: "M3 4c0-1.1 2.2-2 5-2s5 .9 5 2-2.2 2-5 2-5-.9-5-2zM3 4v8c0 1.1 2.2 2 5 2s5-.9 5-2V4M3 8c0 1.1 2.2 2 5 2s5-.9 5-2",
  model: "M8 1.8 13.5 5v6L8 14.2 2.5 11V5zM2.5 5 8 8.2 13.5 5M8 8.2v6",
  judge: "M8 2v12M4.5 14h7M3 4.5h10M3.2 4.5 1.3 9.2h3.8zM12.8 4.5l-1.9 4.7h3.8z",
  scores: "M2 14.2h12M4 11.5V8M8 11.5v-9M12 11.5v-6",
  thing: "M4 1.8h5.5L12.5 5v9.2H4zM9.5 1.8V5h3",
};
const STATES = {
  succeeded: "M-3.8 .2-1 3 4-2.8",
  failed: "M-3-3 3 3M3-3-3 3",
  interrupted: "M-2-3.2v6.4M2-3.2v6.4",
  running: "M-2-3.4 3 0-2 3.4z",
  elsewhere: "M-3 3 3-3M-2-3H3V2",
};

function shape(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const ruler = document.createElement("canvas").getContext("2d");
const fonts = getComputedStyle(document.documentElement);
function clipped(text, room, font, family = "--sans") {
  ruler.font = `${font} ${fonts.getPropertyValue(family)}`;
  let kept = text.slice(0, 200);
  if (kept.length === text.length && ruler.measureText(kept).width <= room) return kept;
  while (kept && ruler.measureText(kept + "\u2026").width > room) kept = kept.slice(0, -1);
  return kept + "\u2026";
}

function label(name, x, y, text, more = {}) {
  const made = shape("text", { class: name, x, y, ...more });
  made.textContent = text;
  return made;
}

const before = nodes.map(() => []);
const after = nodes.map(() => []);
edges.forEach((edge, number) => {
  after[edge.from].push(number);
  before[edge.to].push(number);
});
const isRun = (number) => nodes[number].kind === "run";
const stateOf = (node) => (Object.hasOwn(STATES, node.about.state) ? node.about.state : "running");
const isTainted = (node) => node.kind === "artifact" && node.about.tainted !== null;
const isSuspect = (node) => node.kind === "artifact" && node.tainted_by !== null && !isTainted(node);

function artifactShapes(node, number) {
  const { width, height } = node;
  const made = [
    shape("rect", { class: "halo", x: -5, y: -5, width: width + 10, height: height + 10, rx: 12 }),
    shape("rect", { class: "under", x: 0, y: 2, width, height, rx: 8 }),
    shape("rect", { class: "card", width, height, rx: 8 }),
    shape("rect", { class: "wash", width, height, rx: 8 }),
    shape("path", { class: "stripe", d: `M5 0V${height}A5 5 0 0 1 0 ${height - 5}V5A5 5 0 0 1 5 0z` }),
    shape("path", { class: "icon", d: ICONS[node.family], transform: "translate(15 9)" }),
  ];
  const marked = isTainted(node) || isSuspect(node);
  made.push(label("name", 39, 22, clipped(node.title, width - (marked ? 70 : 50), "600 13px")));
  if (marked)
    made.push(
      shape("path", { class: "flag", d: "M10 1.5 19.2 17.5H.8z", transform: `translate(${width - 29} 6)` }),
      shape("path", { d: "M10 7.5v4.2M10 14.4v.1", transform: `translate(${width - 29} 6)` }),
    );
  const second = isTainted(node) ? `tainted ${node.about.type ?? ""}` : node.about.type ?? "unknown type";
  made.push(label("second", 39, 39, clipped(second, width - 50, "11.5px")));
  const size = node.size ?? "";
  const third = node.short === node.title ? "" : node.short;
  made.push(label("third digest", 39, 55, clipped(third, width - 60 - size.length * 6, "10.5px", "--mono")));
  made.push(label("third", width - 11, 55, size, { "text-anchor": "end" }));
  if (number === lineage.focus)
    made.push(
      shape("path", { class: "tag", d: `M8-23H94a6 6 0 0 1 6 6V-4H2V-17a6 6 0 0 1 6-6z` }),
      label("tag-text", 51, -9.5, "this artifact", { "text-anchor": "middle" }),
    );
  return made;
}

function runShapes(node) {
  const { width, height } = node;
  const made = [
    shape("rect", { class: "halo", x: -5, y: -5, width: width + 10, height: height + 10, rx: 20 }),
    shape("rect", { class: "card", width, height, rx: 16 }),
    shape("circle", { class: "state", cx: 22, cy: 24, r: 9 }),
    shape("path", { class: "mark", d: STATES[stateOf(node)], transform: "translate(22 24)" }),
    label("name", 40, 21, clipped(node.title, width - 54, "600 13px")),
  ];
  const state = node.about.state;
  // On a card the value counts more than where the metric is from.
  const best = node.best?.replace(/^.*\//, "");
  const told = [state === "succeeded" || state === "elsewhere" ? null : state, node.took, best].filter(Boolean);
  made.push(label("second", 40, 37, clipped(told.join(", "), width - 54, "600 11.5px")));
  if (node.ports.length) made.push(shape("path", { class: "rule", d: `M0 47.5H${width}` }));
  const both = new Set(node.ports.map((port) => port[0])).size > 1;
  for (const [direction, port, y] of node.ports) {
    const out = direction === "output";
    made.push(shape("circle", { class: "plug", cx: out ? width : 0, cy: y, r: 3.5 }));
    const text = clipped(port, both ? width / 2 - 18 : width - 30, "11px");
    made.push(label("port", out ? width - 12 : 12, y + 4, text, { "text-anchor": out ? "end" : "start" }));
  }
  return made;
}

function moreShapes(node, side) {
  const left = side === "before";
  const x = left ? -8 : node.width + 8;
  return [
    shape("path", { class: "more-line", d: `M${x} ${node.height / 2}h${left ? -22 : 22}` }),
    label("more", left ? -36 : node.width + 36, node.height / 2 + 4, "more", { "text-anchor": left ? "end" : "start" }),
  ];
}

function spoken(node) {
  const words = [node.kind, node.title];
  if (node.kind === "run") words.push(node.about.state, node.took, node.best);
  else words.push(node.about.type, node.size);
  if (isTainted(node)) words.push(`tainted: ${node.about.tainted}`);
  if (isSuspect(node)) words.push("descends from tainted " + nodes[node.tainted_by].title);
  return words.filter(Boolean).join(", ").slice(0, 400);
}

function reached(start, next) {
  const seen = new Set([start]);
  for (const each of seen) for (const number of next(each)) seen.add(number);
  seen.delete(start);
  return seen;
}
const ancestors = (number) => reached(number, (each) => before[each].map((edge) => edges[edge].from));
const descendants = (number) => reached(number, (each) => after[each].map((edge) => edges[edge].to));

const older = ancestors(lineage.focus);
const younger = descendants(lineage.focus);
/** On which sides of an artifact the depth limit left something out. */
function cutSides(number) {
  if (!lineage.cut.includes(number)) return [];
  if (number === lineage.focus) return [["before", before], ["after", after]].filter(([, of]) => !of[number].length).map(([side]) => side);
  return [younger.has(number) && !older.has(number) ? "after" : "before"];
}

const drawnEdges = edges.map((edge) => {
  const artifact = nodes[isRun(edge.from) ? edge.to : edge.from];
  const bad = isRun(edge.from) ? isSuspect(artifact) : isTainted(artifact) || isSuspect(artifact);
  const back = nodes[edge.from].x > nodes[edge.to].x;
  return shape("path", { class: `edge${bad ? " tainted" : ""}${back ? " back" : ""}`, d: edge.path });
});
const drawn = nodes.map((node, number) => {
  const run = node.kind === "run";
  const names = ["node", node.kind, run ? stateOf(node) : node.family];
  if (isTainted(node)) names.push("tainted");
  if (isSuspect(node)) names.push("suspect");
  if (number === lineage.focus) names.push("focus");
  const made = shape("g", {
    class: names.join(" "), transform: `translate(${node.x} ${node.y})`, role: "option", tabindex: -1,
    "aria-selected": false, "aria-label": spoken(node), "data-node": number,
  });
  made.append(...(run ? runShapes(node) : artifactShapes(node, number)));
  for (const side of cutSides(number)) made.append(...moreShapes(node, side));
  return made;
});
byId("edges").append(...drawnEdges);
byId("nodes").append(...drawn);

// What part of the graph is seen: a point of it in the upper left corner, and a scale.
const seen = { x: 0, y: 0, scale: 1 };
const SMALLEST = 0.04, LARGEST = 2.5, LEGIBLE = 0.6;
function show(to) {
  Object.assign(seen, to);
  byId("view").setAttribute("transform", `translate(${seen.x} ${seen.y}) scale(${seen.scale})`);
  const dots = Math.max(seen.scale, 0.5);
  byId("dots").setAttribute("patternTransform", `translate(${seen.x} ${seen.y}) scale(${dots})`);
  showFrame();
}

// The small map: the whole graph, with a frame around what is seen; not there while all is seen.
const MAP = { width: 190, height: 120, edge: 8 };
const mapScale = Math.min((MAP.width - 2 * MAP.edge) / lineage.width, (MAP.height - 2 * MAP.edge) / lineage.height);
const map = byId("map");
map.setAttribute("width", lineage.width * mapScale + 2 * MAP.edge);
map.setAttribute("height", lineage.height * mapScale + 2 * MAP.edge);
byId("spots").append(...nodes.map((node, number) => shape("rect", {
  class: number === lineage.focus ? "here" : isTainted(node) || node.about.state === "failed" ? "bad" : "",
  x: MAP.edge + node.x * mapScale, y: MAP.edge + node.y * mapScale,
  width: Math.max(node.width * mapScale, 1.5), height: Math.max(node.height * mapScale, 1.5),
})));
function showFrame() {
  const { x, y, scale } = seen;
  const low = [Math.max(-x / scale, -20), Math.max(-y / scale, -20)];
  const high = [
    Math.min((svg.clientWidth - x) / scale, lineage.width + 20), Math.min((svg.clientHeight - y) / scale, lineage.height + 20),
  ];
  map.toggleAttribute("hidden", low[0] < 0 && low[1] < 0 && high[0] > lineage.width && high[1] > lineage.height);
  const frame = byId("frame");
  frame.setAttribute("x", MAP.edge + low[0] * mapScale);
  frame.setAttribute("y", MAP.edge + low[1] * mapScale);
  frame.setAttribute("width", Math.max(high[0] - low[0], 0) * mapScale);
  frame.setAttribute("height", Math.max(high[1] - low[1], 0) * mapScale);
}
function goThere(event) {
  const corner = map.getBoundingClientRect();
  const x = (event.clientX - corner.left - MAP.edge) / mapScale, y = (event.clientY - corner.top - MAP.edge) / mapScale;
  cancelAnimationFrame(moving);
  show({ x: svg.clientWidth / 2 - x * seen.scale, y: svg.clientHeight / 2 - y * seen.scale });
}
map.addEventListener("pointerdown", (event) => {
  map.setPointerCapture(event.pointerId);
  goThere(event);
});
map.addEventListener("pointermove", (event) => event.buttons & 1 && goThere(event));
addEventListener("resize", showFrame);

let moving = 0;
function glide(to) {
  cancelAnimationFrame(moving);
  if (calm) return show(to);
  const from = { ...seen };
  const begun = performance.now();
  const step = (now) => {
    const part = Math.min((now - begun) / 220, 1);
    const eased = 1 - (1 - part) ** 3;
    const between = (key) => from[key] + (to[key] - from[key]) * eased;
    show({ x: between("x"), y: between("y"), scale: between("scale") });
    if (part < 1) moving = requestAnimationFrame(step);
  };
  moving = requestAnimationFrame(step);
}
const limited = (scale) => Math.min(Math.max(scale, SMALLEST), LARGEST);
function zoomed(factor, x = svg.clientWidth / 2, y = svg.clientHeight / 2) {
  const scale = limited(seen.scale * factor);
  const ratio = scale / seen.scale;
  return { x: x - (x - seen.x) * ratio, y: y - (y - seen.y) * ratio, scale };
}
const BESIDE = lineage.cut.length ? 70 : 8; // what is drawn beside the outermost nodes
function whole() {
  const room = { x: 24, top: 54, bottom: 54 };
  const scale = limited(Math.min(
    (svg.clientWidth - 2 * room.x) / (lineage.width + 2 * BESIDE), (svg.clientHeight - room.top - room.bottom) / lineage.height, 1.15,
  ));
  return {
    x: (svg.clientWidth - lineage.width * scale) / 2,
    y: room.top + (svg.clientHeight - room.top - room.bottom - lineage.height * scale) / 2, scale,
  };
}
function centred(number, scale) {
  const { x, y, width, height } = nodes[number];
  return { x: svg.clientWidth / 2 - (x + width / 2) * scale, y: svg.clientHeight / 2 - (y + height / 2) * scale, scale };
}
/** What is seen at first: all of it if that is legible, else the focus and as much as fits around it. */
function first() {
  const all = whole();
  if (all.scale >= LEGIBLE) return all;
  const margin = 48;
  const within = (place, size, room) =>
    size + 2 * margin < room ? (room - size) / 2 : Math.min(Math.max(place, room - size - margin), margin);
  const { x, y } = centred(lineage.focus, LEGIBLE);
  return {
    x: within(x, lineage.width * LEGIBLE, svg.clientWidth), y: within(y, lineage.height * LEGIBLE, svg.clientHeight), scale: LEGIBLE,
  };
}
/** Moves the graph only as far as it takes to see a node whole and legible. */
function reveal(number) {
  const scale = Math.max(seen.scale, LEGIBLE);
  if (scale !== seen.scale) return glide(centred(number, scale));
  const { x, y, width, height } = nodes[number];
  const margin = 40;
  const into = (start, size, room) => {
    const low = start * scale, high = (start + size) * scale;
    return [low - margin, high + margin - room];
  };
  const [left, right] = into(x, width, svg.clientWidth);
  const [top, bottom] = into(y, height, svg.clientHeight);
  glide({
    x: Math.min(Math.max(seen.x, -left), Math.max(-right, -left)),
    y: Math.min(Math.max(seen.y, -top), Math.max(-bottom, -top)), scale,
  });
}

let selected = null;
/** Selects a node: its details in the panel, its ancestors and descendants in colour. */
function select(number, { focus = false, look = true } = {}) {
  if (selected !== null) {
    drawn[selected].setAttribute("aria-selected", "false");
    drawn[selected].setAttribute("tabindex", "-1");
  }
  selected = number;
  drawn[number].setAttribute("aria-selected", "true");
  drawn[number].setAttribute("tabindex", "0");
  const up = ancestors(number), down = descendants(number);
  drawn.forEach((each, n) => each.classList.toggle("off", n !== number && !up.has(n) && !down.has(n)));
  edges.forEach((edge, n) => {
    const marks = drawnEdges[n].classList;
    const isUp = up.has(edge.from) && (up.has(edge.to) || edge.to === number);
    const isDown = down.has(edge.to) && (down.has(edge.from) || edge.from === number);
    marks.toggle("up", isUp);
    marks.toggle("down", isDown && !isUp);
    marks.toggle("off", !isUp && !isDown);
  });
  describe(number, up.size, down.size);
  if (focus) drawn[number].focus({ preventScroll: true });
  if (look) reveal(number);
}
function goHome() {
  select(lineage.focus, { focus: true });
}

/** The node that an arrow key leads to. */
function towards(number, key) {
  const here = nodes[number];
  const height = (n) => nodes[n].y + nodes[n].height / 2;
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const found = key === "ArrowLeft" ? before[number].map((n) => edges[n].from) : after[number].map((n) => edges[n].to);
    return found.sort((a, b) => Math.abs(height(a) - height(number)) - Math.abs(height(b) - height(number)))[0];
  }
  const sign = key === "ArrowDown" ? 1 : -1;
  const column = nodes.map((_, n) => n).filter((n) => nodes[n].x === here.x && sign * (nodes[n].y - here.y) > 0);
  return column.sort((a, b) => sign * (nodes[a].y - nodes[b].y))[0];
}

svg.addEventListener("keydown", (event) => {
  const from = event.target.closest("[data-node]");
  if (!from || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow")) {
    event.preventDefault();
    const to = towards(Number(from.dataset.node), event.key);
    if (to !== undefined) select(to, { focus: true });
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    select(Number(from.dataset.node));
  }
});

// Dragging anywhere moves the graph; a press that goes nowhere is a click.
let pressed = null;
svg.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  cancelAnimationFrame(moving);
  pressed = { x: event.clientX, y: event.clientY, from: { ...seen }, moved: false };
});
svg.addEventListener("pointermove", (event) => {
  if (!pressed) return;
  const dx = event.clientX - pressed.x, dy = event.clientY - pressed.y;
  if (!pressed.moved && Math.hypot(dx, dy) < 4) return;
  if (!pressed.moved) svg.setPointerCapture(event.pointerId);
  pressed.moved = true;
  svg.classList.add("dragged");
  show({ x: pressed.from.x + dx, y: pressed.from.y + dy });
});
for (const end of ["pointerup", "pointercancel"])
  svg.addEventListener(end, (event) => {
    const node = event.target.closest("[data-node]");
    const click = end === "pointerup" && pressed && !pressed.moved && node;
    pressed = null;
    svg.classList.remove("dragged");
    if (click) select(Number(node.dataset.node), { focus: true });
  });
svg.addEventListener("wheel", (event) => {
  event.preventDefault();
  cancelAnimationFrame(moving);
  const corner = svg.getBoundingClientRect();
  const lines = event.deltaMode === 1 ? 16 : 1;
  const factor = Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016));
  show(zoomed(factor, event.clientX - corner.left, event.clientY - corner.top));
}, { passive: false });

byId("closer").addEventListener("click", () => glide(zoomed(1.3)));
byId("farther").addEventListener("click", () => glide(zoomed(1 / 1.3)));
byId("whole").addEventListener("click", () => glide(whole()));
byId("home").addEventListener("click", goHome);

// On paper the whole graph is seen.
addEventListener("beforeprint", () => {
  const above = 40;
  svg.setAttribute("viewBox", `${-BESIDE} ${-above} ${lineage.width + 2 * BESIDE} ${lineage.height + 2 * above}`);
  byId("view").removeAttribute("transform");
});
addEventListener("afterprint", () => {
  svg.removeAttribute("viewBox");
  show({});
});
