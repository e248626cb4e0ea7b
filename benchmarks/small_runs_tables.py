"""The tables of `docs/small_runs.md`: the same figures of two sets of runs, and what only the small ones have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fit.analysis import Estimate, Result
from fit.assess.held_out import Score, pooled
from fit.assess.lack_of_fit import SeedNoise, seed_noise
from fit.load.grid import canonical
from fit.load.runs import Runs
from fit.show.display import count, estimate, plain
from fit.show.document import Table
from fit.studies.compare import Comparison

ROUTERS = ("S-Base", "Hash", "RL-R")

TEXTS = {"loss_validation": "held out", "loss_test": "test", "loss_bible": "Bible", "loss_code": "code"}
"""What the small runs are evaluated on."""


@dataclass(frozen=True)
class Scale:
    """One set of runs with every law fitted."""

    name: str
    comparison: Comparison

    @property
    def runs(self) -> Runs:
        """All of its runs."""
        return self.comparison.runs

    def result(self, router: str, law: str) -> Result | None:
        """This law's fit on this router's runs; None if they do not identify it."""
        found = self.comparison.candidate(router, law)
        return None if found is None else found.result

    def sizes(self) -> list[float]:
        """The dense sizes, smallest first."""
        return np.unique(self.runs.numeric("dense_parameter_count")).tolist()

    def dense(self) -> Result:
        """The power law fitted to the dense runs."""
        found = next((c.result for c in self.comparison.candidates if c.law == "dense"), None)
        if found is None:
            raise LookupError(f"{self.name}: there are no dense runs")
        return found

    def noise(self) -> SeedNoise | None:
        """Between seeds."""
        return seed_noise(self.runs.columns, self.runs.loss)


@dataclass(frozen=True)
class Sources:
    """All that the page is made from."""

    ours: Scale
    release: Scale
    variants: Runs
    """Runs of the routers in other forms, each in a column `variant`."""
    watched: Sequence[Mapping[str, str]]
    """Evaluations of the grid's own forms at shorter intervals."""
    choices: Mapping[str, Any]
    """What the choices of the trained routers say of the token (`benchmarks.small_choices`)."""

    @property
    def scales(self) -> tuple[Scale, Scale]:
        """The small runs, then the released ones."""
        return self.ours, self.release


def loss_at(runs: Runs, router: str, n: float, e: float, *, seed: float | None = None, target: str = "") -> float:
    """The loss of this model, nats per token: of one seed, or the mean of all there are; NaN if there is none."""
    chosen = canonical(runs, "Dense" if e == 1 else router)
    there = (chosen["dense_parameter_count"] == n) & (chosen["num_experts"] == e)
    if seed is not None:
        there &= chosen["seed"] == seed
    values = chosen.columns[target or chosen.target][there]
    return float(np.mean(values)) if len(values) else float("nan")


def wins(scale: Scale, e: float) -> dict[str, int]:
    """At how many sizes each router has the lowest loss of the three."""
    first: dict[str, int] = dict.fromkeys(ROUTERS, 0)
    for n in scale.sizes():
        found = {router: loss for router in ROUTERS if np.isfinite(loss := loss_at(scale.runs, router, n, e))}
        if len(found) == len(ROUTERS):
            first[min(found, key=lambda router: found[router])] += 1
    return first


def below_dense(scale: Scale) -> tuple[int, int]:
    """How many settings of router, N and E have a lower loss than the dense model of their N, and of how many."""
    gains = [
        loss_at(scale.runs, "Dense", n, 1) - loss_at(scale.runs, router, n, e)
        for router in ROUTERS
        for n in scale.sizes()
        for e in np.unique(scale.runs.numeric("num_experts")).tolist()
        if e > 1
    ]
    known = [gain for gain in gains if np.isfinite(gain)]
    return sum(gain > 0 for gain in known), len(known)


def losses(ours: Scale) -> Table:
    """The runs themselves: dense loss by size, and what each router takes off it."""
    rows: list[tuple[str, ...]] = []
    for n in ours.sizes():
        dense = loss_at(ours.runs, "Dense", n, 1, seed=0)
        gains = [dense - loss_at(ours.runs, router, n, e, seed=0) for router in ROUTERS for e in (2.0, 8.0, 64.0)]
        rows.append((count(n), f"{dense:.4f}", *(f"{gain:.3f}" for gain in gains)))
    heads = [f"{router} E={e}" for router in ROUTERS for e in (2, 8, 64)]
    note = "Loss on the test split, nats per byte; then how much less each routed model has. Seed 0."
    return Table("Dense loss, and the gain of each router", ("N", "dense", *heads), tuple(rows), note)


def coefficients(scales: Sequence[Scale]) -> Table:
    """Eq. 1's coefficients with their intervals."""
    names = ("a", "b", "c", "d", "E_start", "E_max")
    rows: list[tuple[str, ...]] = []
    for router in ROUTERS:
        for scale in scales:
            found = scale.result(router, "bounded")
            if found is None:
                rows.append((f"{router}, {scale.name}", "", "not identified", *[""] * (len(names) + 1)))
                continue
            figures = [estimate(found.coefficients[name]) for name in names]
            rmse = f"{100 * np.log(10) * found.fit.rmse_log10:.2f} %"
            rows.append((f"{router}, {scale.name}", str(len(found.runs.loss)), *figures, estimate(found.derived["n_cutoff"]), rmse))
    note = "Intervals at 95 %, residual bootstrap. N_cutoff beyond the runs is marked †. RMSE of ln loss."
    return Table("Eq. 1 on both sets of runs", ("runs", "of them", *names, "N_cutoff", "RMSE"), tuple(rows), note)


def interactions(scales: Sequence[Scale]) -> Table:
    """c under every law that has it."""
    laws = ("bilinear", "bounded", "floor-interaction", "bounded-floor-interaction")
    rows = [(f"{router}, {scale.name}", *(_c(scale, router, law) for law in laws)) for router in ROUTERS for scale in scales]
    note = "c > 0: what experts take off ln L shrinks with N. The last two laws have a floor, a loss that no size goes below."
    return Table("The interaction c under four laws", ("runs", *laws), tuple(rows), note)


def _c(scale: Scale, router: str, law: str) -> str:
    found = scale.result(router, law)
    return "not identified" if found is None else estimate(found.coefficients["c"])


def worth(scales: Sequence[Scale], experts: float) -> Table:
    """EPC/N by size under Eq. 1."""
    rows: list[tuple[str, ...]] = []
    for scale in scales:
        for n in scale.sizes():
            cells = [estimate(_ratio(scale.result(router, "bounded"), n, experts)) for router in ROUTERS]
            rows.append((f"{scale.name}, {count(n)}", *cells))
    note = f"How many times larger a dense model of the same loss would be, at E = {experts:g}, by Eq. 1 with 95 % intervals."
    return Table(f"What {experts:g} experts are worth: EPC/N", ("N", *ROUTERS), tuple(rows), note)


def _ratio(result: Result | None, n: float, e: float) -> Estimate | None:
    found = None if result is None else result.derived.get(f"epc({count(n)}/E={e:g})")
    if found is None:
        return None
    low, high = (None if end is None else end / n for end in (found.low, found.high))
    return Estimate(found.value / n, low, high)


def predictions(scales: Sequence[Scale]) -> Table:
    """The largest size, predicted by each law from all smaller ones."""
    laws = dict.fromkeys(candidate.law for scale in scales for candidate in scale.comparison.candidates)
    rows: list[tuple[str, ...]] = []
    for law in laws:
        cells = [_score_cell(largest_predicted(scale, law)) for scale in scales]
        if any(cells):
            rows.append((law, *cells))
    note = (
        "Each law was fitted to all smaller sizes. Root mean square of the errors in ln L over the largest size's runs, those of all three "
        "routers together, mean error in nats, and how many fell into their 95 % prediction intervals."
    )
    return Table("The largest size predicted from the others", ("law", *(scale.name for scale in scales)), tuple(rows), note)


def largest_predicted(scale: Scale, law: str) -> Score | None:
    """How well the law, fitted to all smaller sizes, predicts the largest; None if no router's runs say."""
    largest = max(scale.sizes())
    steps = [
        step
        for candidate in scale.comparison.candidates
        if candidate.law == law and candidate.router in ROUTERS
        for step in candidate.roll_out[-1:]
        if step.size == largest
    ]
    return pooled(steps)


def _score_cell(found: Score | None) -> str:
    if found is None:
        return ""
    covered = "" if found.covered is None else f", {found.covered} of {found.runs}"
    return f"{100 * np.log(10) * found.rmse_log10:.2f} %, {found.mean_error:+.3f}{covered}"


def paired_gains(ours: Scale) -> Table:
    """Dense loss less routed loss by seed, with the standard deviations of losses and of gains between seeds."""
    runs, noise = ours.runs, ours.noise()
    rows: list[tuple[str, ...]] = []
    spread: list[Float[np.ndarray, "seeds"]] = []
    for n, e in _repeated(runs):
        dense = np.array([loss_at(runs, "Dense", n, 1, seed=seed) for seed in (0, 1, 2)])
        for router in ROUTERS:
            routed = np.array([loss_at(runs, router, n, e, seed=seed) for seed in (0, 1, 2)])
            gains = dense - routed
            spread.append(gains - gains.mean())
            rows.append((f"{count(n)}, E={e:g}, {router}", *(f"{gain:.4f}" for gain in gains), f"{gains.mean():.4f}"))
    # Each spread of three seeds about their mean leaves two degrees of freedom.
    of_gains = float(np.sqrt(np.sum(np.square(spread)) / (2 * len(spread))))
    of_losses = float("nan") if noise is None else noise.sd_nats
    note = f"Standard deviation between seeds, pooled: {of_losses:.4f} of a loss, {of_gains:.4f} of a gain."
    return Table("Gains by seed, nats per byte", ("model", "seed 0", "seed 1", "seed 2", "mean"), tuple(rows), note)


def _repeated(runs: Runs) -> list[tuple[float, float]]:
    """Sizes and experts that were trained with three seeds."""
    again = (runs["seed"] == 2) & (runs["router_type"] == "Hash")
    pairs = zip(runs["dense_parameter_count"][again].tolist(), runs["num_experts"][again].tolist(), strict=True)
    return sorted(set(pairs))


def metrics(ours: Scale) -> Table:
    """What the routers did in the second half of training."""
    names = {
        "load_max_over_mean": "fullest expert / mean",
        "entropy": "entropy / ln E",
        "dead_experts": "dead experts",
        "gate": "gate",
        "changed": "choices changed",
    }
    rows: list[tuple[str, ...]] = []
    sizes = ours.sizes()
    for router in ROUTERS:
        for n in (sizes[0], sizes[len(sizes) // 2], sizes[-1]):
            for e in (8.0, 64.0):
                values = {name: metric(ours, router, n, e, name) for name in names}
                values["entropy"] /= np.log(e)
                rows.append((f"{router}, {count(n)}, E={e:g}", *(plain(values[name], 2) for name in names)))
    note = (
        "Means over the second half of training; of choices changed: the fraction of bytes of the held-out text that go elsewhere at the "
        "end than they did half-way."
    )
    return Table("What the routers did", ("model", *names.values()), tuple(rows), note)


def metric(ours: Scale, router: str, n: float, e: float, name: str) -> float:
    """A router's metric in the second half of training (seed 0)."""
    return float(ours.runs.columns[f"router_{name}"][_one(ours.runs, router, n, e)][0])


def _one(runs: Runs, router: str, n: float, e: float, seed: float = 0) -> Bool[np.ndarray, "runs"]:
    same = (runs["router_type"] == router) & (runs["dense_parameter_count"] == n) & (runs["num_experts"] == e)
    return same & (runs["seed"] == seed)


def texts(ours: Scale) -> Table:
    """The gain of each router on every text, at the middle size."""
    n = ours.sizes()[len(ours.sizes()) // 2]
    rows: list[tuple[str, ...]] = []
    for target, text in TEXTS.items():
        dense = loss_at(ours.runs, "Dense", n, 1, seed=0, target=target)
        gains = [dense - loss_at(ours.runs, router, n, e, seed=0, target=target) for router in ROUTERS for e in (8.0, 64.0)]
        slopes = [_slope(ours.runs, router, target) for router in ROUTERS]
        rows.append((text, f"{dense:.3f}", *(f"{gain:.3f}" for gain in gains), *slopes))
    heads = [f"{router} E={e}" for router in ROUTERS for e in (8, 64)]
    note = f"Dense loss at N = {count(n)} and the gains of routing there; then c of the bilinear law over all sizes, by least squares."
    return Table("Other texts", ("text", "dense", *heads, *(f"c, {router}" for router in ROUTERS)), tuple(rows), note)


def _slope(runs: Runs, router: str, target: str) -> str:
    from fit.laws import BILINEAR
    from fit.solver.solve import fit_law

    chosen = canonical(runs, router)
    data = {name: chosen.numeric(name) for name in BILINEAR.columns}
    found = fit_law(BILINEAR, data, np.asarray(chosen.columns[target], float))
    values = found.law.parameter_values(found.theta[None], found.beta[None])[0]
    return plain(float(dict(zip(BILINEAR.parameter_names, values, strict=True))["c"]), 4)


def against_grid(sources: Sources, variant: str, router: str, e: float) -> str:
    """How much higher the variant's loss is than the grid's form's, by seed."""
    runs = sources.variants.keep((sources.variants["variant"] == variant) & (sources.variants["num_experts"] == e), variant)
    n = float(runs.numeric("dense_parameter_count")[0])
    seeds = sorted(set(runs["seed"].tolist()))
    gaps = [loss_at(runs, router, n, e, seed=seed) - loss_at(sources.ours.runs, router, n, e, seed=seed) for seed in seeds]
    return " and ".join(f"{gap:+.3f}" for gap in gaps)


def variants(sources: Sources) -> Table:
    """The routers in other forms, beside the grid's."""
    rows: list[tuple[str, ...]] = []
    runs = sources.variants
    for name in dict.fromkeys(runs["variant"].tolist()):
        if name == "watched":
            continue
        here = runs["variant"] == name
        for router in dict.fromkeys(runs["router_type"][here].tolist()):
            same = here & (runs["router_type"] == router)
            for n, e in sorted({*zip(runs["dense_parameter_count"][same].tolist(), runs["num_experts"][same].tolist(), strict=True)}):
                these = same & (runs["dense_parameter_count"] == n) & (runs["num_experts"] == e)
                seeds = sorted(runs["seed"][these].tolist())
                own = [loss_at(runs.keep(these, name), router, n, e, seed=seed) for seed in seeds]
                grid = [loss_at(sources.ours.runs, router, n, e, seed=seed) for seed in seeds]
                dense = [loss_at(sources.ours.runs, "Dense", n, 1, seed=seed) for seed in seeds]
                gate, changed = (float(np.mean(runs.columns[f"router_{key}"][these])) for key in ("gate", "changed"))
                cells = (" ".join(f"{loss:.4f}" for loss in values) for values in (dense, grid, own))
                rows.append((f"{router}, {count(n)}, E={e:g}: {name}", *cells, plain(gate, 2), plain(changed, 2)))
    note = "Loss on the test split by seed, from 0. The grid's form and the other one differ in nothing else."
    return Table("Other forms of the routers", ("form", "dense", "grid's form", "this form", "gate", "choices changed"), tuple(rows), note)


def drift(sources: Sources) -> Table:
    """How many choices changed between evaluations."""
    steps = sorted({int(row["step"]) for row in sources.watched} - {min(int(row["step"]) for row in sources.watched)})
    runs: dict[str, dict[int, str]] = {}
    for row in sources.watched:
        changed = row["router_changed"]
        name = f"{row['router_type']}, {count(float(row['dense_parameter_count']))}, E={row['num_experts']}"
        runs.setdefault(name, {})[int(row["step"])] = plain(float(changed), 2) if changed else ""
    rows = tuple((name, *(found[step] for step in steps)) for name, found in runs.items())
    note = "Fraction of the held-out bytes that go to another expert than 250 steps before. HASH: none, ever."
    return Table("How often a byte changes its expert, by step", ("model", *map(str, steps)), rows, note)


def choices(sources: Sources) -> Table:
    """How much a choice says of the byte that is read, and of the one that follows."""
    rows = [
        (
            f"{one['router']}, {one['size']}, E={one['experts']}",
            *(plain(one[name], 2) for name in ("entropy", "of_token", "of_next", "of_next_given_token")),
            plain(one["loss_as_trained"] - one["loss"], 4),
        )
        for one in sources.choices["runs"]
    ]
    note = (
        "Entropy of the expert over the held-out text, and its mutual information with the byte read, with the byte to be predicted, and "
        "with that one where the byte read is known, in bits. Last, how much larger the held-out loss is, in nats, where bytes go as in "
        "training: by the balanced plan, or by a draw from the policy."
    )
    heads = ("model", "entropy", "with byte read", "with next byte", "with next, given byte read", "loss as trained")
    return Table("What a choice says", heads, tuple(rows), note)
