// What the explorer shows, and what it is asked: fields, table, figure, link. The answers are explorer_search.js's.

// Numbers as people read and write them.
const digits = (x) => String(Number(x.toPrecision(3)));
const scientific = (x) => (x >= 1e5 ? Number(x.toPrecision(3)).toExponential().replace("+", "") : digits(x));
function scaled(x, units) {
  const [size, letter] = units.find(([one]) => x >= one * 0.9995) ?? [1, ""];
  return digits(x / size) + letter;
}
const count = (x) => (x >= 1e15 ? scientific(x) : scaled(x, [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]));
const bytes = (x) => scaled(x, [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "KB"]]);
const span = ([low, high], text) => (text(low) === text(high) ? text(low) : `${text(low)} to ${text(high)}`);
const experts = (band) => (band.open ? `${band.experts[0]} and up` : span(band.experts, String));
const listed = (words) => (words.length > 1 ? `${words.slice(0, -1).join(", ")} and ${words.at(-1)}` : words.join(""));
function lossText({ loss, interval: ends }) {
  if (!ends) return loss.toFixed(4);
  const places = Math.max(0, Math.min(5, 1 - Math.floor(Math.log10((ends[1] - ends[0]) / 2))));
  const text = (x) => (Number.isFinite(x) ? x.toFixed(places) : "open");
  return `${text(loss)} [${ends.map(text).join(", ")}]`;
}

/** A number from 1e21, 300B, 8x80GB or 24GiB; NaN for what is none. */
function parsed(text, kind) {
  const found = /^(?:(\d+)x)?(\d*\.?\d+(?:e[+-]?\d+)?)\s*([kmgtpb]?)(i?)b?$/i.exec(text.trim());
  if (!found) return NaN;
  const steps = { "": 0, k: 1, m: 2, g: 3, t: 4, p: 5, b: kind === "bytes" ? 0 : 3 };
  const value = Number(found[1] ?? 1) * Number(found[2]) * (found[4] ? 1024 : 1000) ** steps[found[3].toLowerCase()];
  return kind === "whole" ? Math.round(value) : value;
}

const decades = (low, high) => Array.from({ length: (high - low) * 50 + 1 }, (_, place) => Number((10 ** (low + place / 50)).toPrecision(3)));
const FIELDS = Object.fromEntries([
  ["flops", "Training FLOPs", "count", decades(12, 27), scientific],
  ["devices", "Devices", "whole", Array.from({ length: 15 }, (_, power) => 2 ** power), String],
  ["memory", "Training memory", "bytes", decades(6, 15), (x, { devices } = state) => (devices > 1 ? `${devices}x` : "") + bytes(x / (devices ?? 1))],
  ["serve_memory", "Serving memory", "bytes", decades(6, 15), bytes], ["serve_flops", "Serving FLOPs a token", "count", decades(5, 14), scientific],
  ["tokens", "Tokens there are", "count", decades(6, 14), count], ["lifetime_tokens", "Tokens to be served", "count", decades(6, 15), count],
  ["max_experts", "Most experts E x G", "whole", DATA.counts, String], ["experts", "Experts E", "whole", DATA.counts, String],
  ["k", "Experts used k", "whole", DATA.counts.slice(0, 64), String], ["granularity", "Granularity G", "whole", DATA.granularities, String],
].map(([name, label, kind, values, text]) => {
  const limit = LIMITS.includes(name), one = name === "k" || name === "devices";
  return [name, { name, label, kind, values, text, limit, one, none: limit ? "no limit" : one ? "1" : "free" }];
}));

let state = {}, answers = [];

function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "g", "path", "line", "text", "rect", "clipPath"].includes(tag);
  const made = document.createElementNS(drawn ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const at = (id) => document.getElementById(id);
const lawOf = (one) => LAWS.find((law) => law.name === one.name);
const colour = (law) => `var(--law${law.place % 6})`;
const dash = (law) => ["none", "7 3", "2 3"][Math.floor(law.place / 6) % 3];
function mark(law, x, y, r = 5) {
  const shapes = [`M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`, `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    `M${x},${y - 1.2 * r}l${1.2 * r},${2.2 * r}h${-2.4 * r}z`, `M${x},${y - 1.3 * r}l${1.3 * r},${1.3 * r}l${-1.3 * r},${1.3 * r}l${-1.3 * r},${-1.3 * r}z`];
  return make("path", { d: shapes[law.place % 4], fill: colour(law) });
}
const key = (law) => make("svg", { class: "key", viewBox: "0 0 22 12", "aria-hidden": "true" },
  make("line", { x1: 0, x2: 22, y1: 6, y2: 6, stroke: colour(law), "stroke-width": 2, "stroke-dasharray": dash(law) }), mark(law, 11, 6, 4));

/** What is drawn of each law that has cells: its least loss over E, in per cent above its best, and up to where that is as good. */
function curves() {
  return answers.filter((one) => one.cells).map((one) => {
    const by = new Map(), own = one.best?.loss ?? Math.min(...one.cells.map((cell) => cell.loss));
    for (const cell of one.cells) if (cell.loss < (by.get(cell.e) ?? Infinity)) by.set(cell.e, cell.loss);
    const above = (loss) => 100 * (loss / own - 1);
    return { one, law: lawOf(one), line: [...by].map(([e, loss]) => [e, above(loss)]), top: one.band ? above(one.band.threshold) : 0 };
  });
}

function draw() {
  const shown = curves(), width = Math.max(at("figure").clientWidth, 280), height = Math.round(Math.min(420, 200 + width / 4));
  const [left, top, right, bottom] = [44, 12, width - 14, height - 40], most = Math.max(2, 1.5 * Math.max(...shown.map((one) => one.top), 0));
  const last = Math.max(16, ...shown.flatMap(({ line }) => line.filter(([, part]) => part <= most).map(([e]) => e)));
  const x = (e) => left + (right - left) * (Math.log2(e) + 0.15) / (Math.log2(last) + 0.3), y = (part) => bottom - 4 - (bottom - top) * (part / most) * 0.97;
  const step = [0.5, 1, 2, 5, 10, 20, 50, 100].find((one) => most / one <= 6) ?? most;
  const write = (text, places) => parts.push(make("text", { "text-anchor": "middle", ...places }, text));
  const parts = [], marks = [], lines = make("g", { "clip-path": "url(#frame)" });
  for (let part = 0; part <= most; part += step) {
    parts.push(make("line", { x1: left, x2: right, y1: y(part), y2: y(part), stroke: "var(--line)" }));
    write(`${part}%`, { x: left - 6, y: y(part) + 4, "text-anchor": "end" });
  }
  for (let e = 1; e <= last; e *= width < 500 ? 4 : 2) write(String(e), { x: x(e), y: bottom + 16 });
  write("number of experts E", { x: (left + right) / 2, y: height - 6 });
  for (const { law, line, top: good, one } of shown) {
    const stroke = (up, style) => {
      const d = line.filter(([, part]) => part <= up).map(([e, part], k) => `${k ? "L" : "M"}${x(e).toFixed(1)},${y(part).toFixed(1)}`).join("");
      lines.append(make("path", { d, fill: "none", stroke: colour(law), ...style }));
    };
    if (one.band) stroke(good, { "stroke-width": 9, "stroke-opacity": 0.3, "stroke-linecap": "round" });
    stroke(3 * most, { "stroke-width": 2, "stroke-dasharray": dash(law) });
    if (one.best) marks.push(mark(law, x(one.best.experts), y(0)));
  }
  const at_best = ({ best }) => `${lossText(best)} at E = ${best.experts}`;
  const told = shown.map(({ one }) => `${one.name}: ${one.best ? `least loss ${at_best(one)}, as good for E of ${experts(one.band)}` : one.stopped}.`);
  const name = `Least loss over the number of experts, by law. ${told.join(" ") || "No law has a design."}`;
  const frame = make("clipPath", { id: "frame" }, make("rect", { x: left, y: 0, width: right - left, height: bottom }));
  at("figure").replaceChildren(make("svg", { role: "img", viewBox: `0 0 ${width} ${height}`, "aria-label": name }, frame, ...parts, lines, ...marks));
  at("keys").replaceChildren(...shown.map(({ law, one }) => make("li", {}, key(law), ` ${one.name}: ${one.best ? at_best(one) : "no interior optimum"}`)));
}

const COLUMNS = [
  ["N active", (one) => count(one.best.active)], ["N", (one) => count(one.best.total)], ["E", (one) => one.best.experts], ["k", (one) => one.best.k],
  ["G", (one) => one.best.granularity], ["D", (one) => count(one.best.tokens)], ["Loss", (one) => lossText(one.best), "wide"],
  ["E as good", (one) => experts(one.band), "wide"], ["N active as good", (one) => span(one.band.active, count), "wide"],
  ["FLOPs", (one) => scientific(one.best.flops)], ["Memory", (one) => bytes(one.best.memory)], ["Served", (one) => bytes(one.best.served), "", "serve_memory"],
  ["Per token", (one) => scientific(one.best.perToken), "", "serve_flops"],
  ["Outside", (one) => Object.entries(one.outside).map(([column, times]) => `${column} ${digits(times)}x`).join(", ") || "-", "wide"],
];
const columns = () => COLUMNS.filter(([, , , limit]) => !limit || state[limit] != null);

function rowOf(one) {
  const head = make("th", { scope: "row", role: "rowheader" }, one.name), shown = columns();
  const flags = make("td", { role: "cell", class: "flags", "data-head": "Flags" }, (one.flags ?? []).join("; "));
  const cells = one.best
    ? shown.map(([name, text, wide]) => make("td", { role: "cell", class: `number ${wide ?? ""}`, "data-head": name }, String(text(one))))
    : [make("td", { role: "cell", class: "words", colspan: shown.length }, one.stopped ?? one.reason)];
  return make("tr", { role: "row" }, head, ...cells, flags);
}

function tabulate() {
  const names = ["Law", ...columns().map(([name]) => name), "Flags"];
  const heads = names.map((one, k) => make("th", { scope: "col", role: "columnheader", class: k && k < names.length - 1 ? "number" : "" }, one));
  at("table").replaceChildren(make("table", { role: "table" }, make("caption", {}, "The best design by each law, and the band as good"),
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), make("tbody", { role: "rowgroup" }, ...answers.map(rowOf))));
}

/** What all ranges have in common; null for nothing. */
function common(ranges) {
  const low = Math.max(...ranges.map((one) => one[0])), high = Math.min(...ranges.map((one) => one[1]));
  return ranges.length && low <= high ? [low, high] : null;
}

/** Whether the laws agree, in a sentence or two. */
function verdict() {
  if (state.flops == null && state.tokens == null) return "Nothing says how long to train: give training FLOPs or tokens.";
  if (!answers.length) return "No law is chosen.";
  const routed = answers.filter((one) => one.band && !lawOf(one).dense), free = routed.filter((one) => lawOf(one).experts == null), words = [];
  const shared = common(free.map((one) => one.band.experts)), active = common(routed.map((one) => one.band.active));
  if (free.length > 1 && shared) words.push(`${free.length} laws agree on E of ${span(shared, String)}`);
  else if (free.length > 1) words.push(`the laws disagree on E: ${listed(free.map((one) => `${experts(one.band)} by ${one.name}`))}`);
  else if (free.length) words.push(`E of ${experts(free[0].band)} is as good as the best, by ${free[0].name} alone`);
  const all = routed.length > 2 ? `all ${routed.length}` : "both";
  if (routed.length > 1) words.push(active ? `${all} on N_active of ${span(active, count)}` : "they disagree on N_active");
  const stopped = answers.filter((one) => one.stopped), first = words.join("; ");
  const rest = [...new Set(stopped.map((one) => one.stopped))].map((why) => `${listed(stopped.filter((one) => one.stopped === why).map((one) => one.name))}: ${why}.`);
  if (first) rest.unshift(`${first[0].toUpperCase()}${first.slice(1)}.`);
  return rest.join(" ") || (answers.some((one) => one.best) ? "Only dense laws have a design." : "No law has a design within these limits.");
}

/** What prints the same answers: values as they are shown where that says them exactly. */
function command() {
  const several = (name, value) => (name === "memory" && state.devices > 1 ? `${state.devices}x${value / state.devices}` : String(value));
  const exact = ({ name, text, kind }, value) => (parsed(text(value), kind) === value ? text(value) : several(name, value));
  const given = Object.values(FIELDS).filter(({ name }) => state[name] != null && name !== "devices");
  const options = given.map((field) => `--${field.name.replaceAll("_", "-")} ${exact(field, state[field.name])}`);
  const chosen = LAWS.filter((law) => state.laws.includes(law.name)), fitted = chosen.filter((law) => law.fitted);
  const names = new Set(fitted.length ? fitted.map((law) => law.law) : chosen.map((law) => law.name));
  const runs = fitted.length ? [DATA.runs] : [], repeat = asked(state).repeat ? ["--repeat"] : [];
  return ["cli.py design", ...runs, ...options, ...repeat, ...(names.size ? [`--law ${[...names].join(",")}`] : [])].join(" ");
}

let pending = 0;

/** Answer the question as it stands and show it. */
function update() {
  const begun = performance.now(), sized = state.flops != null || state.tokens != null;
  answers = sized ? answersTo(state) : [];
  tabulate();
  draw();
  const words = verdict();
  if (at("verdict").textContent !== words) at("verdict").textContent = words;
  at("command").textContent = command();
  clearTimeout(pending);
  pending = setTimeout(() => history.replaceState(null, "", link()), 100);
  window.explorer.milliseconds = performance.now() - begun;
}

function link() {
  const words = new URLSearchParams();
  for (const name of Object.keys(FIELDS)) if (state[name] != null) words.append(name, state[name]);
  if (state.repeat) words.append("repeat", "yes");
  for (const name of state.laws) words.append("law", name);
  return `#${words}`;
}

/** The question that the link holds; the page's own where it holds none. */
function restore() {
  const words = new URLSearchParams(location.hash.slice(1)), bare = !location.hash.slice(1);
  state = { laws: bare ? LAWS.filter((law) => law.chosen).map((law) => law.name) : words.getAll("law") };
  for (const { name, kind } of Object.values(FIELDS)) {
    const value = bare ? DATA.question[name] : parsed(words.get(name) ?? "", kind);
    state[name] = value > 0 && Number.isFinite(value) ? value : null;
  }
  state.repeat = bare ? DATA.question.repeat : words.has("repeat");
  at("repeat").checked = state.repeat;
  for (const field of Object.values(FIELDS)) showField(field);
  for (const law of LAWS) at(`law-${law.place}`).checked = state.laws.includes(law.name);
  update();
}

/** Slider and text of a field, from the state: limits are lifted at the slider's upper end, fixed values freed at its lower. */
function showField(field, typing = false) {
  const value = state[field.name], slider = at(`${field.name}-slider`), text = at(field.name), past = field.values.findIndex((one) => one >= value);
  const place = past < 0 ? field.values.length - 1 : past && value / field.values[past - 1] < field.values[past] / value ? past - 1 : past;
  slider.value = value == null ? (field.limit ? field.values.length : slider.min) : place;
  slider.setAttribute("aria-valuetext", value == null ? field.none : field.text(value));
  if (!typing) { text.value = value == null ? "" : field.text(value); text.removeAttribute("aria-invalid"); }
}

/** Take a field's new value. More devices have more memory, each as much as before. */
function set(name, value) {
  const before = state.devices ?? 1;
  state[name] = value;
  if (name === "devices" && state.memory != null) state.memory *= (value ?? 1) / before;
}

function addField(field) {
  const { name, label, kind, values, limit, one, none } = field, ends = { min: limit || one ? 0 : -1, max: values.length - (limit ? 0 : 1) };
  const slider = make("input", { type: "range", id: `${name}-slider`, ...ends, step: 1, "aria-label": label });
  const text = make("input", { type: "text", id: name, autocomplete: "off", spellcheck: "false", placeholder: none });
  const show = () => {
    for (const each of ["devices", "memory", name]) showField(FIELDS[each], each === name && document.activeElement === text);
    update();
  };
  slider.addEventListener("input", () => { set(name, values[slider.value] ?? null); show(); });
  text.addEventListener("input", () => {
    const value = parsed(text.value, kind), empty = !text.value.trim(), good = value > 0 && Number.isFinite(value);
    text.toggleAttribute("aria-invalid", false);
    if (!empty && !good) return text.setAttribute("aria-invalid", "true");
    const several = name === "memory" && /^\s*(\d+)x/i.exec(text.value);
    if (several) state.devices = Number(several[1]);
    set(name, empty ? null : value);
    show();
  });
  text.addEventListener("change", () => showField(field));
  at(limit || name === "devices" ? "limits" : "fixed").append(make("div", { class: "field" }, make("label", { for: name }, label), slider, text));
}

function addLaw(law) {
  const box = make("input", { type: "checkbox", id: `law-${law.place}` });
  box.addEventListener("change", () => { state.laws = LAWS.filter((one) => at(`law-${one.place}`).checked).map((one) => one.name); update(); });
  at("laws").append(make("label", { title: `${law.formula}. ${law.architecture}` }, box, key(law), law.name));
}

/** The answer of each law that is asked. */
const answersTo = (question) => LAWS.filter((law) => question.laws.includes(law.name)).map((law) => answer(law, question));

window.explorer = { answer: answersTo, state: () => state, milliseconds: 0 };
Object.values(FIELDS).forEach(addField);
LAWS.forEach(addLaw);
at("repeat").addEventListener("change", () => { state.repeat = at("repeat").checked; update(); });
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("copy").addEventListener("click", async () => {
  history.replaceState(null, "", link());
  try { await navigator.clipboard.writeText(location.href); at("copied").textContent = "Copied."; } catch { at("copied").textContent = "The address bar holds the link."; }
});
window.addEventListener("hashchange", restore);
let drawnAt = 0;
new ResizeObserver(([entry]) => { if (Math.abs(entry.contentRect.width - drawnAt) > 1) { drawnAt = entry.contentRect.width; draw(); } }).observe(at("figure"));
restore();
