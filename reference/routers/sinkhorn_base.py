"""S-BASE: balanced assignment by an entropic optimal-transport plan (paper, section 3).

Each token's expert is the largest entry of its row in the plan. For logits l = x W of the T tokens
of a group the plan is

    Pi_ij = exp(l_ij + f_i + g_j) / (E T),    rows sum to 1/T, columns to 1/E,

and Sinkhorn's iteration finds f and g. No gradient passes through it: W learns through the gate
softmax(l_i)[chosen]. In evaluation there is no plan: a token goes to its largest logit,
independently of other tokens.

Our choices, where the paper is silent:

- *Log space, a fixed number of iterations, the marginal error returned.* In linear space, logits of
  50 give NaN in float32.
- *A warm start.* Over the first half of the iterations, a temperature decreases geometrically from
  the spread of the logits to 1; it stays at 1 for the second half. With logits of scale 1000, four
  of 64 experts ahead by twice that, the fullest expert has 1.2 times the mean load after ten
  iterations, and 13 times without a warm start. The fixed point is the same, and for logits within
  a spread of 1 so is every iteration; in between, the warm start costs accuracy that does not show
  in the balance (docs/routers.md).
- *Round-robin tie-breaking.* Entries within rounding error of a row's largest count as ties, and
  token i takes the first of them in the cyclic order that starts at expert i mod E. Identical
  tokens have identical rows and would otherwise all choose one expert.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from reference.errors import Range, check_ranges
from reference.routers.balance import expert_load, load_metrics, mean_entropy, router_logits
from reference.routers.interface import AbstractRouter, RouterOptions, RouterShape, Routing, Table


@dataclass(frozen=True)
class SinkhornBase(RouterOptions):
    """S-BASE (paper, section 3): balanced assignment by entropic optimal transport."""

    name: ClassVar[str] = "s-base"
    release_name: ClassVar[str] = "S-Base"

    iterations: Annotated[int, Range(2, 1000)] = 10
    """Number of Sinkhorn iterations, fixed so that shapes are static.

    Our choice: for ordinary logits, 10 bring the marginals within 2e-7; for large ones see the
    module's docstring.
    """
    init_scale: Annotated[float, Range(0, more=True)] = 1.0
    """Standard deviation of the initial logits.

    Our choice, the usual value; 4 made small models worse (docs/small_runs.md).
    """

    def __post_init__(self) -> None:
        check_ranges(self, "S-BASE's ")

    def build(self, shape: RouterShape, key: PRNGKeyArray, table: Table) -> "SinkhornBaseRouter":
        """An S-BASE router."""
        return SinkhornBaseRouter(*shape, self, key=key)


class SinkhornBaseRouter(AbstractRouter):
    """`weight` maps to the experts' logits, without bias.

    It is normal with standard deviation `init_scale`/sqrt(D) (our choice).
    """

    weight: Float[Array, "d_model experts"]
    k: int = eqx.field(static=True)
    options: SinkhornBase = eqx.field(static=True)

    def __init__(
        self, d_model: int, num_experts: int, k: int, options: SinkhornBase, *, key: PRNGKeyArray
    ) -> None:
        self.weight = (
            options.init_scale * jax.random.normal(key, (d_model, num_experts)) / d_model**0.5
        )
        self.k = k
        self.options = options

    def __call__(
        self,
        x: Float[Array, "tokens d_model"],
        token_id: Int[Array, "tokens"],
        *,
        key: PRNGKeyArray | None,
        inference: bool,
    ) -> Routing:
        """Balanced choice in training, largest logits in evaluation; gate softmax(l)[chosen]."""
        logits = router_logits(x, self.weight)
        log_p = jax.nn.log_softmax(logits)
        if inference:
            experts, metrics = jax.lax.top_k(logits, self.k)[1], {}
        else:
            log_plan = sinkhorn(jax.lax.stop_gradient(logits), self.options.iterations)
            experts = balanced_top_k(log_plan, self.k, tolerance=rounding(logits))
            metrics = {"marginal_error": marginal_error(log_plan)}
        load = expert_load(experts, logits.shape[-1], logits.dtype)
        return Routing(
            experts=experts,
            gates=jnp.exp(jnp.take_along_axis(log_p, experts, axis=-1)),
            load=load,
            losses={},
            metrics=load_metrics(load, mean_entropy(log_p)) | metrics,
        )


def spread(logits: Float[Array, "tokens experts"]) -> Float[Array, ""]:
    """Range of the logits, at least 1; at this temperature any plan is nearly uniform."""
    return jnp.maximum(jnp.max(logits) - jnp.min(logits), 1)


def rounding(logits: Float[Array, "tokens experts"]) -> Float[Array, ""]:
    """Tolerance for ties in the log-plan.

    Each entry is a sum of a few numbers as large as the spread.
    """
    return 32 * jnp.finfo(logits.dtype).eps * spread(logits)


def sinkhorn(
    logits: Float[Array, "tokens experts"], iterations: int
) -> Float[Array, "tokens experts"]:
    """log Pi after `iterations` (at least 2) of Sinkhorn's algorithm in log space.

            f_i <- -tau log( (1/E) sum_j exp((l_ij + g_j) / tau) )
            g_j <- -tau log( (1/T) sum_i exp((l_ij + f_i) / tau) )

    where the temperature tau of iteration m is max(1, spread^(1 - 2m/iterations)). Columns sum to
    1/E up to rounding, rows approximately to 1/T.
    """
    tokens, num_experts = logits.shape
    exponents = 1 - 2 * jnp.arange(iterations, dtype=logits.dtype) / iterations
    temperatures = jnp.maximum(spread(logits) ** exponents, 1)

    def _iterate(
        g: Float[Array, "experts"], tau: Float[Array, ""]
    ) -> tuple[Float[Array, "experts"], Float[Array, "tokens"]]:
        scaled = (logits + g) / tau
        largest = jnp.max(scaled, axis=1)
        row = jnp.exp(scaled - largest[:, None])
        total = jnp.sum(row, axis=1)
        # Reuse the exponentials: exp((l_ij + f_i) / tau) = E row_ij / total_i exp(-g_j / tau).
        column = jnp.maximum(jnp.sum(row / total[:, None], axis=0), jnp.finfo(logits.dtype).tiny)
        f = -tau * (largest + jnp.log(total) - jnp.log(num_experts))
        return g - tau * (jnp.log(column) + jnp.log(num_experts) - jnp.log(tokens)), f

    g, f = jax.lax.scan(_iterate, jnp.zeros(num_experts, logits.dtype), temperatures)
    return logits + f[-1][:, None] + g - jnp.log(num_experts * tokens)


def marginal_error(log_plan: Float[Array, "tokens experts"]) -> Float[Array, ""]:
    """Misplaced mass: sum_i |sum_j Pi_ij - 1/T|, from 0 to 2."""
    return jnp.sum(jnp.abs(jnp.sum(jnp.exp(log_plan), axis=1) - 1 / log_plan.shape[0]))


def balanced_top_k(
    log_plan: Float[Array, "tokens experts"], k: int, tolerance: Float[Array, ""]
) -> Int[Array, "tokens k"]:
    """The k largest entries of each row, largest first.

    Entries within `tolerance` of the largest remaining one are ties, broken round-robin.
    """
    tokens, num_experts = log_plan.shape
    token = jnp.arange(tokens)
    turn = (jnp.arange(num_experts) - token[:, None]) % num_experts
    chosen: list[Int[Array, "tokens"]] = []
    for _ in range(k):
        tied = log_plan >= jnp.max(log_plan, axis=1, keepdims=True) - tolerance
        first = jnp.min(jnp.where(tied, turn, num_experts), axis=1)
        chosen.append((first + token) % num_experts)
        log_plan = jnp.where(jnp.arange(num_experts) == chosen[-1][:, None], -jnp.inf, log_plan)
    return jnp.stack(chosen, axis=1)
