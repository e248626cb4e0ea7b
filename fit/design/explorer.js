"use strict";
// The search of fit/design/search.py and answer.py: the same cells, limits, band and words for an edge. No formula is written here: MODELS
// holds what Python's own formulas are as JavaScript, functions of x = log N_a, e, g, the question q and a law's coefficients t and b.

const LAWS = DATA.laws.map((law, place) => ({ ...law, ...MODELS[law.model], place }));
const LIMITS = ["flops", "memory", "serve_memory", "serve_flops", "tokens", "lifetime_tokens", "max_experts"];
const GOLDEN = (Math.sqrt(5) - 1) / 2;

/** The question as formulas read it: infinite where there is no limit. */
function asked(state) {
  const q = { ...state, k: state.k ?? 1, lifetime_tokens: state.lifetime_tokens ?? 0 };
  for (const name of LIMITS) q[name] ??= Infinity;
  return q;
}

function expertCounts(law, q, g) {
  const allowed = Math.floor(q.max_experts / g), only = law.dense ? 1 : q.experts ?? law.experts;
  if (only != null) return q.k <= only && only <= allowed ? [only] : [];
  const most = Math.min(DATA.most, allowed);
  return [...new Set([...DATA.counts, most])].filter((e) => e >= q.k && e <= most).sort((a, b) => a - b);
}

function cellsOf(law, q) {
  const free = law.reads.g && q.granularity == null && !law.dense;
  return (free ? DATA.granularities : [q.granularity ?? 1]).flatMap((g) => expertCounts(law, q, g).map((e) => ({ e, g })));
}

function allows(law, q, x, e, g) {
  const kept = (law.tokens ?? 0) + q.lifetime_tokens / 3;
  return law.memory(x, e, g, q) <= q.memory && law.served(x, e, g, q) <= q.serve_memory &&
    law.flops(x, e, g, q) <= Math.min(kept ? q.flops / kept : Infinity, 3 * q.serve_flops);
}

/** Where a condition that holds at `inside` and not at `outside` ends. */
function boundary(holds, inside, outside) {
  for (let round = 0; round < 48; round++) {
    const middle = (inside + outside) / 2;
    if (holds(middle)) inside = middle; else outside = middle;
  }
  return inside;
}

/** The least of a convex function between two ends, and where; the ends themselves are tried. */
function least(f, low, high) {
  let a = low, b = high, c = b - GOLDEN * (b - a), d = a + GOLDEN * (b - a), fc = f(c), fd = f(d);
  while (b - a > 1e-9) {
    if (fc <= fd) { b = d; d = c; fd = fc; c = b - GOLDEN * (b - a); fc = f(c); }
    else { a = c; c = d; fc = fd; d = a + GOLDEN * (b - a); fd = f(d); }
  }
  const tried = [[high, f(high)], [low, f(low)], [c, fc], [d, fd]];
  return tried.reduce((best, one) => (one[1] < best[1] ? one : best));
}

/** The best size of a cell and its loss; infinite where none is within the limits. */
function solved(law, q, { e, g }) {
  const fits = (x) => allows(law, q, x, e, g);
  if (!fits(DATA.smallest)) return { e, g, high: NaN, x: NaN, loss: Infinity };
  const high = fits(DATA.largest) ? DATA.largest : boundary(fits, DATA.smallest, DATA.largest);
  const [x, loss] = least((size) => law.loss(size, e, g, q, law.theta, law.beta), DATA.smallest, high);
  return { e, g, high, x, loss };
}

const bestOf = (cells) => cells.reduce((best, one) => (one.loss < best.loss ? one : best), { loss: Infinity });

/** Every cell at its best, and the best of all, with every whole number of experts about it. */
function solve(law, q) {
  const cells = cellsOf(law, q).map((cell) => solved(law, q, cell)), about = bestOf(cells);
  if (about.loss === Infinity) return null;
  const own = cells.filter((one) => one.g === about.g).map((one) => one.e), at = own.indexOf(about.e);
  const near = [];
  for (let e = own[Math.max(at - 1, 0)]; e <= own[Math.min(at + 1, own.length - 1)]; e++) near.push(solved(law, q, { e, g: about.g }));
  return { cells, best: bestOf(near) };
}

function refuses(law, state, q) {
  const only = law.dense ? 1 : law.experts, wide = q.granularity ?? 1;
  if (only != null && state.experts != null && state.experts !== only) return `holds at E = ${only} alone`;
  if (only != null && q.max_experts < only * wide) return `holds at E = ${only} alone; raise the most experts`;
  if (q.k > 1 && !law.reads.k) return "its runs have k = 1";
  if (wide > 1 && !law.reads.g) return "its runs have G = 1";
  if (law.reads.u && state.tokens == null) return "counts repeated tokens: say how many tokens there are";
  if (law.tokens != null && q.tokens < law.tokens) return `holds at ${count(law.tokens)} tokens alone`;
  return "";
}

/** A limit's label within a sentence. */
const inSentence = (name) => FIELDS[name].label.replace(/^[A-Z](?=[a-z])/, (first) => first.toLowerCase());

/** Which one limit to lift so that there is a design, and to what: costs rise with size, so the smallest models tell. */
function remedy(law, state) {
  const possible = (name, factor) => {
    const more = state[name] * factor, q = asked({ ...state, [name]: name === "max_experts" ? Math.floor(more) : more });
    return cellsOf(law, q).some(({ e, g }) => allows(law, q, DATA.smallest, e, g) && law.most_tokens(DATA.smallest, e, g, q) > 0);
  };
  const options = LIMITS.filter((name) => state[name] != null && name !== "lifetime_tokens" && possible(name, 1e12))
    .map((name) => [-boundary((x) => possible(name, Math.exp(-x)), -Math.log(1e12), 0), name]).sort((a, b) => a[0] - b[0]);
  const [x, name] = options[0] ?? [], factor = Math.exp(x + 1e-3), unit = 10 ** (Math.floor(Math.log10(factor)) - 2), up = Math.ceil(factor / unit) * unit;
  if (!name) return "no design is within these limits, whichever one of them is raised";
  return `no design is within these limits; raise ${inSentence(name)} ${digits(up)} times, to ${FIELDS[name].text(state[name] * up)}`;
}

/** Which edge of the search box the best design lies at, in words. */
function edge(state, { cells, best }) {
  const wide = state.max_experts == null || Math.floor(state.max_experts / best.g) >= DATA.most;
  if (best.e >= DATA.most && wide && state.experts == null) {
    return state.memory == null && state.serve_memory == null
      ? "no interior optimum in E by FLOPs alone; give memory for training or serving"
      : `no interior optimum in E: memory would not bind below ${DATA.most.toLocaleString("en")} experts; give less, or most experts`;
  }
  const last = DATA.granularities.at(-1);
  if (best.g >= last && cells.some((one) => one.g !== last)) return `no interior optimum in G up to ${last}; fix G, or give most experts`;
  if (best.x > DATA.largest - 1e-3) return "no interior optimum in N: nothing given limits the size; give FLOPs, memory or serving FLOPs";
  if (best.x < DATA.smallest + 1e-3) return "no interior optimum in N: these limits leave no room for a larger model";
  return "";
}

/** The draw of rank level x (draws + 1). */
function quantile(sorted, level) {
  const place = Math.min(Math.max(level * (sorted.length + 1) - 1, 0), sorted.length - 1), below = Math.floor(place);
  const low = sorted[below], high = sorted[Math.min(below + 1, sorted.length - 1)], part = place - below;
  return Number.isFinite(low) && Number.isFinite(high) ? low + part * (high - low) : part > 0 ? high : low;
}

/** Both ends of the interval of a design's loss; null where it has none. */
function interval(law, q, { x, e, g, loss }) {
  if (!law.draws) return null;
  const drawn = Float64Array.from(law.draws.theta, (t, row) => law.loss(x, e, g, q, t, law.draws.beta[row])).sort();
  const low = quantile(drawn, law.draws.tail), high = quantile(drawn, 1 - law.draws.tail);
  const held = low <= loss && loss <= high && !(low === -Infinity && high === Infinity);
  return held && !(low > 0 && DATA.widest * low < high && high < Infinity) && !(low === 0 && high === Infinity) ? [low, high] : null;
}

/** The designs with a loss of at most `threshold`, on either side of the best size of each cell. */
function bandOf(law, q, { cells, best }, threshold) {
  const inside = cells.filter((one) => one.loss <= threshold), sizes = [best.x];
  for (const { e, g, x, high } of inside) {
    const good = (size) => law.loss(size, e, g, q, law.theta, law.beta) <= threshold;
    for (const end of [DATA.smallest, high]) sizes.push(good(end) ? end : boundary(good, x, end));
  }
  const ends = (values) => [Math.min(...values), Math.max(...values)];
  const experts = ends([...inside.map((one) => one.e), best.e]);
  return { threshold, experts, open: experts[1] >= DATA.most, active: ends(sizes).map(Math.exp), granularity: ends([...inside.map((one) => one.g), best.g]) };
}

/** What a law answers: `reason` where it is not asked, `stopped` at an edge of the search, else `best` and `band`. */
function answer(law, state) {
  const q = asked(state), name = law.name, reason = refuses(law, state, q);
  if (reason) return { name, reason };
  const found = solve(law, q);
  if (!found) return { name, reason: remedy(law, state) };
  const { e, g, x, loss } = found.best, flags = [...law.flags];
  const off = LIMITS.filter((one) => !["flops", "max_experts"].includes(one) && state[one] != null).map(inSentence);
  if (law.ray && off.length) flags.push(`${off.join(", ")}: ${law.ray}`);
  if (law.body(x, e, g, q) < Math.exp(x) / 2) flags.push("more than half of its N_active are embeddings: too small for this law");
  const stopped = edge(state, found);
  if (stopped) return { name, stopped, flags, cells: found.cells };
  const perToken = law.flops(x, e, g, q), tokens = law.most_tokens(x, e, g, q), ends = interval(law, q, found.best);
  const best = {
    active: Math.exp(x), experts: e, k: q.k, granularity: g, tokens, total: law.total(x, e, g, q), loss, interval: ends, perToken: perToken / 3,
    flops: perToken * tokens, memory: law.memory(x, e, g, q), served: law.served(x, e, g, q),
  };
  const outside = Object.fromEntries(Object.keys(law.ranges).map((column) => {
    const here = law.columns[column](x, e, g, q), [low, high] = law.ranges[column];
    return [column, Math.max(here / high, low / here)];
  }).filter(([, times]) => times > 1 + 1e-9));
  const top = ends && Number.isFinite(ends[1]) ? ends[1] : (1 + DATA.near) * loss;
  return { name, flags, outside, cells: found.cells, best, band: bandOf(law, q, found, Math.max(top, loss)) };
}

// Numbers as people read and write them.
const digits = (x) => String(Number(x.toPrecision(3)));
const power = (x) => (x >= 1e15 ? Number(x.toPrecision(3)).toExponential().replace("+", "") : null);
function scaled(x, units) {
  const [size, letter] = units.find(([one]) => x >= one * 0.9995) ?? [1, ""];
  return digits(x / size) + letter;
}
const count = (x) => (x === Infinity ? "inf" : power(x) ?? scaled(x, [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]));
const bytes = (x) => scaled(x, [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "KB"]]);
const scientific = (x) => (x >= 1e5 ? Number(x.toPrecision(3)).toExponential().replace("+", "") : digits(x));
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
  const letter = found[3].toLowerCase(), steps = kind === "bytes" ? { k: 1, m: 2, g: 3, t: 4, p: 5, b: 0 } : { k: 1, m: 2, b: 3, g: 3, t: 4, p: 5 };
  const value = Number(found[1] ?? 1) * Number(found[2]) * (found[4] ? 1024 : 1000) ** (letter ? steps[letter] : 0);
  return kind === "whole" ? Math.round(value) : value;
}

const decades = (low, high, steps = 50) => Array.from({ length: (high - low) * steps + 1 }, (_, place) => Number((10 ** (low + place / steps)).toPrecision(3)));
const FIELDS = Object.fromEntries([
  ["flops", "Training FLOPs", "count", decades(12, 27), scientific], ["memory", "Training memory", "bytes", decades(6, 15), bytes],
  ["serve_memory", "Serving memory", "bytes", decades(6, 15), bytes], ["serve_flops", "Serving FLOPs a token", "count", decades(5, 14), scientific],
  ["tokens", "Tokens there are", "count", decades(6, 14), count], ["lifetime_tokens", "Tokens to be served", "count", decades(6, 15), count],
  ["max_experts", "Most experts E x G", "whole", DATA.counts, String], ["experts", "Experts E", "whole", DATA.counts, String],
  ["k", "Experts used k", "whole", DATA.counts.slice(0, 64), String], ["granularity", "Granularity G", "whole", DATA.granularities, String],
].map(([name, label, kind, values, text]) => [name, { name, label, kind, values, text, limit: LIMITS.includes(name) }]));

let state = {}, answers = [];

function make(tag, attributes = {}, ...children) {
  const space = ["svg", "g", "path", "line", "text", "rect", "title", "clipPath"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const at = (id) => document.getElementById(id);
const colour = (law) => `var(--law${law.place % 6})`;
const dash = (law) => ["none", "7 3", "2 3"][Math.floor(law.place / 6) % 3];
function mark(law, x, y, r = 5) {
  const shapes = [`M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`, `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    `M${x},${y - 1.2 * r}l${1.2 * r},${2.2 * r}h${-2.4 * r}z`, `M${x},${y - 1.3 * r}l${1.3 * r},${1.3 * r}l${-1.3 * r},${1.3 * r}l${-1.3 * r},${-1.3 * r}z`];
  return make("path", { d: shapes[law.place % 4], fill: colour(law) });
}
const key = (law) => make("svg", { class: "key", viewBox: "0 0 22 12", "aria-hidden": "true" },
  make("line", { x1: 0, x2: 22, y1: 6, y2: 6, stroke: colour(law), "stroke-width": 2, "stroke-dasharray": dash(law) }), mark(law, 11, 6, 4));

/** The least loss over E by law, above its best, with band and optimum. */
function draw() {
  const shown = answers.filter((one) => one.cells).map((one) => {
    const by = new Map(), own = one.best ?? { loss: Math.min(...one.cells.map((cell) => cell.loss)) };
    for (const cell of one.cells) if (cell.loss < (by.get(cell.e) ?? Infinity)) by.set(cell.e, cell.loss);
    const above = (loss) => 100 * (loss / own.loss - 1);
    return { one, law: LAWS.find((law) => law.name === one.name), line: [...by].map(([e, loss]) => [e, above(loss)]), top: one.band ? above(one.band.threshold) : 0 };
  });
  const width = Math.max(at("figure").clientWidth, 280), height = Math.round(Math.min(420, 200 + width / 4)), box = [44, 12, width - 14, height - 40];
  const most = Math.max(2, 1.5 * Math.max(...shown.map((one) => one.top), 0));
  const last = Math.max(16, ...shown.flatMap(({ line }) => line.filter(([, y]) => y <= most).map(([e]) => e)));
  const x = (e) => box[0] + (box[2] - box[0]) * (Math.log2(e) + 0.15) / (Math.log2(last) + 0.3), y = (part) => box[3] - (box[3] - box[1]) * (part / most) * 0.97 - 4;
  const step = [0.5, 1, 2, 5, 10, 20, 50, 100, 1000].find((one) => most / one <= 6) ?? most, parts = [];
  for (let part = 0; part <= most; part += step) parts.push(make("line", { x1: box[0], x2: box[2], y1: y(part), y2: y(part), stroke: "var(--line)" }), make("text", { x: box[0] - 6, y: y(part) + 4, "text-anchor": "end" }, `${part}%`));
  for (let e = 1; e <= last; e *= width < 500 ? 4 : 2) parts.push(make("text", { x: x(e), y: box[3] + 16, "text-anchor": "middle" }, String(e)));
  parts.push(make("text", { x: (box[0] + box[2]) / 2, y: height - 6, "text-anchor": "middle" }, "number of experts E"));
  const lines = make("g", { "clip-path": "url(#frame)" }), path = (line) => line.map(([e, part], k) => `${k ? "L" : "M"}${x(e).toFixed(1)},${y(part).toFixed(1)}`).join("");
  for (const { law, line, top, one } of shown) {
    const drawn = line.filter(([, part]) => part <= 3 * most), common = { fill: "none", stroke: colour(law) };
    if (one.band) lines.append(make("path", { d: path(drawn.filter(([, part]) => part <= top)), ...common, "stroke-width": 9, "stroke-opacity": 0.3, "stroke-linecap": "round" }));
    lines.append(make("path", { d: path(drawn), ...common, "stroke-width": 2, "stroke-dasharray": dash(law) }));
  }
  for (const { law, one } of shown) if (one.best) parts.push(mark(law, x(one.best.experts), y(0)));
  const told = shown.map(({ one }) => (one.best ? `${one.name}: least loss ${lossText(one.best)} at E = ${one.best.experts}, as good for E of ${experts(one.band)}.` : `${one.name}: ${one.stopped}.`));
  at("figure").replaceChildren(make("svg", { role: "img", viewBox: `0 0 ${width} ${height}`, "aria-label": `Least loss over the number of experts, by law. ${told.join(" ") || "No law has a design."}` },
    make("clipPath", { id: "frame" }, make("rect", { x: box[0], y: 0, width: box[2] - box[0], height: box[3] })), ...parts.filter((one) => one.tagName !== "path"), lines, ...parts.filter((one) => one.tagName === "path")));
  at("keys").replaceChildren(...shown.map(({ law, one }) => make("li", {}, key(law), ` ${one.name}${one.best ? `: ${lossText(one.best)} at E = ${one.best.experts}` : ": no interior optimum"}`)));
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

const common = (ends) => { const low = Math.max(...ends.map((one) => one[0])), high = Math.min(...ends.map((one) => one[1])); return low <= high ? [low, high] : null; };

/** Whether the laws agree, in a sentence or two. */
function verdict() {
  if (!answers.length) return "No law is chosen.";
  const routed = answers.filter((one) => one.band && !LAWS.find((law) => law.name === one.name).dense), words = [];
  const free = routed.filter((one) => LAWS.find((law) => law.name === one.name).experts == null), stopped = answers.filter((one) => one.stopped);
  const shared = free.length ? common(free.map((one) => one.band.experts)) : null, active = routed.length ? common(routed.map((one) => one.band.active)) : null;
  if (free.length > 1) words.push(shared ? `${free.length} laws agree on E of ${span(shared, String)}` : `the laws disagree on E: ${listed(free.map((one) => `${experts(one.band)} by ${one.name}`))}`);
  else if (free.length) words.push(`E of ${experts(free[0].band)} is as good as the best, by ${free[0].name} alone`);
  if (routed.length > 1) words.push(active ? `${routed.length > 2 ? `all ${routed.length}` : "both"} on N_active of ${span(active, count)}` : "they disagree on N_active");
  const first = words.join("; "), reasons = [...new Set(stopped.map((one) => one.stopped))];
  const rest = reasons.map((why) => `${listed(stopped.filter((one) => one.stopped === why).map((one) => one.name))}: ${why}.`);
  if (first) rest.unshift(`${first[0].toUpperCase()}${first.slice(1)}.`);
  return rest.join(" ") || (answers.some((one) => one.best) ? "Only dense laws have a design." : "No law has a design within these limits.");
}

function command() {
  const exact = ({ text, kind }, value) => (parsed(text(value), kind) === value ? text(value) : String(value));
  const options = Object.values(FIELDS).filter(({ name }) => state[name] != null).map((field) => `--${field.name.replaceAll("_", "-")} ${exact(field, state[field.name])}`);
  const chosen = LAWS.filter((law) => state.laws.includes(law.name)), fitted = chosen.filter((law) => law.fitted);
  const names = fitted.length ? fitted.map((law) => law.law) : chosen.map((law) => law.name);
  return ["cli.py design", ...(fitted.length ? [DATA.runs] : []), ...options, names.length ? `--law ${[...new Set(names)].join(",")}` : ""].join(" ").trim();
}

let pending = 0;

/** Answer the question as it stands and show it. */
function update() {
  const begun = performance.now(), sized = state.flops != null || state.tokens != null;
  answers = sized ? LAWS.filter((law) => state.laws.includes(law.name)).map((law) => answer(law, state)) : [];
  tabulate();
  draw();
  const words = sized ? verdict() : "Nothing says how long to train: give training FLOPs or tokens.";
  if (at("verdict").textContent !== words) at("verdict").textContent = words;
  at("command").textContent = command();
  clearTimeout(pending);
  pending = setTimeout(() => history.replaceState(null, "", link()), 100);
  window.explorer.milliseconds = performance.now() - begun;
}

function link() {
  const words = new URLSearchParams();
  for (const name of Object.keys(FIELDS)) if (state[name] != null) words.append(name, state[name]);
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
  for (const field of Object.values(FIELDS)) showField(field);
  for (const law of LAWS) at(`law-${law.place}`).checked = state.laws.includes(law.name);
  update();
}

/** Slider and text of a field, from the state: limits are lifted at the slider's upper end, fixed values freed at its lower. */
function showField(field, typing = false) {
  const value = state[field.name], slider = at(`${field.name}-slider`), text = at(field.name), past = field.values.findIndex((one) => one >= value);
  const place = past < 0 ? field.values.length - 1 : past && value / field.values[past - 1] < field.values[past] / value ? past - 1 : past;
  slider.value = value == null ? (field.limit ? field.values.length : -1) : place;
  slider.setAttribute("aria-valuetext", value == null ? (field.limit ? "no limit" : "free") : field.text(value));
  if (!typing) { text.value = value == null ? "" : field.text(value); text.removeAttribute("aria-invalid"); }
}

function addField(field) {
  const { name, label, kind, values, limit } = field;
  const slider = make("input", { type: "range", id: `${name}-slider`, min: limit ? 0 : -1, max: values.length - (limit ? 0 : 1), step: 1, "aria-label": label });
  const text = make("input", { type: "text", id: name, autocomplete: "off", spellcheck: "false", placeholder: limit ? "no limit" : name === "k" ? "1" : "free" });
  slider.addEventListener("input", () => { state[name] = values[slider.value] ?? null; showField(field); update(); });
  text.addEventListener("input", () => {
    const value = parsed(text.value, kind), empty = !text.value.trim(), good = value > 0 && Number.isFinite(value);
    text.toggleAttribute("aria-invalid", false);
    if (!empty && !good) return text.setAttribute("aria-invalid", "true");
    state[name] = empty ? null : value;
    showField(field, true);
    update();
  });
  text.addEventListener("change", () => showField(field));
  at(limit ? "limits" : "fixed").append(make("div", { class: "field" }, make("label", { for: name }, label), slider, text));
}

function addLaw(law) {
  const box = make("input", { type: "checkbox", id: `law-${law.place}` });
  box.addEventListener("change", () => { state.laws = LAWS.filter((one) => at(`law-${one.place}`).checked).map((one) => one.name); update(); });
  at("laws").append(make("label", { title: `${law.formula}. ${law.architecture}` }, box, key(law), law.name));
}

window.explorer = { laws: LAWS, answer: (asked) => LAWS.filter((law) => asked.laws.includes(law.name)).map((law) => answer(law, asked)), state: () => state, milliseconds: 0 };
Object.values(FIELDS).forEach(addField);
LAWS.forEach(addLaw);
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("copy").addEventListener("click", async () => {
  history.replaceState(null, "", link());
  try { await navigator.clipboard.writeText(location.href); at("copied").textContent = "Copied."; } catch { at("copied").textContent = "The address bar holds the link."; }
});
window.addEventListener("hashchange", restore);
let drawnAt = 0;
new ResizeObserver(([entry]) => { if (Math.abs(entry.contentRect.width - drawnAt) > 1) { drawnAt = entry.contentRect.width; draw(); } }).observe(at("figure"));
restore();
