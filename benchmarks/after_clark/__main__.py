"""Write `docs/after_clark.md`, its figures and its numbers.

uv run python -m benchmarks.after_clark [--curves ../shared/data/curves.csv.gz]
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.after_clark.later import FIXED, Later, later_laws
from benchmarks.after_clark.later import SIZES as LATER_SIZES
from benchmarks.after_clark.released import LAWS, SIZES, Released, own, released
from benchmarks.common import RELEASE, ROOT
from common.document.numbers import count, percent, plain
from common.files import write_atomically
from common.plots import ROUTERS as COLOURS
from common.plots import curve, edge, house_style, panels, sizes_along, to_svg
from fit.estimate import Estimate
from fit.gains import PATHS
from fit.literature import published
from fit.runs.schema import D, G, P
from golden import small_curves, small_tokens

TEMPLATE = Path(__file__).with_name("page.template.md")

OWN = ("tokens-experts", "bounded-tokens", "bounded-tokens-interaction", "saturating-tokens", "joint")
"""Laws in N, E and D that our own runs are asked about."""

LARGEST = 1.31e9
"""The largest released size."""


@dataclass(frozen=True)
class Options:
    """Where the runs are and the page goes."""

    curves: Path = RELEASE
    """The released curves."""
    runs: tuple[Path, ...] = (small_tokens(), small_curves())
    """Our runs of several lengths: those of seed 0, dense and S-BASE."""
    docs: Path = ROOT / "docs"
    """The folder of the page."""


@house_style()
def released_figure(rows: list[Released]) -> Figure:
    """EPC/N of 64 experts against size, a line for each law."""
    figure, (ax,) = panels(1, keys=7)
    for k, (row, colour) in enumerate(zip(rows, COLOURS, strict=False)):
        # Laws without an interaction lie on each other: the wider line shows below.
        curve(ax, SIZES, row.worth, SIZES <= LARGEST, color=colour, linewidth=2.6 - 0.4 * k)
    ax.set_ylim(1, 8)
    edge(ax, LARGEST)
    sizes_along(ax, "x", "dense size N")
    ax.set(title="64 experts, S-Base, 130B tokens", ylabel="worth, EPC/N")
    figure.legend(handles=_keys([row.law for row in rows], list(COLOURS)), loc="lower center", ncols=3)
    return figure


@house_style()
def later_figure(laws: list[Later]) -> Figure:
    """N̄/N_a of each published law, at fixed and at growing tokens."""
    figure, axes = panels(2, share_y=True, keys=7)
    colours = [COLOURS[k // 2] for k in range(len(laws))]
    widths = [1.0 + 0.9 * (k % 2) for k in range(len(laws))]
    for ax, growing in zip(axes, (False, True), strict=True):
        for law, colour, width in zip(laws, colours, widths, strict=True):
            worth = law.along(growing=growing)
            known = np.isnan(law.inside[1]) | ((law.inside[0] <= LATER_SIZES) & (law.inside[1] >= LATER_SIZES))
            curve(ax, LATER_SIZES, worth, known, color=colour, linewidth=width)
        ax.set(yscale="log", ylim=(1, 140), title="20 tokens a parameter" if growing else f"{count(FIXED)} tokens")
        ax.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        ax.minorticks_off()
        sizes_along(ax, "x", "active parameters N")
    axes[0].set_ylabel("worth, N̄/N")
    figure.legend(
        handles=_keys([f"{law.name.split()[0]}, {law.experts}" for law in laws], colours, widths), loc="lower center", ncols=3
    )  # fmt: skip
    return figure


def _keys(names: list[str], colours: list[str], widths: list[float] | None = None) -> list[Line2D]:
    drawn = zip(names, colours, widths or [1.6] * len(names), strict=False)
    return [Line2D([], [], color=colour, linewidth=width, label=name) for name, colour, width in drawn]


def _interval(one: Estimate, places: int) -> str:
    if one.low is None or one.high is None:
        return "(no interval)"
    return f"[{plain(one.low, places)}, {plain(one.high, places)}]"


def own_text(found: dict[str, dict[str, Estimate]], ranked: dict[str, float], runs: int) -> str:
    """A paragraph and a table: what experts are worth at the largest of our sizes over the smallest, by law and path of tokens."""
    lines = [
        f"{runs} models of 7 to 240 thousand parameters, dense and S-BASE with 2 to 64 experts, for 0.5, 1, 2 and 4 million",
        "bytes each (`golden/tokens.toml`). EPC/N at the largest size over that at the smallest, with 95 % intervals; 1 by the law's form",
        "where none is given; CRPS at held-out runs, a share of the loss:",
        "",
        "| law | CRPS | " + " | ".join(PATHS) + " |",
        "|---|---|" + "---|" * len(PATHS),
    ]
    for law, row in sorted(found.items(), key=lambda item: ranked.get(item[0], np.inf)):
        cells: list[str] = []
        for path in PATHS:
            one = row[path]
            constant = one.low is not None and one.high is not None and one.high - one.low < 1e-9
            cells.append("1" if constant else f"{plain(one.value, 2)} {_interval(one, 2)}")
        lines.append(f"| {law} | {percent(ranked[law]) if law in ranked else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def numbers(rows: list[Released], routers: dict[str, str], laws: list[Later]) -> dict[str, str]:
    """Every number of the page, by its name in the template."""
    by = {row.law: row for row in rows}
    paper, floor, both, best = (by[name] for name in ("bounded", "floor-interaction", "bounded-floor-interaction", "bounded-floor"))
    assert paper.cutoff is not None
    assert floor.c is not None
    assert both.c is not None
    assert both.cutoff is not None
    with_floor = [row for row in rows if row is not paper]
    worth, more = ([getattr(row, name).value for row in with_floor] for name in ("at_largest", "more"))
    joint = next(law for law in laws if law.experts == "E = 32")
    fine = published("granularity:E=64")
    at = {P: np.full(2, 1e9 * (8 * 64 + 4) / 12), D: np.full(2, 20e9), G: np.array([1.0, 16.0])}
    g1, g16 = fine.loss(at)
    cutoffs = [row.cutoff.low for row in (floor, both) if row.cutoff is not None and row.cutoff.low is not None]
    return {
        "c_floor": plain(floor.c.value, 4), "c_floor_interval": _interval(floor.c, 4), "c_both": plain(both.c.value, 4),
        "c_both_interval": _interval(both.c, 4), "cutoff_paper": count(paper.cutoff.value), "cutoff_floor": count(min(cutoffs), 2),
        "worth_paper": f"{plain(paper.at_largest.value, 2)} {_interval(paper.at_largest, 2)}",
        "worth_floor": f"{plain(min(worth), 1)} to {plain(max(worth), 1)}", "crps_floor": percent(best.held_out),
        "crps_paper": percent(paper.held_out), "more_paper": plain(paper.more.value, 2), "more_paper_interval": _interval(paper.more, 2),
        "more_floor": f"{plain(min(more), 1)} to {plain(max(more), 1)}",
        "router_floor": str(sum(routers[row.law] == "S-Base" for row in with_floor)),
        "joint_fixed_small": plain(joint.worth(1e8, FIXED), 1), "joint_fixed_large": plain(joint.worth(3e9, FIXED), 1),
        "joint_growing_small": plain(joint.worth(1e8, 2e9), 1), "joint_growing_large": plain(joint.worth(3e9, 6e10), 1),
        "g1_loss": plain(float(g1), 3), "g16_loss": plain(float(g16), 3), "g_gain": plain(float(g1 - g16), 3),
    }  # fmt: skip


def main(options: Options) -> None:
    """Compute, draw and write."""
    rows, routers = released(options.curves)
    laws = later_laws()
    found, analysis = own(options.runs, OWN)
    ranked = dict(analysis.ranking.scores) if analysis.ranking else {}
    given = {**numbers(rows, routers, laws), "own_text": own_text(found, ranked, analysis.results[0].fit.num_runs)}
    write_atomically(options.docs / "after_clark.md", TEMPLATE.read_text(encoding="utf-8").format(**given))
    for name, figure in (("released", released_figure(rows)), ("later", later_figure(laws))):
        write_atomically(options.docs / "figures" / f"after_clark_{name}.svg", to_svg(figure))
    record = {
        "numbers": {name: value for name, value in given.items() if name != "own_text"},
        "released": {row.law: {"n": SIZES.tolist(), "worth": row.worth.tolist()} for row in rows},
        "later": [
            {"law": law.name, "experts": law.experts, "n": LATER_SIZES.tolist(), "fixed": law.along(growing=False).tolist(),
             "growing": law.along(growing=True).tolist()} for law in laws
        ],
        "ranked": ranked,
        "own": {law: {path: [one.value, one.low, one.high] for path, one in row.items()} for law, row in found.items()},
    }  # fmt: skip
    write_atomically(options.docs / "after_clark.json", json.dumps(record, indent=1) + "\n")
    print(f"written: {options.docs / 'after_clark.md'}; laws of the released runs: {', '.join(LAWS)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
