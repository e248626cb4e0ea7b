"use strict";
// The search of fit/design/search.py and answer.py: the same cells, limits, band and words for an edge. No formula is written here: MODELS
// holds what Python's own formulas are as JavaScript, functions of x = log N_a, e, g, the question q and a law's coefficients t and b.

const LAWS = DATA.laws.map((law, place) => ({ ...law, ...MODELS[law.model], place, held: {} }));
const LIMITS = ["flops", "memory", "serve_memory", "serve_flops", "tokens", "lifetime_tokens", "max_experts"];
const GOLDEN = (Math.sqrt(5) - 1) / 2;

/** The question as formulas read it: infinite where there is no limit. */
function asked(state) {
  const q = { ...state, k: state.k ?? 1, devices: state.devices ?? 1, lifetime_tokens: state.lifetime_tokens ?? 0 };
  q.repeat = Boolean(state.repeat && state.tokens != null && state.flops != null);
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

function affords(law, q, x, e, g) {
  const kept = (law.tokens ?? 0) + q.lifetime_tokens / 3;
  return law.flops(x, e, g, q) <= Math.min(kept ? q.flops / kept : Infinity, 3 * q.serve_flops);
}

const holds = (law, q, x, e, g) => law.memory(x, e, g, q) <= q.memory && law.served(x, e, g, q) <= q.serve_memory;

/** Where a condition that holds at `inside` and not at `outside` ends. */
function boundary(holds, inside, outside) {
  for (let round = 0; round < 42; round++) {
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

/** The largest size at which a condition holds that fails from some size on; NaN where none. */
function largest(holds) {
  if (holds(DATA.largest)) return DATA.largest;
  return holds(DATA.smallest) ? boundary(holds, DATA.smallest, DATA.largest) : NaN;
}

/** The largest size that memory holds: the same for every budget. */
function heldSize(law, q, e, g) {
  const limits = [q.memory, q.serve_memory, q.devices, q.k].join(), cell = `${e} ${g}`;
  if (law.held.limits !== limits) Object.assign(law.held, { limits, sizes: new Map() });
  if (!law.held.sizes.has(cell)) law.held.sizes.set(cell, largest((x) => holds(law, q, x, e, g)));
  return law.held.sizes.get(cell);
}

/** The best size of a cell and its loss; infinite where none is within the limits. */
function solved(law, q, { e, g }) {
  const high = Math.min(heldSize(law, q, e, g), largest((x) => affords(law, q, x, e, g)));
  if (Number.isNaN(high)) return { e, g, high, x: NaN, loss: Infinity };
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
    const x = DATA.smallest;
    return cellsOf(law, q).some(({ e, g }) => holds(law, q, x, e, g) && affords(law, q, x, e, g) && law.most_tokens(x, e, g, q) > 0);
  };
  const options = LIMITS.filter((name) => state[name] != null && name !== "lifetime_tokens" && possible(name, 1e12))
    .map((name) => [-boundary((x) => possible(name, Math.exp(-x)), -Math.log(1e12), 0), name]).sort((a, b) => a[0] - b[0]);
  const [x, name] = options[0] ?? [], factor = Math.exp(x + 1e-3);
  const unit = 10 ** (Math.floor(Math.log10(factor)) - 2), up = Math.ceil(factor / unit) * unit;
  if (!name) return "no design is within these limits, whichever one of them is raised";
  return `no design is within these limits; raise ${inSentence(name)} ${digits(up)} times, to ${FIELDS[name].text(state[name] * up, state)}`;
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
  const ends = (values) => [Math.min(...values), Math.max(...values)], all = [...inside, best];
  const experts = ends(all.map((one) => one.e)), granularity = ends(all.map((one) => one.g));
  return { threshold, experts, granularity, open: experts[1] >= DATA.most, active: ends(sizes).map(Math.exp) };
}

/** What a law answers: `reason` where it is not asked, `stopped` at an edge of the search, else `best` and `band`. */
function answer(given, state) {
  const q = asked(state), law = q.repeat ? { ...given, ...given.repeated } : given, name = law.name, reason = refuses(law, state, q);
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
    const here = law[`in ${column}`](x, e, g, q), [low, high] = law.ranges[column];
    return [column, Math.max(here / high, low / here)];
  }).filter(([, times]) => times > 1 + 1e-9));
  const top = ends && Number.isFinite(ends[1]) ? ends[1] : (1 + DATA.near) * loss;
  return { name, flags, outside, cells: found.cells, best, band: bandOf(law, q, found, Math.max(top, loss)) };
}
