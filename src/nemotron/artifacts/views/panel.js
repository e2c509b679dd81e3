
// The panel: everything that is known of the selected node, as text.
function element(tag, name, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children);
  return made;
}

const counted = (count, one, many = one + "s") => `${count.toLocaleString("en-US")} ${count === 1 ? one : many}`;

function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  return String(Number(value.toPrecision(6)));
}

/** Facts as pairs of a name and a text, those inside others by dotted names. */
function flat(value, name = "") {
  if (value !== null && typeof value === "object" && !Array.isArray(value))
    return value.pairs.flatMap(([key, each]) => flat(each, name ? `${name}.${key}` : key));
  return [[name, written(value)]];
}
function written(value) {
  if (Array.isArray(value)) return value.map(written).join(", ") || "none";
  if (value !== null && typeof value === "object") return value.pairs.map(([k, v]) => `${k}: ${written(v)}`).join(", ");
  if (value === null) return "none";
  return typeof value === "number" ? number(value) : String(value);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Not every browser lets a file use the clipboard; the old way works in all.
    const held = element("textarea", "unseen");
    held.value = text;
    document.body.append(held);
    held.select();
    document.execCommand("copy");
    held.remove();
  }
}
function copyButton(text, what) {
  const button = element("button", "copy", "Copy");
  button.type = "button";
  button.setAttribute("aria-label", `Copy ${what}`);
  button.addEventListener("click", async () => {
    await copied(text);
    button.textContent = "Copied";
    button.classList.add("done");
    setTimeout(() => {
      button.textContent = "Copy";
      button.classList.remove("done");
    }, 1500);
  });
  return button;
}

function row(list, name, text, { mono = false, copy = false } = {}) {
  if (text === null || text === undefined || text === "") return;
  const value = element("dd", "", element("span", mono ? "mono" : "", text));
  if (copy) value.append(copyButton(text, name.toLowerCase()));
  list.append(element("dt", "", name), value);
}
function table(pairs, name) {
  const list = element("dl", name);
  for (const [key, text] of pairs) {
    const digest = /^(blake3|sha256):/.test(text);
    row(list, key, text, { mono: digest, copy: digest });
  }
  return list;
}

function link(to, role) {
  const node = nodes[to];
  const run = node.kind === "run";
  const detail = run ? [node.about.state, node.took, node.short] : [node.about.type, node.short];
  const small = element("small", "");
  if (isTainted(node) || isSuspect(node))
    small.append(element("span", "bad", isTainted(node) ? "tainted" : "of tainted descent"), ", ");
  if (run && node.about.state === "failed") small.append(element("span", "bad", detail.shift()), ", ");
  small.append(detail.filter(Boolean).join(", "));
  const button = element("button", "", element("span", "role", role), element("span", "what", node.title, small));
  button.type = "button";
  button.addEventListener("click", () => {
    select(to);
    byId("panel").focus({ preventScroll: true });
  });
  return element("li", "", button);
}
function links(panel, title, found, end, none) {
  const heading = element("h3", "", title);
  if (found.length > 1) heading.append(" ", element("small", "", String(found.length)));
  panel.append(heading);
  if (!found.length) panel.append(element("p", "nothing", none));
  else panel.append(element("ul", "links", ...found.map((n) => link(edges[n][end], edges[n].port))));
}

function icon(node) {
  const made = shape("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
  if (node.kind === "run") {
    made.setAttribute("class", stateOf(node));
    made.append(
      shape("circle", { class: "state", cx: 8, cy: 8, r: 7.5 }),
      shape("path", { class: "mark", d: STATES[stateOf(node)], transform: "translate(8 8)" }),
    );
  } else {
    made.setAttribute("class", node.family);
    made.append(shape("path", { class: "icon", d: ICONS[node.family] }));
  }
  return made;
}

function describe(which, ancestorCount, descendantCount) {
  const node = nodes[which];
  const panel = byId("panel");
  const kind = node.kind === "run" ? "Run" : "Artifact";
  panel.replaceChildren(
    element("p", "kicker", icon(node), `${kind}, ${ancestorCount} before it, ${descendantCount} after it`),
    element("h2", "", node.title),
  );
  if (node.kind === "run") describeRun(panel, node, which);
  else describeArtifact(panel, node, which);
  panel.scrollTop = 0;
}

function noted(panel, heading, text, name = "note") {
  panel.append(element("div", name, element("b", "", heading), text));
}

function rest(list, about, shown) {
  for (const [name, value] of Object.entries(about)) {
    if (shown.includes(name) || value === null) continue;
    for (const [key, text] of flat(value, name)) row(list, key.replaceAll("_", " "), text);
  }
}

function describeArtifact(panel, node, which) {
  const about = node.about;
  const badges = element("div", "badges");
  if (which === lineage.focus) badges.append(element("span", "badge focus", "this artifact"));
  badges.append(...about.names.map((name) => element("span", "badge", name)));
  panel.append(badges);
  if (isTainted(node)) noted(panel, "Tainted", about.tainted, "note bad");
  else if (isSuspect(node)) {
    const origin = nodes[node.tainted_by];
    noted(panel, "Descends from a tainted artifact", origin.about.tainted, "note bad");
    panel.append(element("ul", "links", link(node.tainted_by, "tainted")));
  }
  for (const side of cutSides(which))
    noted(panel, `There is more ${side} this`, "The depth limit left it out: make this page with a larger --depth.");
  links(panel, "Made by", before[which], "from", "No run on record made this.");
  links(panel, "Used by", after[which], "to", "No run on record used this.");
  panel.append(element("h3", "", "Identity"));
  const list = element("dl", "");
  row(list, about.id.includes(":") && !/^(record|ref):/.test(about.id) ? "Digest" : "Id", about.id, { mono: true, copy: true });
  row(list, "Type", about.type);
  row(list, "Size", node.size && Number.isInteger(about.bytes) ? `${node.size} (${counted(about.bytes, "byte")})` : node.size);
  row(list, "First recorded", node.at);
  about.paths.forEach((path, n) => row(list, n ? "" : about.paths.length > 1 ? "Paths" : "Path", path, { mono: true, copy: true }));
  row(list, "Names", about.names.join(", "));
  rest(list, about, ["id", "type", "at", "bytes", "paths", "names", "tainted", "facts"]);
  panel.append(list);
  const facts = flat(about.facts);
  if (facts.length) panel.append(element("h3", "", "Facts"), table(facts, ""));
}

function describeRun(panel, node, which) {
  const about = node.about;
  const good = about.state === "succeeded" ? "good" : stateOf(node);
  panel.append(element("div", "badges", element("span", `badge ${good}`, about.state + (node.took ? ` ${about.state === "succeeded" ? "in" : "after"} ${node.took}` : ""))));
  if (about.engine) panel.lastChild.append(element("span", "badge", about.engine));
  links(panel, "Took", before[which], "from", "It took no artifact.");
  links(panel, "Made", after[which], "to", "It left no artifact on record.");
  panel.append(element("h3", "", "Run"));
  const list = element("dl", "");
  row(list, "Id", node.short, { mono: true, copy: true });
  row(list, "Step", about.step);
  row(list, "Engine", about.engine);
  row(list, "Started", node.started);
  row(list, "Ended", node.ended);
  row(list, "User", about.user);
  row(list, "Host", about.host);
  row(list, "Directory", about.directory, { mono: true, copy: true });
  rest(list, about, ["id", "step", "engine", "state", "started", "ended", "user", "host", "directory", "metrics"]);
  panel.append(list);
  const metrics = flat(about.metrics).sort(([a], [b]) => (a < b ? -1 : 1));
  if (metrics.length) panel.append(element("h3", "", "Last metrics"), table(metrics, "numbers"));
}
