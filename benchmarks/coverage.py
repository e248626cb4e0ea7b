"""Do 95 % intervals cover the truth 95 times in 100? A simulation on the real design, with a known truth.

    uv run python -m benchmarks.coverage --law bounded --reps 500 --draws 1000 --markdown docs/coverage.md

The truth is our fit of the law to the released runs, or a made one (`benchmarks.coverage_truth`); each repetition adds noise to it at
the same runs, fits the law, resamples, and asks of every interval whether the truth is inside. `--noise clustered` puts half of the
noise's variance into a shift that all runs of a model size share: what is left when a law's form in N is a little wrong. `--noise
uneven` has an SD that is five times as large at the smallest size as at the largest. Repetitions have seeds of their own and are
appended to a file as they end: a killed run goes on where it was, and the number of processes changes nothing.
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

import numpy as np
import tyro
from jaxtyping import Float

from benchmarks.common import RELEASE, ROOT, machine, save
from benchmarks.coverage_table import markdown_page, table, title
from benchmarks.coverage_truth import PLACES, Design, Noise, Truth, make_truth
from common.errors import InputError
from fit.diagnose import misfit
from fit.engine.solve import fit_law
from fit.errors import NotIdentifiedError
from fit.estimate import Estimate
from fit.laws import Law, law_named
from fit.quantities import cutoff, epc_quantity, has_cutoff, has_epc, log10_loss_quantity
from fit.uncertainty.delta import Quantity
from fit.uncertainty.draws import Scheme, resample
from fit.uncertainty.intervals import estimates, new_run_estimates
from fit.uncertainty.profile import profile_interval, profiled


@dataclass(frozen=True)
class Options:
    """Measured coverage of 95 % intervals."""

    law: tuple[str, ...] = ("bounded",)
    """The laws to simulate, each from its own fit."""
    reps: int = 500
    """Repetitions."""
    draws: int = 1000
    """Bootstrap draws of each."""
    schemes: tuple[Scheme, ...] = ("residuals", "wild", "pairs", "wild-clusters")
    """Resampling schemes; what `fit` does unasked is added to them."""
    noise: Noise = "independent"
    """Noise of each run alone, or with half its variance shared by the runs of a size, or with an SD that falls with the size."""
    design: Design = "release"
    """The released runs, a made design for law tokens (many runs, or few), or one for a law with published coefficients."""
    router: str = "S-Base"
    """The router whose runs are the released design."""
    curves: Path = RELEASE
    """The curves whose (N, E) and fit are the released design."""
    seed: int = 0
    """Seed of the first repetition's noise and draws; the others' follow from it."""
    profile: bool = False
    """Profile-likelihood intervals of the shape parameters too: slow."""
    processes: int = 2
    """Repetitions at a time."""
    folder: Path = field(default_factory=lambda: ROOT / "runs" / "coverage")
    """Where finished repetitions are kept; a later run goes on from them."""
    markdown: Path | None = None
    """A page to write with the tables of all simulations in the folder; those of the page that are not in the folder stay."""
    json: Path | None = None
    """A file for the figures."""


def quantities(law: Law, points: dict[str, Float[np.ndarray, "points"]]) -> tuple[list[str], Quantity]:
    """Names of everything asked for but new runs, and the quantity that gives it."""
    parts: list[tuple[list[str], Quantity]] = [(list(law.parameter_names), law.parameter_values)]
    if has_epc(law):
        parts.append(([f"EPC, {place}" for place in PLACES], epc_quantity(law, points)))
    if has_cutoff(law):
        # The logarithm, since under a law with a floor N_cutoff itself is beyond any float.
        parts.append((["N_cutoff"], lambda t, b: np.log10(cutoff(law, b))[:, None]))
    if law.name == "tokens":
        # N_opt ~ C^(b/(a + b)): what the law is fitted for.
        parts.append((["exponent of N_opt"], lambda t, b: t[..., 1:2] / t.sum(axis=-1, keepdims=True)))
    parts.append(([f"mean loss, {place}" for place in PLACES], log10_loss_quantity(law, points)))
    names = [name for part, _ in parts for name in part]
    return names, lambda t, b: np.concatenate([quantity(t, b) for _, quantity in parts], axis=-1)


def repetition(truth: Truth, options: Options, number: int) -> dict[str, object]:
    """One repetition: for every kind of interval, which of the quantities it covered, and how long it is."""
    law = truth.law
    names, quantity = quantities(law, truth.points)
    true = dict(zip(names, quantity(truth.theta[None], truth.beta[None])[0].tolist(), strict=True))
    generator = np.random.default_rng([options.seed, number])
    noise, new_noise = truth.noise(generator, options.noise)
    true |= dict(zip((f"new run, {place}" for place in PLACES), (10 ** (truth.log10_loss(truth.points) + new_noise)).tolist(), strict=True))
    try:
        fit = fit_law(law, truth.data, 10 ** (truth.log10_loss(truth.data) + noise))
    except NotIdentifiedError:
        return {"rep": number, "failed": True}
    default = misfit(fit, truth.sizes).scheme
    found: dict[str, dict[str, Estimate]] = {}
    lost: dict[str, int] = {}
    for scheme in dict.fromkeys((*options.schemes, default)):
        draws = resample(fit, scheme, options.draws, seed=1_000_003 * options.seed + number, clusters=truth.sizes)
        lost[scheme] = draws.failed
        shown = estimates(fit, draws, quantity, errors=False) + new_run_estimates(fit, draws, truth.points)
        found[scheme] = dict(zip(true, shown, strict=True))
    found = {"default": found[default], **{scheme: found[scheme] for scheme in options.schemes}}
    covered = {kind: {name: _inside(one, true[name]) for name, one in figures.items()} for kind, figures in found.items()}
    lengths = {kind: [_length(one) for one in figures.values()] for kind, figures in found.items()}
    if options.profile and law.shapes:
        ends = {name: profile_interval(fit, name) for name in profiled(law)}
        covered["profile"] = {name: bool(end.low <= true[name] <= end.high) for name, end in ends.items()}
    bounds = list(fit.certificate.at_bounds)
    return {
        "rep": number, "failed": False, "default": default, "bounds": bounds, "lost": lost, "covered": covered, "lengths": lengths
    }  # fmt: skip


def _inside(one: Estimate, value: float) -> bool | None:
    return bool(one.low <= value <= one.high) if one.low is not None and one.high is not None else None


def _length(one: Estimate) -> float | None:
    """To four digits, since only ratios of them are asked for."""
    return float(f"{one.high - one.low:.4g}") if one.low is not None and one.high is not None and np.isfinite(one.high - one.low) else None


@cache
def _truth(law: str, options: Options) -> Truth:
    return make_truth(law_named(law), options.design, options.router, options.curves)


def _work(law: str, options: Options, number: int) -> dict[str, object]:
    return repetition(_truth(law, options), options, number)


def simulate(law: str, options: Options) -> list[dict[str, object]]:
    """The repetitions of one law: those kept from before, and the rest now."""
    path = options.folder / f"{law}-{options.design}-{options.noise}.jsonl"
    header = _header(law, options)
    done = _kept(path, header)
    wanted = [number for number in range(options.reps) if number not in done]
    if wanted:
        with path.open("a") as file:
            for record in _progress(_computed(law, options, wanted), len(wanted), title(law, options.design, options.noise)):
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
    names = ("diagnose.py", *(f"uncertainty/{name}.py" for name in ("draws", "spread", "intervals", "distributions", "profile")))
    code = hashlib.sha256(b"".join((ROOT / "fit" / name).read_bytes() for name in names)).hexdigest()[:12]
    kept = ("draws", "noise", "design", "router", "seed", "profile")
    settings = {name: value for name, value in asdict(options).items() if name in kept}
    if options.design == "release":
        settings["curves"] = hashlib.sha256(options.curves.read_bytes()).hexdigest()[:12]
    return {"law": law, **settings, "schemes": list(options.schemes), "intervals": code}


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
        text, coverage = table(title(law, options.design, options.noise), options.draws, records)
        print(text)
        figures[law] = coverage
    if options.markdown:
        markdown_page(options.markdown, options.folder, machine())
    save(
        options.json, {"noise": options.noise, "design": options.design, "reps": options.reps, "draws": options.draws, "coverage": figures}
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except InputError as error:
        sys.exit(f"error: {error}")
