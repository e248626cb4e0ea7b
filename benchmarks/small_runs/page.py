"""`docs/small_runs.md`: the words of `page.template.md`, with the figures, tables and numbers that `benchmarks.small_runs` computes.

In the template `{name}` is a number of `numbers`, `[[table NAME]]` one of the tables, `[[figure NAME: CAPTION]]` one of the figures. A name
that is none is an error, so that the page holds nothing that was not computed.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from benchmarks.small_runs import dense, routers, tables
from benchmarks.small_runs.figures import dense_by_size, gain_by_size
from benchmarks.small_runs.sources import ROUTERS, Scale, Sources
from common.document import Document, Figure, Section, Table
from common.document.numbers import count, listing, percent
from fit.analysis import PAPER_LAW
from fit.derived import Point
from fit.diagnose import seed_noise
from fit.laws import DENSE_FLOOR
from fit.report import cell
from fit.report.figures import loss_by_experts
from fit.runs import Runs

RELEASED_TOKENS = 250_000 * 256 * 2048
"""Tokens that every released run read (paper, section 4)."""

TEMPLATE = Path(__file__).with_name("page.template.md")


def page(sources: Sources) -> Document:
    """The page as a document: title, findings, sections."""
    title, *sections = TEMPLATE.read_text(encoding="utf-8").split("\n## ")
    heading, findings = title.split("\n\n", 1)
    curves = dense.curves(sources)
    given = numbers(sources, curves)
    filled = [" ".join(finding.split()).format(**given) for finding in findings.strip().removeprefix("- ").split("\n- ")]
    made, drawn = _tables(sources, curves), _figures(sources)

    def _block(text: str) -> str | Table | Figure:
        found = re.fullmatch(r"\[\[(table|figure) (\w+)(?:: (.*))?\]\]", text)
        if found is None:
            return text.format(**given)
        kind, name, caption = found.groups()
        return made[name] if kind == "table" else Figure(name, caption, drawn[name])

    def _section(text: str) -> Section:
        name, *blocks = (" ".join(block.split()) for block in text.strip().split("\n\n"))
        return Section(name, tuple(map(_block, blocks)))

    return Document(heading.removeprefix("# "), "", tuple(filled), (), tuple(map(_section, sections)))


def numbers(sources: Sources, curves: Sequence[dense.Curve]) -> dict[str, Any]:
    """What the template may name in braces."""
    ours = sources.ours
    tokens, sizes = float(ours.runs.numeric("tokens_seen").max()), ours.sizes()
    return {
        "ours": _of(ours),
        "release": _of(sources.release),
        "tokens": f"{tokens / 1e6:.3g}",
        "tokens_of_largest": f"{tokens / sizes[-1]:.0f}",
        "tokens_of_smallest": f"{tokens / sizes[0]:.0f}",
        **dense.numbers(sources, curves, tokens),
        "released_tokens": f"{RELEASED_TOKENS / 1e9:.0f}",
        "released_of_largest": f"{RELEASED_TOKENS / sources.release.sizes()[-1]:.0f}",
        "released_of_smallest": f"{RELEASED_TOKENS / sources.release.sizes()[0]:,.0f}",
        "hash_fullest": f"{routers.metric(ours, 'Hash', sizes[-1], 64.0, 'load_max_over_mean'):.0f}",
        "hash_dead": f"{routers.metric(ours, 'Hash', sizes[-1], 64.0, 'dead_experts'):.0f}",
        "s_base_gate": f"{routers.metric(ours, 'S-Base', sizes[-1], 64.0, 'gate'):.2f}",
        "init4_8": routers.against_grid(sources, "init-4", "S-Base", 8.0),
        "init4_64": routers.against_grid(sources, "init-4", "S-Base", 64.0),
        "no_policy": routers.against_grid(sources, "no-policy-gradient", "RL-R", 8.0),
        "bonus": routers.against_grid(sources, "entropy-bonus", "RL-R", 8.0),
        "stand8": routers.steadied(sources, "standing", "S-Base", 8.0),
        "stand64": routers.steadied(sources, "standing", "S-Base", 64.0),
        "stand64_rl_r": routers.steadied(sources, "standing", "RL-R", 64.0),
        "drift64": routers.steadied(sources, "drifting", "Hash", 64.0),
        "random_table": routers.against_grid(sources, "random-table", "Hash", 8.0),
    }


def _of(scale: Scale) -> SimpleNamespace:
    """The numbers of one set of runs."""
    sizes, power, floor = scale.sizes(), scale.dense(), scale.dense(DENSE_FLOOR.name)
    (fewer, of), ranking = tables.below_dense(scale), scale.analysis.ranking
    return SimpleNamespace(
        number=len(scale.runs),
        smallest=count(sizes[0]),
        next_largest=count(sizes[-2]),
        largest=count(sizes[-1]),
        below=f"{fewer} of {of}",
        wins8=_wins(scale, 8.0),
        wins64=_wins(scale, 64.0),
        alpha=cell(power.coefficients["alpha_N"]),
        dense_rmse=dense.off(power.fit),
        dense_floor_rmse=dense.off(floor.fit),
        floor=cell(floor.coefficients["L_0"]),
        floor_exponent=cell(floor.coefficients["a"]),
        noise=_noise(scale.runs),
        dense_noise=_noise(power.runs),
        quoted=scale.analysis.quoted,
        quoted_worth=tables.ratio(scale, "S-Base", Point(sizes[-1], 64.0), scale.analysis.quoted),
        best=listing(ranking.equal) if ranking else "none",
        cells=ranking.cells if ranking else 0,
        bounded=_largest(scale, PAPER_LAW),
        bounded_floor=_largest(scale, "bounded-floor"),
        e_max_spread=_spread(scale, "E_max"),
    )


def _largest(scale: Scale, law: str) -> SimpleNamespace:
    """How the law, fitted to the smaller sizes, predicts the largest: CRPS of ln loss, nats too low, and runs inside the intervals."""
    found = tables.largest_predicted(scale, law)
    if found is None or found.crps is None:
        return SimpleNamespace(off="nan", too_low="nan", covered="none")
    return SimpleNamespace(off=percent(found.crps), too_low=f"{-found.mean_error:.3f}", covered=f"{found.covered} of {found.runs}")


def _spread(scale: Scale, name: str) -> str:
    """Ratios of the ends of a parameter's intervals under Eq. 1, the least and the largest of the routers."""
    spreads = sorted(result.coefficients[name].spread for result in scale.analysis.of_law(PAPER_LAW))
    return f"{spreads[0]:.2g} to {spreads[-1]:.2g}"


def _noise(runs: Runs) -> str:
    """The standard deviation of ln loss between seeds."""
    found = seed_noise(runs.columns, runs.loss)
    return "nan" if found is None else percent(found.sd_log10 * np.log(10))


def _wins(scale: Scale, e: float) -> str:
    """Which router is first, at how many sizes."""
    found = {router: number for router, number in tables.wins(scale, e).items() if number}
    total = sum(found.values())
    return listing(f"{router} at {number} of {total} sizes" for router, number in found.items())


def _tables(sources: Sources, curves: Sequence[dense.Curve]) -> dict[str, Table]:
    ours, scales = sources.ours, sources.scales
    return {
        "losses": tables.losses(ours),
        "paired_gains": routers.paired_gains(ours),
        "coefficients": tables.coefficients(scales),
        "interactions": tables.interactions(scales),
        "worth8": tables.worth(scales, 8.0),
        "worth64": tables.worth(scales, 64.0),
        "metrics": routers.metrics(ours),
        "choices": routers.choices(sources),
        "drift": routers.drift(sources),
        "variants": routers.variants(sources),
        "texts": routers.texts(ours),
        "dense_tokens": dense.losses_by_tokens(sources),
        "dense_laws": dense.laws_by_tokens(curves),
        "rates": routers.rates(sources),
        "steadiness": routers.steadiness(sources),
        "predictions": tables.predictions(scales),
    }


def _figures(sources: Sources) -> dict[str, Callable[[], Drawing]]:
    bounded = [result for router in ROUTERS if (result := sources.ours.analysis.find(router, PAPER_LAW))]
    return {
        "small_dense": lambda: dense_by_size(sources.scales),
        "small_gain_by_size": lambda: gain_by_size(sources.scales),
        "small_by_experts": lambda: loss_by_experts(bounded),
    }
