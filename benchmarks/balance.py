"""How evenly routers load experts, and what capacity drops: S-BASE beside greedy choice and the exact assignment, HASH's tables.

    uv run --group bench python -m benchmarks.balance --markdown docs/routers.md

S-BASE's plan with the repository's iteration and with two others written here: the plain one at temperature 1, and the one on exp(l)
without subtracting a maximum, which public code has. The exact assignment is SciPy's, with T/E columns for each expert. A figure is
the mean over `draws` draws of logits in float32.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int
from scipy.optimize import linear_sum_assignment

from benchmarks.common import save, show
from common.files import write_atomically
from reference.routers.hash import balanced_table, modulo_table, random_table
from reference.routers.sinkhorn_base import balanced_top_k, marginal_error, rounding, sinkhorn

FACTORS = (1.0, 1.25, 2.0)
"""Capacity factors at which drops are counted."""

Logits = Float[np.ndarray, "tokens experts"]
Potentials = tuple[Float[Array, "tokens"], Float[Array, "experts"]]
Plan = Callable[[Float[Array, "tokens experts"], int], Float[Array, "tokens experts"]]

LOGITS: dict[str, Callable[[np.random.Generator, int, int], Logits]] = {
    "normal": lambda draw, t, e: draw.standard_normal((t, e)),
    "normal, +2 on 4 experts": lambda draw, t, e: draw.standard_normal((t, e)) + 2.0 * (np.arange(e) < 4),
    "normal x 2": lambda draw, t, e: 2 * draw.standard_normal((t, e)),
    "normal x 4": lambda draw, t, e: 4 * draw.standard_normal((t, e)),
    "normal x 50": lambda draw, t, e: 50 * draw.standard_normal((t, e)),
    "normal x 1000": lambda draw, t, e: 1000 * draw.standard_normal((t, e)),
    "(normal, +2 on 4 experts) x 1000": lambda draw, t, e: 1000 * (draw.standard_normal((t, e)) + 2.0 * (np.arange(e) < 4)),
    "normal, +1000 on one expert": lambda draw, t, e: draw.standard_normal((t, e)) + 1000.0 * (np.arange(e) < 1),
    "equal tokens": lambda draw, t, e: np.tile(3 * draw.standard_normal((1, e)), (t, 1)),
}


@dataclass(frozen=True)
class Options:
    """Measured balance of the routers."""

    tokens: int = 2048
    """Tokens of a group."""
    experts: tuple[int, ...] = (64, 512)
    """Numbers of experts; each must divide `tokens`."""
    draws: int = 3
    """Draws of logits that a row is the mean of."""
    iterations: tuple[int, ...] = (5, 10, 20, 50)
    """Sinkhorn iterations to compare; all but one table have 10."""
    markdown: Path | None = None
    """Page to write the tables into, between the lines that say so."""
    json: Path | None = None
    """File to write the figures to."""


def plain_sinkhorn(logits: Float[Array, "tokens experts"], iterations: int) -> Float[Array, "tokens experts"]:
    """log Pi by the iteration at temperature 1 from the start."""
    tokens, experts = logits.shape
    f, g = jnp.zeros(tokens, logits.dtype), jnp.zeros(experts, logits.dtype)

    def _iterate(_: Int[Array, ""], fg: Potentials) -> Potentials:
        f = math.log(experts) - logsumexp(logits + fg[1], axis=1)
        return f, math.log(tokens) - logsumexp(logits + f[:, None], axis=0)

    f, g = jax.lax.fori_loop(0, iterations, _iterate, (f, g))
    return logits + f[:, None] + g - math.log(experts * tokens)


def sinkhorn_of_exponentials(logits: Float[Array, "tokens experts"], iterations: int) -> Float[Array, "tokens experts"]:
    """log Pi by the same iteration on exp(l) itself, as in public code."""
    tokens, experts = logits.shape
    kernel, v = jnp.exp(logits), jnp.ones(experts, logits.dtype)
    u = jnp.ones(tokens, logits.dtype)
    for _ in range(iterations):
        u = 1 / (tokens * (kernel @ v))
        v = 1 / (experts * (u @ kernel))
    return jnp.log(u[:, None] * kernel * v)


PLANS: dict[str, Plan] = {"warm start": sinkhorn, "plain": plain_sinkhorn, "on exp(l)": sinkhorn_of_exponentials}


@dataclass(frozen=True)
class Balance:
    """One choice of experts, or the mean over several."""

    max_over_mean: float
    """The fullest expert's load over the mean."""
    dropped: tuple[float, ...]
    """Fraction of tokens past capacity, by `FACTORS`."""
    cost: float
    """Mean over tokens of their largest logit less that of the expert they got, in nats."""
    marginal_error: float | None = None
    """Mass that the plan has in wrong rows, from 0 to 2; of a choice without a plan there is none."""

    def brief(self) -> str:
        """max/mean load, and the fraction dropped at capacity 1.25."""
        return f"{self.max_over_mean:.2f} ({100 * self.dropped[1]:.1f} %)"

    def cells(self) -> list[str]:
        """All figures."""
        drops = [f"{100 * fraction:.1f} %" for fraction in self.dropped]
        return [
            f"{self.max_over_mean:.2f}",
            *drops,
            f"{self.cost:.2f}",
            "" if self.marginal_error is None else f"{self.marginal_error:.1e}",
        ]


HEADS = ("max/mean", *(f"drops at {factor}" for factor in FACTORS), "cost, nats", "marginal error")


def balance(experts: Int[np.ndarray, "tokens"], logits: Logits, error: float | None = None) -> Balance:
    """Loads counted."""
    tokens, num_experts = logits.shape
    load = np.bincount(experts, minlength=num_experts)
    over = (np.maximum(load - math.ceil(factor * tokens / num_experts), 0).sum() / tokens for factor in FACTORS)
    cost = np.mean(logits.max(axis=1) - logits[np.arange(tokens), experts])
    return Balance(load.max() * num_experts / tokens, tuple(float(fraction) for fraction in over), float(cost), error)


def mean_balance(found: Sequence[Balance]) -> Balance:
    """The mean of each figure."""
    errors = [one.marginal_error for one in found if one.marginal_error is not None]
    dropped = tuple(float(np.mean(fractions)) for fractions in zip(*(one.dropped for one in found), strict=True))
    ratio, cost = float(np.mean([one.max_over_mean for one in found])), float(np.mean([one.cost for one in found]))
    return Balance(ratio, dropped, cost, float(np.mean(errors)) if errors else None)


def by_plan(name: str, logits: Logits, iterations: int) -> Balance:
    """S-BASE's choice from one of `PLANS`."""
    array = jnp.asarray(logits, jnp.float32)

    def _choose(logits: Float[Array, "tokens experts"]) -> tuple[Int[Array, "tokens k"], Float[Array, ""]]:
        log_plan = PLANS[name](logits, iterations)
        if name == "on exp(l)":
            return jnp.argmax(log_plan, axis=1, keepdims=True), marginal_error(log_plan)
        return balanced_top_k(log_plan, 1, rounding(logits)), marginal_error(log_plan)

    experts, error = jax.jit(_choose)(array)
    return balance(np.asarray(experts)[:, 0], logits, float(error))


def exact(logits: Logits) -> Balance:
    """The balanced assignment of greatest value (BASE, Lewis et al. 2021)."""
    share = logits.shape[0] // logits.shape[1]
    _, column = linear_sum_assignment(np.repeat(logits, share, axis=1), maximize=True)
    return balance(column // share, logits)


def greedy(logits: Logits) -> Balance:
    """Each token's largest logit."""
    return balance(logits.argmax(axis=1), logits)


def routers_table(options: Options, experts: int) -> dict[str, dict[str, Balance]]:
    """Logits, by name; for each, ways to choose, by name."""
    ways: dict[str, Callable[[Logits], Balance]] = {
        "greedy": greedy,
        "S-BASE": lambda logits: by_plan("warm start", logits, 10),
        "S-BASE, no warm start": lambda logits: by_plan("plain", logits, 10),
        "Sinkhorn on exp(l)": lambda logits: by_plan("on exp(l)", logits, 10),
        "exact assignment": exact,
    }
    return {kind: {way: _mean(options, experts, kind, choose) for way, choose in ways.items()} for kind in LOGITS}


def iterations_table(options: Options, experts: int) -> dict[str, dict[str, Balance]]:
    """Logits by scale; for each, plan and iterations, by name."""
    kinds = ("normal", "normal x 4", "normal x 50", "normal x 1000", "(normal, +2 on 4 experts) x 1000")
    ways = [(plan, n) for n in options.iterations for plan in ("warm start", "plain")]
    return {
        kind: {f"{n}, {plan}": _mean(options, experts, kind, lambda logits, plan=plan, n=n: by_plan(plan, logits, n)) for plan, n in ways}
        for kind in kinds
    }


def _mean(options: Options, experts: int, kind: str, choose: Callable[[Logits], Balance]) -> Balance:
    draws = (LOGITS[kind](np.random.default_rng(seed), options.tokens, experts) for seed in range(options.draws))
    return mean_balance([choose(logits) for logits in draws])


HASH_HEADS = ("E", "modulo", "random, 8 seeds", "balanced", "the commonest token alone")


def hash_table() -> list[list[str]]:
    """Rows: max/mean load of each table on a corpus of 32,000 token ids by Zipf's law."""
    vocabulary = 32_000
    counts = np.round(1e8 / np.arange(1, vocabulary + 1)).astype(np.int64)

    def _max_over_mean(table: Int[np.ndarray, "vocabulary k"], experts: int) -> float:
        load = np.bincount(table[:, 0], weights=counts, minlength=experts)
        return float(load.max() / load.mean())

    rows: list[list[str]] = []
    for experts in (8, 64, 512):
        by_chance = [_max_over_mean(random_table(vocabulary, experts, 1, seed=(0, layer)), experts) for layer in range(8)]
        ratios = [_max_over_mean(table, experts) for table in (modulo_table(vocabulary, experts, 1), balanced_table(counts, experts, 1))]
        rows.append(
            [
                str(experts),
                f"{ratios[0]:.3f}",
                f"{min(by_chance):.2f} to {max(by_chance):.2f}",
                f"{ratios[1]:.3f}",
                f"{experts * counts[0] / counts.sum():.3f}",
            ]
        )
    return rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def replace_between_marks(page: Path, text: str) -> None:
    """Put `text` where the page says that this command writes.

    Raises `ValueError` if the page does not say so.
    """
    before, start, rest = page.read_text().partition("<!-- made by benchmarks.balance -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise ValueError(f"{page} has no lines <!-- made by benchmarks.balance --> and <!-- end --> to write between")
    write_atomically(page, before + start + text + end + after)


Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, header and rows."""


def tables_of(options: Options, experts: int) -> tuple[list[Table], dict[str, object]]:
    """What is shown for one number of experts, and every figure behind it."""
    of = f"T = {options.tokens}, E = {experts}"
    choices, iterations = routers_table(options, experts), iterations_table(options, experts)
    tables: list[Table] = [
        _brief(f"Fullest expert over the mean, and dropped at capacity 1.25, after ten iterations, {of}", choices),
        (f"S-BASE, ten iterations, {of}", ("logits", *HEADS), [[kind, *ways["S-BASE"].cells()] for kind, ways in choices.items()]),
        _brief(f"The same by number of iterations, {of}", iterations),
    ]
    figures = {of: {kind: {way: asdict(row) for way, row in (choices[kind] | iterations.get(kind, {})).items()} for kind in choices}}
    return tables, dict(figures)


def _brief(title: str, found: dict[str, dict[str, Balance]]) -> Table:
    ways = next(iter(found.values()))
    return title, ("logits", *ways), [[kind, *(row.brief() for row in rows.values())] for kind, rows in found.items()]


def main(options: Options) -> None:
    """Measure, print, and write what is asked for."""
    tables: list[Table] = []
    figures: dict[str, object] = {"draws": options.draws}
    for experts in options.experts:
        more, of_experts = tables_of(options, experts)
        tables += more
        figures |= of_experts
    tables.append(("HASH, fullest expert over the mean, 32,000 token ids by Zipf's law", HASH_HEADS, hash_table()))
    for title, header, rows in tables:
        show(title, header, rows)
    if options.markdown:
        made = f"\nMade by `python -m benchmarks.balance --markdown {options.markdown}`, the mean of {options.draws} draws, float32.\n"
        written = (f"\n{title}:\n\n{markdown_table(header, rows)}" for title, header, rows in tables)
        replace_between_marks(options.markdown, made + "".join(written) + "\n")
    save(options.json, figures)


if __name__ == "__main__":
    main(tyro.cli(Options))
