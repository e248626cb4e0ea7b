"""The tables of `benchmarks.coverage`: from finished repetitions to Markdown."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import write_atomically

LOW, HIGH = 93.0, 97.0
"""Coverage, in per cent, that a nominal 95 % interval is allowed."""

Coverage = dict[str, dict[str, float]]
"""Per cent covered, by kind of interval and quantity."""

_HEAD = """# Measured coverage of the intervals

How often a nominal 95 % interval holds the truth, by simulation on the released runs' own design. The truth is a law's fit
to the S-Base runs (for `dense` the dense ones, for `utilisation` those of every k and R). Each repetition adds noise of the
fit's residual SD, fits the law anew, resamples, and looks whether the truth is inside. With *clustered* noise half of its
variance is a shift that all runs of a size share. After each figure stands its Monte-Carlo standard error; cells outside
{low:.0f} to {high:.0f} % are **bold**. `mean loss` is the law's curve, `new run` one more run at that place; `inside` is 130M/E=32,
`edge` 1.3B/E=512, `10x beyond` 13B/E=64 and `below` 5M/E=128. Intervals are percentiles of the draws of a
resampling scheme (`residuals`, `pairs`, `wild-clusters`); `profile` needs no draws. `default` is what `fit` does unasked: wild clusters
where the residuals are clustered by size (F test between sizes, p below 0.01, and over a fifth of the variance shared), else residuals.

How to choose: leave the default. Where you know that runs of a size share an error, take `--scheme wild-clusters`: on these designs the
test does not see it in a fifth of the repetitions and more. Six sizes are few: the mean loss at and beyond the ends of the sizes stays
at 88 to 93 % in place of 95.

Made by `python -m benchmarks.coverage --law LAW --noise NOISE --markdown docs/coverage.md` ({machine}).
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


def table(law: str, noise: str, records: Sequence[Mapping[str, Any]]) -> tuple[str, Coverage]:
    """A Markdown section for one law and noise, and its figures."""
    share, count = coverage_of(records)
    kinds = list(share)
    lines = [
        f"\n## {law}, {noise} noise",
        f"\n{count} repetitions{_failures(records)}.\n",
        "| | " + " | ".join(kinds) + " |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    lines += [f"| {name} | " + " | ".join(_cell(share[kind].get(name), count) for kind in kinds) + " |" for name in share[kinds[0]]]
    lines.append("| *cells within* | " + " | ".join(_within(share[kind]) for kind in kinds) + " |")
    return "\n".join(lines) + "\n", share


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
    wild = sum(record.get("default") == "wild-clusters" for record in records)
    parts.append(f"the default took wild clusters in {wild}")
    none = sum(value is None for record in records if not record["failed"] for one in record["covered"].values() for value in one.values())
    parts += [f"{none:,} intervals were not given (not identified, or too few draws)"] if none else []
    parts += [f"{many} draws of {scheme} not identified" for scheme, many in lost.items() if many]
    return "".join(f"; {part}" for part in parts)


def _summary(shares: Sequence[tuple[str, Coverage]]) -> str:
    """For each kind of noise, how many cells of all laws lie within, by kind of interval, most first."""
    lines = ["\nCells within, over all laws:\n"]
    for noise in dict.fromkeys(noise for noise, _ in shares):
        inside: Counter[str] = Counter()
        cells: Counter[str] = Counter()
        for _, share in (one for one in shares if one[0] == noise):
            for kind, values in share.items():
                inside[kind] += sum(LOW <= value <= HIGH for value in values.values())
                cells[kind] += len(values)
        order = sorted(cells, key=lambda kind: -inside[kind] / cells[kind])
        lines.append(f"- {noise} noise: " + ", ".join(f"{kind} {inside[kind]} of {cells[kind]}" for kind in order))
    return "\n".join(lines) + "\n"


def markdown_page(path: Path, folder: Path, machine: Mapping[str, object]) -> None:
    """Write the page of every finished simulation in `folder`."""
    sections: list[str] = []
    shares: list[tuple[str, Coverage]] = []
    for file in sorted(folder.glob("*.jsonl")):
        first, *lines = file.read_text().splitlines()
        header, records = json.loads(first), [json.loads(line) for line in lines]
        if records:
            text, share = table(header["law"], header["noise"], records)
            sections.append(text.replace(" repetitions", f" repetitions of {header['draws']:,} draws", 1))
            shares.append((header["noise"], share))
    head = _HEAD.format(low=LOW, high=HIGH, machine=f"numpy {machine['numpy']}, {machine['processor']}")
    write_atomically(path, "".join([head, _summary(shares), *sections]))
    print(f"\nwritten: {path}")
