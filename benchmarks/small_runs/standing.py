"""Whether it matters that a router's choices stand still: writes `golden/small_standing.json`.

    uv run --extra texts python -m benchmarks.small_runs.standing runs/small

Trains runs of `golden/grid.toml` anew, each from its own seed, on its own data in the same order, with one thing changed:

- learned choices that stand: who goes where is set by the finished run, a teacher that no longer changes, as evaluation would choose. An
  expert is then given the same tokens from its first step to its last, as HASH's are. The student's choices also carry what its teacher
  had learned, so a gain may be that too;
- HASH's choices that drift: its table is redrawn here and there every few steps, so that as many choices change in each interval as
  S-BASE's were seen to (`golden/small_variants.csv`). Nothing is learned in either case, so this has no such second reading.
"""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int, PRNGKeyArray

from benchmarks.common import ROOT, show
from common.errors import InputError
from common.files import write_atomically
from golden import small_variants
from reference.objective import Report
from reference.routed import RoutedFeedForward
from reference.routers import AbstractRouter, HashRouter, Routing
from reference.routers.balance import expert_load, load_metrics
from reference.transformer import Transformer
from training.cache import cache_folder
from training.evaluate import evaluate, sums_of
from training.host import keep_compiled, keep_freed_memory
from training.load import LoadedRun, load_run
from training.start import Setup, set_up
from training.step import TrainState, init_state, train_step
from training.text.prepare import prepare

Teacher = Callable[[Int[Array, "batch context"]], Routing]
"""The routing of a finished model, in evaluation."""

BetweenSteps = Callable[[Transformer, int], Transformer]
"""The model before a step, given as its number from 0."""

REDRAWN_EVERY = 25
"""Steps between two changes of a drifting table: a tenth of the interval at which S-BASE's choices were looked at."""


@dataclass(frozen=True)
class Arguments:
    """Choices that stand, and choices that drift."""

    runs: Annotated[Path, tyro.conf.Positional]
    """The folder of the sweep."""
    learned: tuple[str, ...] = ("60K-s-base-e8", "60K-s-base-e64", "60K-rl-r-e64")
    """Whose choices are to stand."""
    fixed: tuple[str, ...] = ("60K-hash-e64",)
    """Whose are to drift."""
    seeds: tuple[int, ...] = (0, 1)
    """Of the runs."""
    out: Path = field(default=ROOT / "golden" / "small_standing.json")


class TaughtRouter(AbstractRouter):
    """Chooses as a finished model does, with gates of 1: HASH, but for a table that reads the whole context."""

    teacher: Teacher = eqx.field(static=True)
    context: int = eqx.field(static=True)
    num_experts: int = eqx.field(static=True)

    def __call__(
        self, x: Float[Array, "tokens d_model"], token_id: Int[Array, "tokens"], *, key: PRNGKeyArray | None, inference: bool
    ) -> Routing:
        """Ask the teacher about the group's sequences; `x` gives nothing but its type."""
        experts = self.teacher(token_id.reshape(-1, self.context)).experts[-1].reshape(token_id.shape[0], -1)
        load = expert_load(experts, self.num_experts, x.dtype)
        return Routing(experts, jnp.ones(experts.shape, x.dtype), load, losses={}, metrics=load_metrics(load, jnp.zeros((), x.dtype)))


def main(arguments: Arguments) -> None:
    """Train every model, print, and write."""
    keep_compiled(cache_folder())
    keep_freed_memory()
    found: list[dict[str, Any]] = []
    for models, change in ((arguments.learned, standing), (arguments.fixed, drifting)):
        for folder in (arguments.runs / f"{model}-seed{seed}" for model in models for seed in arguments.seeds):
            run = load_run(folder)
            setup = set_up(run.config, *prepare(run.config.data, cache_folder()))
            changed = trained(setup, *change(setup, run), name=f"{folder.name}, {change.__name__}")
            options = run.config.model
            setting = {"router": options.router, "size": options.size, "experts": options.experts, "seed": run.config.run.seed}
            found.append(
                {**setting, "change": change.__name__, "loss_test": _test_loss(setup, run.model), "changed": _test_loss(setup, changed)}
            )
    show("Loss, nats per byte", list(found[0]), [[f"{x:.4f}" if isinstance(x, float) else str(x) for x in one.values()] for one in found])
    write_atomically(arguments.out, json.dumps({"runs": found}, indent=1) + "\n")


def standing(setup: Setup, run: LoadedRun) -> tuple[Transformer, BetweenSteps]:
    """A fresh model whose routed block, its last, as there is one, asks the finished run who goes where."""

    def _routing(tokens: Int[Array, "batch context"]) -> Routing:
        routing = run.model(tokens, inference=True)[1]
        assert routing is not None
        return routing

    model = fresh(setup)
    config = model.config
    assert config.router is not None
    assert config.routed_layers == 1
    router = TaughtRouter(_routing, config.context, config.router.num_experts)
    return eqx.tree_at(lambda model: model.groups.blocks[-1].feedforward.router, model, router), lambda model, step: model


def drifting(setup: Setup, run: LoadedRun) -> tuple[Transformer, BetweenSteps]:
    """A fresh HASH model whose table is redrawn as fast as S-BASE's choices change at 64 experts; seed: the run's."""
    assert setup.model.router is not None
    experts, seen = setup.model.router.num_experts, changes_seen()
    generator = np.random.default_rng(run.config.run.seed)

    def _redrawn(model: Transformer, step: int) -> Transformer:
        if step % REDRAWN_EVERY:
            return model
        # The first interval was not seen: it is taken to be as the second.
        fraction = next((changed for until, changed in seen if step < until), seen[-1][1])
        chance = redrawn(fraction, experts, parts=(seen[1][0] - seen[0][0]) // REDRAWN_EVERY)
        table = np.asarray(_table(model))
        drawn = generator.random(table.shape) < chance
        return eqx.tree_at(_table, model, jnp.asarray(np.where(drawn, generator.integers(experts, size=table.shape), table), table.dtype))

    return fresh(setup), _redrawn


def redrawn(fraction: float, experts: int, parts: int) -> float:
    """The chance of an entry to be redrawn at each of `parts` times so that a `fraction` of entries, below 1 - 1/E, is another in the end.

    An entry that was redrawn, once or more, is any of E: another one with a chance of 1 - 1/E.
    """
    return 1 - (1 - fraction / (1 - 1 / experts)) ** (1 / parts)


def _table(model: Transformer) -> Int[Array, "..."]:
    """HASH's, of all routed blocks."""
    feedforward = model.groups.blocks[-1].feedforward
    assert isinstance(feedforward, RoutedFeedForward)
    assert isinstance(feedforward.router, HashRouter)
    return feedforward.router.table


def changes_seen() -> list[tuple[int, float]]:
    """What fraction of S-BASE's choices changed, in the interval before each step."""
    with small_variants().open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"] == "watched" and row["router_type"] == "S-Base"]
    return [(int(row["step"]), float(row["router_changed"])) for row in rows if row["router_changed"]]


def fresh(setup: Setup) -> Transformer:
    """The model before its first step."""
    return jax.jit(lambda key: Transformer(setup.model, key=key))(jax.random.key(setup.config.run.seed))


def trained(setup: Setup, model: Transformer, between: BetweenSteps, name: str) -> Transformer:
    """`model` after the run's last step; `between` is asked before each."""
    key, steps = jax.random.key(setup.config.run.seed), setup.config.run.steps
    state = init_state(model, setup.optimizer)

    def _step(state: TrainState, tokens: Int[Array, "batch context_and_one"]) -> tuple[TrainState, Report]:
        return train_step(state, tokens, key, setup.optimizer)

    step = jax.jit(_step)
    for number in range(steps):
        state = eqx.tree_at(lambda state: state.model, state, between(state.model, number))
        state, report = step(state, next(setup.batches))
        if (number + 1) % 200 == 0:
            print(f"{name}: step {number + 1} of {steps}, loss {float(report.loss):.3f}", file=sys.stderr)
    return state.model


def _test_loss(setup: Setup, model: Transformer) -> float:
    """On the test split, as the run's last evaluation measured it."""
    return evaluate(setup.others["test"], partial(jax.jit(sums_of), model)).loss


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except InputError as error:
        sys.exit(f"error: {error}")
