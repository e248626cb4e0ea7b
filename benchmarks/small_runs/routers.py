"""The tables of `docs/small_runs.md` that only the small runs have: what their routers did, and did in other forms."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.small_runs.sources import ROUTERS, Scale, Sources, loss_at
from common.document import Table
from common.document.numbers import count, plain
from fit.diagnose import seed_noise
from fit.engine.solve import fit_law
from fit.laws import BILINEAR
from fit.runs import Runs, canonical

TEXTS = {"loss_validation": "held out", "loss_test": "test", "loss_bible": "Bible", "loss_code": "code"}
"""What the small runs are evaluated on."""

RATES = {"half-rate": 0.5, "": 1.0, "double-rate": 2.0}
"""Learning rates beside the grid's own, by the variants' names: times it."""


def paired_gains(ours: Scale) -> Table:
    """Dense loss less routed loss by seed, with the standard deviations of losses and of gains between seeds."""
    runs, noise = ours.runs, seed_noise(ours.runs.columns, ours.runs.loss)
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
    chosen = canonical(runs, router)
    data = {name: chosen.numeric(name) for name in BILINEAR.columns}
    found = fit_law(BILINEAR, data, np.asarray(chosen.columns[target], float))
    return plain(found.parameters["c"], 4)


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
        if name in ("watched", *RATES):
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
                cells = map(_by_seed, (dense, grid, own))
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


def rates(sources: Sources) -> Table:
    """The middle size at half and at twice the grid's learning rate: which router is best when each has its own best rate."""
    runs, n = sources.variants, sources.ours.sizes()[len(sources.ours.sizes()) // 2]
    rows: list[tuple[str, ...]] = []
    dense = float("nan")
    for router, e in (("Dense", 1.0), *((router, e) for e in (8.0, 64.0) for router in ROUTERS)):
        here = [runs.keep(runs["variant"] == name, name) if name else sources.ours.runs for name in RATES]
        held_out, test = (
            [loss_at(some, router, n, e, seed=0, target=f"loss_{split}") for some in here] for split in ("validation", "test")
        )
        chosen = test[int(np.argmin(held_out))]
        dense = chosen if router == "Dense" else dense
        gain = f"{dense - chosen:.3f}" if e > 1 else ""
        rows.append((f"{router}, E={e:g}" if e > 1 else router, *(f"{loss:.4f}" for loss in test), f"{chosen:.4f}", gain))
    note = f"Loss on the test split at N = {count(n)}, seed 0, by learning rate; then at the best rate of the held-out text, and the gain."
    return Table("Learning rates", ("model", *(f"{factor:g} x" for factor in RATES.values()), "best", "gain"), tuple(rows), note)


def steadiness(sources: Sources) -> Table:
    """Models whose learned choices stand from the first step, and HASH's whose choices drift, beside the grid's own."""
    changes = {"standing": "stand from the first step", "drifting": "drift as S-Base's do"}
    rows: list[tuple[str, ...]] = []
    for (change, router, n, e), gaps in _changes(sources).items():
        runs = sources.ours.runs
        hash_, grid = (_by_seed([loss_at(runs, name, n, e, seed=seed) for seed in gaps]) for name in ("Hash", router))
        own = _by_seed([loss_at(runs, router, n, e, seed=seed) + gap for seed, gap in gaps.items()])
        rows.append((f"{router}, {count(n)}, E={e:g}: {changes[change]}", hash_, grid, own, f"{np.mean(list(gaps.values())):+.3f}"))
    note = (
        "Loss on the test split by seed, from 0. Standing choices are those of the finished run of the same seed, with gates of 1; "
        "drifting ones are of a HASH table of which, every few steps, as many entries are redrawn as S-Base's choices change in that time."
    )
    heads = ("whose choices, and that they", "HASH", "grid's form", "so changed", "mean change")
    return Table("Choices that stand, and choices that drift", heads, tuple(rows), note)


def steadied(sources: Sources, change: str, router: str, e: float) -> str:
    """How much higher the loss is with choices so changed, by seed."""
    (gaps,) = (gaps for (*kind, experts), gaps in _changes(sources).items() if (kind[:2], experts) == ([change, router], e))
    return " and ".join(f"{gap:+.3f}" for gap in gaps.values())


def _changes(sources: Sources) -> dict[tuple[str, str, float, float], dict[float, float]]:
    """By change, router, N and E, and then by seed: how much higher the loss is."""
    labels = {router.lower(): router for router in ROUTERS}
    runs = sources.ours.runs
    found: dict[tuple[str, str, float, float], dict[float, float]] = {}
    for one in sources.standing["runs"]:
        n = float(runs["dense_parameter_count"][runs["model_size_label"] == one["size"]][0])
        kind = (one["change"], labels[one["router"]], n, float(one["experts"]))
        found.setdefault(kind, {})[float(one["seed"])] = one["changed"] - one["loss_test"]
    return found


def _by_seed(losses: Sequence[float]) -> str:
    return " ".join(f"{loss:.4f}" for loss in losses)
