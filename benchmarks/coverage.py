"""Do 95 % intervals cover the truth 95 times in 100? A simulation on the real design, with a known truth.

    uv run python -m benchmarks.coverage --law bounded --reps 500 --draws 1000 --markdown docs/coverage.md

The truth is our fit of the law to the released runs; each repetition adds noise to it at the same (N, E), with the fit's residual
SD, degrees of freedom accounted for, fits the law, resamples, and asks of every interval whether the truth is inside.
`--noise clustered` puts half of the noise's variance into a shift that all runs of a model size share: what is left when a law's
form in N is a little wrong. Repetitions have seeds of their own and are appended to a file as they end: a killed run goes on
where it was, and the number of processes changes nothing.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from jaxtyping import Float

from benchmarks.common import RELEASE, ROOT, machine, sample_for, save
from benchmarks.coverage_table import markdown_page, table
from common.errors import InputError
from fit.diagnose import misfit
from fit.engine.solve import Fit, fit_law
from fit.errors import NotIdentifiedError
from fit.estimate import Estimate
from fit.laws import Law, law_named
from fit.quantities import cutoff, effective_parameter_count, has_cutoff, has_epc
from fit.uncertainty.delta import Quantity
from fit.uncertainty.draws import Draws, Scheme, resample
from fit.uncertainty.intervals import estimates, new_run_estimates
from fit.uncertainty.profile import profile_interval, profiled

SHARED = 0.5
"""Part of the variance that runs of one size share when the noise is clustered."""

PLACES = {"inside": (1.3e8, 32, 1), "edge": (1.3e9, 512, 1), "10x beyond": (1.3e9, 64, 10), "below": (1.6e7, 128, 0.3)}
"""Where EPC and losses are asked for: the run nearest this (N, E), its size (and FLOPs) then times the last figure."""

SIZES = ("dense_parameter_count", "total_parameter_count", "flops_per_step")


@dataclass(frozen=True)
class Options:
    """Measured coverage of 95 % intervals."""

    law: tuple[str, ...] = ("bounded",)
    """The laws to simulate, each from its own fit."""
    reps: int = 500
    """Repetitions."""
    draws: int = 1000
    """Bootstrap draws of each."""
    schemes: tuple[Scheme, ...] = ("residuals", "pairs", "wild-clusters")
    """Resampling schemes."""
    noise: Literal["independent", "clustered"] = "independent"
    """Noise of each run alone, or with half its variance shared by the runs of a size."""
    router: str = "S-Base"
    """The router whose runs are the design."""
    design: Path = RELEASE
    """The curves whose (N, E) and fit are simulated."""
    seed: int = 0
    """Seed of the first repetition's noise and draws; the others' follow from it."""
    profile: bool = True
    """Profile-likelihood intervals of the shape parameters too."""
    processes: int = 2
    """Repetitions at a time."""
    folder: Path = field(default_factory=lambda: ROOT / "runs" / "coverage")
    """Where finished repetitions are kept; a later run goes on from them."""
    markdown: Path | None = None
    """A page to write with the tables of all laws and noises in the folder that were run with these repetitions and draws."""
    json: Path | None = None
    """A file for the figures."""


@dataclass(frozen=True)
class Truth:
    """What is simulated: a law's fit to the design, the noise's SD (log10), and the points that are asked about."""

    fit: Fit
    data: dict[str, Float[np.ndarray, "runs"]]
    sizes: Float[np.ndarray, "runs"]
    noise_sd: float
    points: dict[str, Float[np.ndarray, "points"]]
    point_sizes: Float[np.ndarray, "points"]

    @property
    def law(self) -> Law:
        """The law."""
        return self.fit.law


def make_truth(law: Law, options: Options) -> Truth:
    """The truth for one law."""
    data, loss = sample_for(law, options.router, options.design)
    fit = fit_law(law, data, loss)
    freedom = len(loss) - law.num_parameters
    picked = [_nearest(data, n, e) for n, e, _ in PLACES.values()]
    scale = np.array([times for _, _, times in PLACES.values()])
    points = {name: values[picked] * (scale if name in SIZES else 1.0) for name, values in data.items()}
    sizes = data["dense_parameter_count"]
    return Truth(fit, data, sizes, fit.rmse_log10 * (len(loss) / freedom) ** 0.5, points, points["dense_parameter_count"])


def _nearest(data: dict[str, Float[np.ndarray, "runs"]], n: float, e: float) -> int:
    """The run of the size nearest to `n` whose number of experts is nearest to `e`, on log scales."""
    distance = 10 * np.abs(np.log(data["dense_parameter_count"] / n)) + np.abs(np.log(data["num_experts"] / e))
    return int(np.argmin(distance))


def quantities(law: Law, points: dict[str, Float[np.ndarray, "points"]]) -> tuple[list[str], Quantity]:
    """Names of everything asked for but new runs, and the quantity that gives it."""
    parts: list[tuple[list[str], Quantity]] = [(list(law.parameter_names), law.parameter_values)]
    if has_epc(law):
        n, e = points["dense_parameter_count"], points["num_experts"]
        parts.append(([f"EPC, {place}" for place in PLACES], lambda t, b: effective_parameter_count(law, t, b, n, e)))
    if has_cutoff(law):
        # The logarithm, since under a law with a floor N_cutoff itself is beyond any float.
        parts.append((["N_cutoff"], lambda t, b: np.log10(cutoff(law, b))[:, None]))
    parts.append(([f"mean loss, {place}" for place in PLACES], lambda t, b: law.log10_loss(t, b, points)))
    names = [name for part, _ in parts for name in part]
    return names, lambda t, b: np.concatenate([quantity(t, b) for _, quantity in parts], axis=-1)


def _noise(truth: Truth, generator: np.random.Generator, clustered: bool) -> tuple[Float[np.ndarray, "runs"], Float[np.ndarray, "points"]]:
    """log10 noise of the runs, and of a new run at each point; where sizes share a shift, a point of a new size has a new one."""
    runs, points = generator.standard_normal(len(truth.sizes)), generator.standard_normal(len(truth.point_sizes))
    if clustered:
        distinct, place = np.unique(np.concatenate([truth.sizes, truth.point_sizes]), return_inverse=True)
        shift = generator.standard_normal(len(distinct))[place] * SHARED**0.5
        runs = shift[: len(runs)] + runs * (1 - SHARED) ** 0.5
        points = shift[len(runs) :] + points * (1 - SHARED) ** 0.5
    return runs * truth.noise_sd, points * truth.noise_sd


def repetition(truth: Truth, options: Options, number: int) -> dict[str, object]:
    """One repetition: for every kind of interval, which of the quantities it covered ("1" or "0"), and its width."""
    law = truth.law
    names, quantity = quantities(law, truth.points)
    true = quantity(truth.fit.theta[None], truth.fit.beta[None])[0]
    generator = np.random.default_rng([options.seed, number])
    noise, new_noise = _noise(truth, generator, options.noise == "clustered")
    new_runs = 10 ** (truth.fit.log10_loss(truth.points) + new_noise)
    try:
        fit = fit_law(law, truth.data, 10 ** (truth.fit.log10_loss(truth.data) + noise))
    except NotIdentifiedError:
        return {"rep": number, "failed": True}
    covered: dict[str, dict[str, bool | None]] = {}
    lost: dict[str, int] = {}
    for scheme in options.schemes:
        draws = resample(fit, scheme, options.draws, seed=1_000_003 * options.seed + number, clusters=truth.sizes)
        lost[scheme] = draws.failed
        covered[scheme] = _covered(truth, fit, draws, names, quantity, true, new_runs)
    # What `fit` does when it is not asked for a scheme.
    default = "wild-clusters" if misfit(fit, truth.sizes).clustered else "residuals"
    if default in covered:
        covered = {"default": covered[default], **covered}
    if options.profile and law.shapes:
        at = dict(zip(names, true.tolist(), strict=True))
        ends = {name: profile_interval(fit, name) for name in profiled(law)}
        covered["profile"] = {name: bool(end.low <= at[name] <= end.high) for name, end in ends.items()}
    return {"rep": number, "failed": False, "default": default, "lost": lost, "covered": covered}


def _covered(
    truth: Truth, fit: Fit, draws: Draws, names: list[str], quantity: Quantity, true: Float[np.ndarray, "quantities"],
    new_runs: Float[np.ndarray, "points"],
) -> dict[str, bool | None]:  # fmt: skip
    """Which intervals of one kind hold the truth; None where there is no interval."""
    found = estimates(fit, draws, quantity, errors=False)
    new = new_run_estimates(fit, draws, truth.points)
    return {
        **{name: _inside(one, float(value)) for name, one, value in zip(names, found, true, strict=True)},
        **{f"new run, {place}": _inside(one, float(value)) for place, one, value in zip(PLACES, new, new_runs, strict=True)},
    }


def _inside(one: Estimate, value: float) -> bool | None:
    return bool(one.low <= value <= one.high) if one.low is not None and one.high is not None else None


@cache
def _truth(law: str, options: Options) -> Truth:
    return make_truth(law_named(law), options)


def _work(law: str, options: Options, number: int) -> dict[str, object]:
    return repetition(_truth(law, options), options, number)


def simulate(law: str, options: Options) -> list[dict[str, object]]:
    """The repetitions of one law: those kept from before, and the rest now."""
    path = options.folder / f"{law}-{options.noise}.jsonl"
    header = _header(law, options)
    done = _kept(path, header)
    wanted = [number for number in range(options.reps) if number not in done]
    if wanted:
        with path.open("a") as file:
            for record in _progress(_computed(law, options, wanted), len(wanted), f"{law}, {options.noise} noise"):
                file.write(json.dumps(record) + "\n")
                file.flush()
                done[int(str(record["rep"]))] = record
    return [done[number] for number in range(options.reps)]


def _computed(law: str, options: Options, wanted: Sequence[int]) -> Iterator[dict[str, object]]:
    work = partial(_work, law, options)
    if options.processes == 1:
        yield from map(work, wanted)
        return
    # A fresh interpreter each, with one thread for its linear algebra: two processes would else fight over the cores.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        yield from pool.imap_unordered(work, wanted)


def _header(law: str, options: Options) -> dict[str, object]:
    """What a file's repetitions depend on: it is continued by the same options and the same code only."""
    names = ("draws.py", "intervals.py", "distributions.py", "profile.py")
    code = hashlib.sha256(b"".join((ROOT / "fit" / "uncertainty" / name).read_bytes() for name in names)).hexdigest()[:12]
    kept = ("draws", "schemes", "noise", "router", "seed", "profile")
    design = hashlib.sha256(options.design.read_bytes()).hexdigest()[:12]
    settings = {name: value for name, value in asdict(options).items() if name in kept}
    return {"law": law, **settings, "schemes": list(options.schemes), "design": design, "intervals": code}


def _kept(path: Path, header: dict[str, object]) -> dict[int, dict[str, object]]:
    """Finished repetitions by number. Raises `InputError` where they were made otherwise; starts the file where it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(header) + "\n")
        return {}
    first, *lines = path.read_text().splitlines()
    if (found := json.loads(first)) != header:
        differ = ", ".join(name for name in header if header[name] != found.get(name))
        raise InputError(f"{path}: made with other settings ({differ}); move it away, or choose another --folder")
    if lines and not lines[-1].endswith("}"):
        # Killed while writing: the half line goes.
        lines = lines[:-1]
        path.write_text("\n".join([first, *lines]) + "\n")
    records = [json.loads(line) for line in lines]
    return {record["rep"]: record for record in records}


def _progress(records: Iterator[dict[str, object]], total: int, what: str) -> Iterator[dict[str, object]]:
    """The same records, saying on standard error how far they are: often on a terminal, every 25 elsewhere."""
    start, terminal = time.monotonic(), sys.stderr.isatty()
    for done, record in enumerate(records, start=1):
        yield record
        if terminal or done % 25 == 0 or done == total:
            taken = time.monotonic() - start
            left = taken / done * (total - done)
            line = f"{what}: {done} of {total} repetitions, {taken:.0f} s, about {left:.0f} s left"
            print(f"\r{line}" if terminal else line, end="" if terminal and done < total else "\n", file=sys.stderr, flush=True)


def main(options: Options) -> None:
    """Simulate every law asked for, print its table, and write what was asked for."""
    figures: dict[str, object] = {}
    for law in options.law:
        records = simulate(law, options)
        text, coverage = table(law, options.noise, records)
        print(text)
        figures[law] = coverage
    if options.markdown:
        markdown_page(options.markdown, options.folder, machine())
    save(options.json, {"noise": options.noise, "reps": options.reps, "draws": options.draws, "coverage": figures})


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except InputError as error:
        sys.exit(f"error: {error}")
