"""The tables of `benchmarks.coverage`: from finished repetitions to Markdown."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coverage_truth import TIMES
from common.files import write_atomically
from fit.diagnose import CLUSTERED
from fit.uncertainty import spread

LOW, HIGH = 93.0, 97.0
"""Coverage, in per cent, that a nominal 95 % interval is allowed."""

Coverage = dict[str, dict[str, float]]
"""Per cent covered, by kind of interval and quantity."""

_HEAD = """# Measured coverage of the intervals

How often a nominal 95 % interval holds the truth, by simulation with a known truth. Each repetition adds noise to the truth's losses,
fits the law anew, resamples, and looks whether the truth is inside. After each figure stands its Monte-Carlo standard error; cells outside
{low:.0f} to {high:.0f} % are **bold**.

- *Designs.* Where none is named: the released S-Base runs (for `dense` the dense ones, for `utilisation` those of every k and R), the
  truth our fit of the law to them, the noise as large as its residuals. `inside` is 130M/E=32, `edge` 1.3B/E=512, `10x beyond`
  13B/E=64 and `below` 5M/E=128. *Dense design*: 60 runs of law `tokens` with the constants of Hoffmann et al. (2022, Eq. 10), 12 sizes
  from 1e8 to 1e10, each at 2, 6, 20, 60 and 180 tokens a parameter, noise of 1 %. *Weak design*: 16 runs, 4 sizes from 1e8 to 1e9 by 4
  numbers of tokens from 1e10 to 1e11, noise of 2 %, so that L_0 ends at its bound in two fifths of the repetitions. `inside` is their
  middle, `edge` the largest N and D, `10x beyond` ten times those, and `below` 0.3 times the least. *Published design*: published
  coefficients on four sizes by six numbers of tokens (24 runs), by six of granularities, sparsities or experts where the law reads them
  (144 runs), noise of 0.5 %; `10x beyond` is ten times the largest size, all else at its end.
- *Noise.* Independent: of each run alone, by one spread. Clustered: half of its variance is a shift that all runs of a size share.
  Uneven: its SD is a power of N, {times:g} times as large at the smallest size as at the largest, and beyond them what it is there.
- *Intervals.* `mean loss` is the law's curve, `new run` one more run at that place. Intervals are percentiles of the draws of a
  resampling scheme (`residuals`, `wild`, `pairs`, `wild-clusters`); `profile` needs no draws. *length*: the median ratio to the intervals
  of resampled residuals.
- `default` is what `fit` does unasked, for one router: wild clusters where the residuals are clustered by size (F test between sizes, p
  below {clustered:g}, and over a fifth of the variance shared), else wild where their spread is uneven along a column (Koenker's test, p
  below {uneven:g}, and {wider:g} times wider at one end), else residuals.

How to choose: leave the default. Where you know that runs of a size share an error, take `--scheme wild-clusters`: on the released
design the test does not see it in a fifth of the repetitions and more. Six sizes are few: the mean loss at and beyond the ends of the
sizes stays at 88 to 93 % in place of 95. Where you know that the spread differs among runs, take `--scheme wild`: where it does not
differ, intervals from some 60 runs are 2 % longer and hold as often; from eight they hold 88 to 97 %. The default takes it by
mistake in 9 to 13 % of the repetitions with equal spread, which moves no cell by more than 1 %. Pairs hold under uneven noise too, but
not for new runs: `wild` alone gives these the spread of the place that is asked about. On the weak design, bounds and all,
intervals are too long rather than too short, but for new runs among those it has (91 to 93 %).

Sections without a column `wild` are older than that scheme: their default chose between clusters and residuals.

Made by `python -m benchmarks.coverage --law LAW --design DESIGN --noise NOISE --markdown docs/coverage.md` ({machine}).
"""


def coverage_of(records: Sequence[Mapping[str, Any]]) -> tuple[Coverage, int]:
    """Per cent covered, over the repetitions that could be fitted, and their number."""
    fitted = [record["covered"] for record in records if not record["failed"]]
    kinds = fitted[0]
    share: Coverage = {}
    for kind in kinds:
        of_kind = [one[kind] for one in fitted if kind in one]
        known = {name: [one[name] for one in of_kind if one[name] is not None] for name in kinds[kind]}
        share[kind] = {name: 100 * sum(values) / len(values) for name, values in known.items() if values}
    return share, len(fitted)


def title(law: str, design: str, noise: str) -> str:
    """A simulation's heading; the released runs' design is not named."""
    return f"{law}, {noise} noise" if design == "release" else f"{law}, {design} design, {noise} noise"


def table(heading: str, draws: int, records: Sequence[Mapping[str, Any]]) -> tuple[str, Coverage]:
    """A Markdown section for one simulation, and its figures."""
    share, count = coverage_of(records)
    kinds = list(share)
    lines = [
        f"\n## {heading}",
        f"\n{count} repetitions of {draws:,} draws{_failures(records)}.\n",
        "| | " + " | ".join(kinds) + " |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    lines += [f"| {name} | " + " | ".join(_cell(share[kind].get(name), count) for kind in kinds) + " |" for name in share[kinds[0]]]
    lines.append("| *cells within* | " + " | ".join(_within(share[kind]) for kind in kinds) + " |")
    lines.append("| *length* | " + " | ".join(_lengths(records, kind) for kind in kinds) + " |")
    return "\n".join(lines) + "\n", share


def _lengths(records: Sequence[Mapping[str, Any]], kind: str) -> str:
    """The median, over quantities, of the median ratio of an interval's length to that of resampled residuals in the same repetition."""
    both = [
        (one[kind], one["residuals"]) for record in records if not record["failed"] if {kind, "residuals"} <= set(one := record["lengths"])
    ]
    if not both:
        return ""
    rows = (np.array([[length or np.nan for length in row] for row in side], dtype=np.float64) for side in zip(*both, strict=True))
    own, other = rows
    ratios = own / other
    known = ratios[:, np.isfinite(ratios).any(axis=0)]
    return f"{np.median(np.nanmedian(known, axis=0)):.2f}" if known.size else ""


def _cell(value: float | None, count: int) -> str:
    if value is None:
        return ""
    error = (value * (100 - value) / count) ** 0.5
    text = f"{value:.1f} ±{error:.1f}"
    return text if LOW <= value <= HIGH else f"**{text}**"


def _within(values: Mapping[str, float]) -> str:
    inside = sum(LOW <= value <= HIGH for value in values.values())
    return f"{inside} of {len(values)}, {min(values.values()):.1f} to {max(values.values()):.1f}"


def _failures(records: Sequence[Mapping[str, Any]]) -> str:
    failed = sum(bool(record["failed"]) for record in records)
    lost: Counter[str] = Counter()
    for record in records:
        lost.update({} if record["failed"] else record["lost"])
    parts = [f"{failed} more could not be fitted"] if failed else []
    taken = Counter(record["default"] for record in records if not record["failed"])
    parts.append(f"the default took wild in {taken['wild']}, wild clusters in {taken['wild-clusters']}")
    bounds = Counter(name for record in records if not record["failed"] for name in record["bounds"])
    parts += [f"{name} ended at a bound in {many}" for name, many in sorted(bounds.items())]
    none = sum(value is None for record in records if not record["failed"] for one in record["covered"].values() for value in one.values())
    parts += [f"{none:,} intervals were not given (not identified, or too few draws)"] if none else []
    parts += [f"{many} draws of {scheme} not identified" for scheme, many in lost.items() if many]
    return "".join(f"; {part}" for part in parts)


def _summary(sections: Mapping[str, str]) -> str:
    """For each kind of noise, how many cells of all laws lie within, by kind of interval, most first."""
    lines = ["\nCells within, over all laws:\n"]
    inside: dict[str, Counter[str]] = {}
    cells: dict[str, Counter[str]] = {}
    for heading, text in sections.items():
        noise = heading.split(", ")[-1]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
        for row in (row for row in rows if "±" in "".join(row)):
            for kind, cell in zip(rows[0][1:], row[1:], strict=True):
                cells.setdefault(noise, Counter())[kind] += "±" in cell
                inside.setdefault(noise, Counter())[kind] += "±" in cell and "**" not in cell
    for noise, of_kind in sorted(cells.items()):
        order = sorted(of_kind, key=lambda kind: -inside[noise][kind] / of_kind[kind])
        lines.append(f"- {noise}: " + ", ".join(f"{kind} {inside[noise][kind]} of {of_kind[kind]}" for kind in order))
    return "\n".join(lines) + "\n"


def sections_of(page: str) -> dict[str, str]:
    """A page's sections by their headings."""
    parts = page.split("\n## ")[1:]
    return {part.partition("\n")[0]: f"\n## {part.rstrip()}\n" for part in parts}


def markdown_page(path: Path, folder: Path, machine: Mapping[str, object]) -> None:
    """Write the page of every finished simulation in `folder`; sections there of other simulations stay."""
    sections = sections_of(path.read_text()) if path.exists() else {}
    for file in folder.glob("*.jsonl"):
        first, *lines = file.read_text().splitlines()
        header, records = json.loads(first), [json.loads(line) for line in lines]
        if records:
            heading = title(header["law"], header["design"], header["noise"])
            sections[heading] = table(heading, header["draws"], records)[0]
    sections = dict(sorted(sections.items()))
    head = _HEAD.format(
        low=LOW, high=HIGH, times=TIMES, clustered=CLUSTERED, uneven=spread.UNEVEN, wider=spread.TIMES,
        machine=f"numpy {machine['numpy']}, {machine['processor']}",
    )  # fmt: skip
    write_atomically(path, "".join([head, _summary(sections), *sections.values()]))
    print(f"\nwritten: {path}")
