
// Finding a node by whatever somebody pasted, the keys that work everywhere, and the start.
const LIMIT = 12;
const query = byId("query");
const results = byId("results");

const known = nodes.map((node) => {
  const about = node.about;
  const texts = [["id", about.id], ["id", about.id.replace(/^[a-z0-9]+:/, "")], ["title", node.title]];
  if (node.kind === "artifact") {
    texts.push(...about.names.map((name) => ["name", name]), ...about.paths.map((path) => ["path", path]), ["type", about.type]);
  } else {
    texts.push(["step", about.step], ["directory", about.directory], ["user", about.user], ["host", about.host], ["state", about.state]);
  }
  return texts.filter(([, text]) => text).map(([field, text]) => [field, text.toLowerCase()]);
});

/** How well a node fits: 0 is the very thing, null not at all. */
function fit(texts, wanted) {
  let best = null;
  for (const [field, text] of texts) {
    let rank = null;
    if (text === wanted) rank = 0;
    else if (text.startsWith(wanted)) rank = field === "id" || field === "name" || field === "title" ? 1 : 2;
    else if ((field === "path" || field === "directory") && text.startsWith("/") && wanted.startsWith(text + "/")) rank = 1;
    else if (wanted.length > 1 && text.includes(wanted)) rank = 3;
    if (rank !== null && (best === null || rank < best)) best = rank;
  }
  return best;
}

function found(text) {
  let wanted = text.trim().toLowerCase().replace(/^art:\/\/([^@]*@)?|^file:\/\//, "").replace(/(.)\/+$/, "$1");
  // run://RUN/PORT names an output of a run.
  const ofRun = /^run:\/\/([^/]+)/.exec(wanted);
  if (ofRun) wanted = ofRun[1];
  if (!wanted) return [];
  return known
    .map((texts, which) => [fit(texts, wanted), which])
    .filter(([rank]) => rank !== null)
    .sort(([a, m], [b, n]) => a - b || m - n)
    .map(([, which]) => which);
}

let offered = [];
let chosen = 0;
function offer() {
  const all = found(query.value);
  offered = all.slice(0, LIMIT);
  chosen = 0;
  const open = query.value.trim() !== "";
  results.hidden = !open;
  query.setAttribute("aria-expanded", String(open));
  results.replaceChildren(...offered.map(option));
  if (open && !all.length) results.append(element("li", "none", "Nothing here has this id, digest, path or name."));
  if (all.length > LIMIT) results.append(element("li", "none", `and ${all.length - LIMIT} more`));
  byId("said").textContent = open ? counted(all.length, "result") : "";
  mark();
}
function option(which, n) {
  const node = nodes[which];
  const detail = node.kind === "run" ? [node.about.state, node.short] : [node.about.type, node.short, node.about.paths[0]];
  const made = element("li", "", element("b", "", node.title.slice(0, 80)), element("span", "", detail.filter(Boolean).join(", ").slice(0, 200)));
  made.id = `result-${n}`;
  made.setAttribute("role", "option");
  made.addEventListener("pointerdown", (event) => event.preventDefault());
  made.addEventListener("click", () => take(n));
  return made;
}
function mark() {
  offered.forEach((_, n) => results.children[n].setAttribute("aria-selected", String(n === chosen)));
  if (offered.length) {
    query.setAttribute("aria-activedescendant", `result-${chosen}`);
    results.children[chosen].scrollIntoView({ block: "nearest" });
  } else query.removeAttribute("aria-activedescendant");
}
function close() {
  results.hidden = true;
  query.setAttribute("aria-expanded", "false");
  query.removeAttribute("aria-activedescendant");
}
function take(n) {
  if (offered[n] === undefined) return;
  close();
  select(offered[n], { focus: true });
}

query.addEventListener("input", offer);
query.addEventListener("focus", offer);
query.addEventListener("blur", close);
query.addEventListener("keydown", (event) => {
  if (event.key === "Enter") take(chosen);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (!offered.length) return;
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : offered.length - 1)) % offered.length;
    mark();
  }
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    event.preventDefault();
    query.value = "";
    close();
    goHome();
    return;
  }
  if (event.target.matches("input")) return;
  const keys = {
    "/": () => (query.focus(), query.select()), "+": () => glide(zoomed(1.3)), "=": () => glide(zoomed(1.3)),
    "-": () => glide(zoomed(1 / 1.3)), 0: () => glide(whole()), Home: goHome,
  };
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});

function legend() {
  const line = (name, text, ...inside) => {
    const key = element("li", name, shape("svg", { viewBox: "0 0 18 16", "aria-hidden": "true" }, ...inside), text);
    byId("kinds").append(key);
  };
  const families = new Set(nodes.filter((n) => n.kind === "artifact").map((n) => n.family));
  const words = { data: "data", model: "model", judge: "reward model", scores: "scores", thing: "unknown type" };
  for (const [name, text] of Object.entries(words))
    if (families.has(name)) line(name, text, shape("path", { class: "icon", d: ICONS[name], transform: "translate(1 0)" }));
  const states = new Set(nodes.filter((n) => n.kind === "run").map(stateOf));
  for (const [name, d] of Object.entries(STATES))
    if (states.has(name))
      line(name, name === "elsewhere" ? "made elsewhere" : name, shape("circle", { class: "state", cx: 9, cy: 8, r: 7 }), shape("path", { class: "mark", d, transform: "translate(9 8) scale(.8)" }));
  const stroke = (name, text) => line("", text, shape("path", { class: `edge ${name}`, d: "M0 8H18" }));
  stroke("up", "came from");
  stroke("down", "led to");
  if (nodes.some(isTainted)) stroke("tainted", "taint");
}

function start() {
  byId("title").textContent = lineage.title;
  const of = (test) => nodes.filter(test).length;
  const artifacts = of((n) => n.kind === "artifact"), runs = nodes.length - artifacts;
  const summary = byId("summary");
  summary.append(`${counted(artifacts, "artifact")}, ${counted(runs, "run")}`);
  const bad = [[of(isTainted), "tainted"], [of(isSuspect), "of tainted descent"], [of((n) => n.about.state === "failed"), "failed"]];
  for (const [count, word] of bad) if (count) summary.append(", ", element("span", "bad", `${count} ${word}`));
  legend();
  select(lineage.focus, { look: false });
  show(first());
}
start();
