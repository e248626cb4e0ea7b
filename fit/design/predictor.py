"""The laws that a design can be asked of: published ones and fitted ones, each with its architecture, its runs, and what it cannot say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from fit.causes import vary
from fit.design import architecture
from fit.design.architecture import Architecture
from fit.design.question import Question, flag
from fit.laws import Law
from fit.literature import PublishedLaw, published_all
from fit.quantities import outside
from fit.results import Result
from fit.runs.schema import A, C, D, E, G, K, N, P, U, short

KNOWN = frozenset({N, P, D, E, K, G, A, C, U})
"""Columns that a design says."""

CLARK_TOKENS = 130e9
"""Tokens of every run of the paper (section 4)."""

_PUBLISHED = {
    "joint": architecture.JOINT, "granularity:E=64": architecture.GRANULARITY, "granularity:dense": architecture.DENSE,
    "sparsity": architecture.SPARSITY, "tokens:Hoffmann": architecture.DENSE, "tokens:Besiroglu": architecture.DENSE,
    "dense": architecture.DENSE, **dict.fromkeys((f"bounded:{router}" for router in ("S-Base", "RL-R", "Hash")), architecture.ROUTED),
}  # fmt: skip

_LEFT_OUT = {
    "leverage": "predicts how many FLOPs experts save, not a loss",
    "tokens:Hoffmann, TeX": "the same fit as tokens:Hoffmann with more digits",
    "tokens:Liew, dense": "a row for upcycled models, of whose N we have no account",
    "tokens:Liew, 8 experts": "a row for upcycled models, of whose N we have no account",
}

DEFAULT = ("joint", "granularity:E=64", "sparsity", "tokens:Besiroglu")
"""The published laws that are asked unless others are named: every routed one with tokens, and the dense one beside them."""

RAY = "leads off the ray of compute-optimal models that its runs lie on, where it is not identified"


@dataclass(frozen=True, eq=False)
class Predictor:
    """A law at coefficients, with what it takes to design by it.

    `experts` and `tokens`: the only E and D that its coefficients speak of. `ranges` are those of its runs by column. `result` is its fit,
    with the draws that intervals are of; None for a published law, which has no interval.
    """

    name: str
    law: Law
    theta: Float[np.ndarray, "shapes"]
    beta: Float[np.ndarray, "features"]
    architecture: Architecture
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    experts: int | None = None
    tokens: float | None = None
    result: Result | None = None

    @property
    def dense(self) -> bool:
        """Whether it speaks of dense models alone."""
        return self.architecture is architecture.DENSE or self.experts == 1

    def refuses(self, question: Question) -> str:
        """Why this law cannot answer the question; empty where it can."""
        reads = set(self.law.columns)
        only = 1 if self.dense else self.experts
        if only is not None and question.experts not in (None, only):
            return f"holds at E = {only} alone, and --experts is {question.experts}"
        most, tokens = question.max_experts, question.tokens
        if only is not None and most is not None and most < only * (question.granularity or 1):
            return f"holds at E = {only} alone, and --max-experts is {most}; lift it {only / most:.3g} times"
        if (question.k or 1) > 1 and not {K, A} & reads:
            return f"its runs have k = 1, and --k is {question.k}"
        if (question.granularity or 1) > 1 and G not in reads:
            return f"its runs have G = 1, and --granularity is {question.granularity}"
        if U in reads and question.tokens is None:
            return "counts repeated tokens: say how many different ones there are with --tokens"
        if self.tokens is not None and tokens is not None and tokens < self.tokens:
            return f"holds at {self.tokens:.3g} tokens, and --tokens is {tokens:.3g}; lift it {self.tokens / tokens:.3g} times"
        return ""

    def flags(self, question: Question) -> list[str]:
        """What is known against its answer to this question."""
        found: list[str] = []
        if self.tokens is not None:
            found.append(f"reads no tokens: asked at the {self.tokens:.3g} of its runs, which the answer keeps")
        off = [
            flag(name) for name in (*question.limits, "lifetime_tokens") if name not in ("flops", "max_experts") and getattr(question, name)
        ]
        if self.name == "sparsity" and off:
            found.append(f"{', '.join(off)}: {RAY}")
        return found

    def outside(self, here: Mapping[str, float]) -> dict[str, float]:
        """How many times beyond the nearest of its runs each column is, for those that are."""
        return {short(name): times for name, times in outside(self.ranges, here).items()}


def of_published(one: PublishedLaw) -> Predictor | str:
    """A published law for designs, or why it is none."""
    if one.called not in _PUBLISHED:
        return _LEFT_OUT.get(one.called, "no architecture is known for its N")
    ranges = dict(one.row.ranges)
    only = ranges.get(E)
    fixed = int(only[0]) if only and only[0] == only[1] else None
    return Predictor(
        one.called, one.law, one.theta, one.beta, _PUBLISHED[one.called], ranges, fixed, None if D in one.law.columns else CLARK_TOKENS
    )


def of_result(result: Result) -> Predictor | str:
    """A fitted law for designs, or why it is none: our own runs are of `reference/`'s architecture."""
    law, runs = result.law, result.runs
    if not {N, P} & set(law.columns) or not set(law.columns) <= KNOWN or law.sizes:
        return f"reads {', '.join(law.columns)}, which a design does not determine"
    known = {name: runs.columns[name][np.isfinite(runs.columns[name])] for name in sorted(KNOWN) if runs.has(name)}
    ranges = {name: (float(values.min()), float(values.max())) for name, values in known.items() if len(values)}
    tokens = None
    if D not in law.columns:
        if D not in ranges:
            return "reads no tokens, and its runs do not say how many they have"
        if vary(known[D]):
            return "reads no tokens, and its runs are of several numbers of them; --law tokens-experts reads tokens"
        tokens = ranges[D][1]
    experts = None
    if E not in law.columns and A not in law.columns:
        several = E in ranges and ranges[E][0] != ranges[E][1] and not law.dense
        if several:
            return "does not tell numbers of experts apart, and its runs have several"
        experts = 1 if law.dense or E not in ranges else int(ranges[E][0])
    shape = architecture.DENSE if experts == 1 else architecture.ROUTED
    return Predictor(f"{law.name} ({result.router})", law, result.fit.theta, result.fit.beta, shape, ranges, experts, tokens, result)


def published_predictors(names: Iterable[str] = ()) -> tuple[list[Predictor], list[tuple[str, str]]]:
    """The published laws of these names (`joint`, `granularity:E=64`, a law for all its rows), and those that cannot design, and why.

    Without names those of `DEFAULT`; Clark's, which reads no tokens, is left out then with that reason.
    """
    asked = tuple(names)
    found, left_out = list[Predictor](), list[tuple[str, str]]()
    for one in published_all():
        if asked and not {one.called, one.law.name} & set(asked):
            continue
        made = of_published(one)
        if isinstance(made, str):
            left_out.append((one.called, made))
        elif asked or one.called in DEFAULT:
            found.append(made)
        elif made.tokens is not None:
            left_out.append(
                (one.called, f"reads no tokens: holds at {made.tokens:.3g} alone; --law {one.called.partition(':')[0]} asks it there")
            )
    named = {name for one in published_all() for name in (one.called, one.law.name)}
    if unknown := [name for name in asked if name not in named]:
        from common.errors import InputError

        raise InputError(f"no published law is called {unknown[0]!r}; there are: {', '.join(sorted(_PUBLISHED))}")
    return found, left_out
