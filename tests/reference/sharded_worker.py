"""Trains tiny models on one device and on a mesh, and prints how far apart they come out, as JSON. `test_mesh.py` and
`test_multiprocess.py` run it in processes of their own, for the number of devices is fixed when JAX starts.

    python sharded_worker.py '{"x64": true, "cases": [{"technique": "s-base", "mesh": [2, 2, 2]}, ...]}'

prints one list, an entry per case, and then one for each of `evaluations`. `processes`, `rank` and `port` make it one of several.
"""

import dataclasses
import json
import math
import sys
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache, partial
from typing import Any, NamedTuple
from unittest.mock import patch

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree, install_import_hook

with install_import_hook("reference", "beartype.beartype"):
    from plan.hlo import Collectives, collectives
    from reference.config import ModelConfig, RouterConfig, Size
    from reference.dispatch import block_length
    from reference.mesh import make_mesh, parameter_specs
    from reference.objective import Report, objective
    from reference.routers import ROUTERS, Reinforce
    from training.optimizer import OptimizerConfig, make_optimizer, weight_specs
    from training.placing import batch_rows, place_batch
    from training.step import TrainState, init_state, state_specs, train_step

from tests.checks import HANG_SECONDS
from tests.reference.golden_models import routed
from tests.reference.small_models import decoded, draw

BATCH = 16
# An epsilon as large as the gradients: AdamW's usual one divides gradients that are nothing but rounding by themselves.
OPTIMIZER = make_optimizer(OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=1, steps=10, epsilon=1e-2, clip=0.5))


def place(tree: PyTree, specs: PyTree[P], mesh: Mesh) -> PyTree:
    """`tree` with each array placed on the mesh by its spec.

    With several processes, each must hold the same `tree`.
    """
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


class Case(NamedTuple):
    """One model. Two blocks, all of them routed if any is; dimensions that 8 devices divide along any axis."""

    technique: str
    k: int = 1
    sequences_per_group: int = 1
    dtype: str = "float64"
    granularity: int = 1
    shared_experts: int = 0
    unroll: int = 1
    attention: str = "plain"
    remat: str = "none"
    microbatches: int = 1
    fsdp: bool = False

    def config(self) -> ModelConfig:
        """Its configuration."""
        router = None
        if self.technique != "dense":
            technique = ROUTERS[self.technique]()
            if isinstance(technique, Reinforce):
                # Weights that make the policy's gradient as large as the others'.
                technique = dataclasses.replace(technique, policy_weight=1.0, baseline_weight=1.0)
            router = RouterConfig(
                technique,
                8,
                self.k,
                sequences_per_group=self.sequences_per_group,
                granularity=self.granularity,
                shared_experts=self.shared_experts,
            )
        forms: dict[str, Any] = {"dtype": self.dtype, "attention": self.attention, "remat": self.remat}
        return ModelConfig(Size(16, 2, 8, 2), router, 1.0, vocabulary=32, context=8, unroll=self.unroll, **forms)


class Outcome(NamedTuple):
    """What is compared."""

    first_moment: PyTree
    """The gradient of the first step, clipped, times 1 - beta1."""
    state: TrainState
    """After two steps."""
    training: Report
    evaluation: Report


def outcome(state: TrainState, tokens: Int[Array, "*microbatches batch context_and_one"]) -> tuple[Outcome, dict[str, Collectives]]:
    """Two steps, and an evaluation; and the collectives of a step."""
    key = jax.random.key(3)
    step = jax.jit(partial(train_step, optimizer=OPTIMIZER)).lower(state, tokens, key).compile()
    state, _ = step(state, tokens, key)
    moment = optimizer_moments(state)[0]
    state, training = step(state, tokens, key)
    held_out = tokens if tokens.ndim == 2 else tokens[0]
    _, evaluation = jax.jit(partial(objective, inference=True))(state.model, held_out)
    # A group of an evaluation is all that a device holds: what is counted by group differs from mesh to mesh.
    by_group = ("load_max_over_mean", "entropy")
    kept = {name: value for name, value in evaluation.metrics.items() if name not in by_group}
    losses = {name: value for name, value in evaluation.router_losses.items() if name != "balance"}
    evaluation = dataclasses.replace(evaluation, metrics=kept, router_losses=losses)
    return Outcome(moment, state, training, evaluation), collectives(step.as_text() or "")


def optimizer_moments(state: TrainState) -> tuple[PyTree, PyTree]:
    """AdamW's first and second moments."""
    optimizer_state: Any = state.optimizer_state
    return optimizer_state[1][0].mu, optimizer_state[1][0].nu


def tokens_of(config: ModelConfig) -> Int[np.ndarray, "batch context_and_one"]:
    """The same batch in every process."""
    return np.random.default_rng(0).integers(0, config.vocabulary, (BATCH, config.context + 1), dtype=np.int32)


@cache
def on_one_device(case: Case) -> tuple[TrainState, Outcome]:
    """The state before the first step, and what became of it; attention whole, and nothing computed again."""
    config = case._replace(attention="plain", remat="none").config()
    with jax.default_device(jax.local_devices()[0]):
        state = init_state(draw(config), OPTIMIZER)
        return state, jax.tree.map(np.asarray, outcome(state, in_parts(jax.numpy.asarray(tokens_of(config)), case))[0])


def on_mesh(case: Case, axes: list[int]) -> tuple[Outcome, dict[str, Collectives]]:
    """The same on a mesh; where attention is in chunks, the loss is too."""
    mesh, config = make_mesh(*axes), case.config()
    chunks = {"reference.config.QUERIES": 3, "reference.objective.LOGITS": 128} if case.attention == "chunked" else {}
    with ExitStack() as stack:
        state = on_one_device(case)[0]
        for name, value in chunks.items():
            stack.enter_context(patch(name, value))
        stack.enter_context(jax.set_mesh(mesh))
        # The same weights in a model with the case's own forms.
        like = jax.eval_shape(lambda: init_state(draw(config), OPTIMIZER))
        state = jax.tree.unflatten(jax.tree.structure(like), [np.asarray(leaf) for leaf in jax.tree.leaves(state)])
        state = place(state, state_specs(state, mesh, fsdp=case.fsdp), mesh)
        tokens = tokens_of(config)
        if case.microbatches == 1:
            return outcome(state, place_batch(tokens[batch_rows(mesh, BATCH)], mesh, BATCH))
        return outcome(state, jax.device_put(in_parts(tokens, case), NamedSharding(mesh, P(None, ("data", "expert"), None))))


def in_parts(tokens: Any, case: Case) -> Any:
    """A batch in the case's microbatches, if it has several."""
    return tokens if case.microbatches == 1 else tokens.reshape(case.microbatches, -1, tokens.shape[-1])


def distance(found: PyTree, expected: PyTree) -> float:
    """Largest difference of two entries, over all arrays, as a fraction of the array's largest entry; of this process's shards."""

    def _of_array(found: Array, expected: np.ndarray) -> float:
        scale = max(float(np.max(np.abs(expected), initial=0.0)), 1e-6)
        return max(float(np.max(np.abs(np.asarray(shard.data) - expected[shard.index]))) for shard in found.addressable_shards) / scale

    # Leaves, for models may differ in their forms.
    pairs = zip(*(jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (found, expected)), strict=True)
    return max(_of_array(*pair) for pair in pairs)


def moment_bytes(state: TrainState) -> list[int]:
    """Bytes of AdamW's moments on each of this process's devices, counted from the shards they hold."""
    held = dict.fromkeys(jax.local_devices(), 0)
    for array in jax.tree.leaves(optimizer_moments(state)):
        for shard in array.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return list(held.values())


def run(mesh: list[int], **options: Any) -> dict[str, Any]:
    """One case: how far the mesh is from one device."""
    case = Case(**options)
    expected = on_one_device(case)[1]
    found, moved = on_mesh(case, mesh)
    distances = {name: distance(getattr(found, name), getattr(expected, name)) for name in Outcome._fields}
    return {
        "distances": distances,
        "loss": float(expected.training.loss),
        "gradient": max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(expected.first_moment)),
        "moment_bytes": moment_bytes(found.state),
        "collectives": {kind: asdict(counts) for kind, counts in moved.items()},
    }


def evaluation(mesh: list[int], **options: Any) -> dict[str, Any]:
    """An evaluation of a vocabulary that no mesh divides, on very uneven text: most sequences repeat one token, so that all their tokens
    go to the same experts. How far the mesh is from one device, how many rounds it took, and what its program moves.

    Texts are read a token at a time, with `fsdp` from weights that are spread so.
    """
    case = Case(**options)
    config = dataclasses.replace(case.config(), vocabulary=29, vocabulary_multiple=16)
    model = draw(config)
    tokens = np.where(np.arange(BATCH)[:, None] < BATCH - 4, 3, tokens_of(config))
    first = np.arange(BATCH) % 2 * 3
    unknown = tokens.copy()
    unknown[5, 2] = config.vocabulary
    evaluate = jax.jit(partial(objective, inference=True))
    logits = jax.jit(lambda model, tokens: model(tokens[:, :-1], inference=True))
    with jax.default_device(jax.local_devices()[0]):
        expected = np.asarray(logits(model, tokens)[0]), evaluate(model, tokens)[1].loss
    on = make_mesh(*mesh)
    with jax.set_mesh(on):
        placed = place(jax.tree.map(np.asarray, model), parameter_specs(model), on)
        here, there = (place_batch(of, on, BATCH) for of in (tokens, unknown))
        program = evaluate.lower(placed, here).compile()
        found, routing = logits(placed, here)
        report = program(placed, here)[1]
        spread = place(jax.tree.map(np.asarray, model), weight_specs(model, on, fsdp=case.fsdp), on)
        step_by_step = jax.jit(decoded)(spread, here[:, :-1], first)
        not_numbers = np.isnan(np.asarray(logits(placed, there)[0])[..., : config.vocabulary])
    assert config.router is not None
    choices = config.router.k * routing.experts.shape[2]
    fullest = float(np.max(np.asarray(routing.load))) * choices
    return {
        "logits": float(np.max(np.abs(np.asarray(found) - expected[0]))),
        "decoded": max(
            float(np.max(np.abs(np.asarray(step_by_step)[row, : config.context - begin] - expected[0][row, begin:])))
            for row, begin in enumerate(first)
        ),
        "loss": abs(float(report.loss) - float(expected[1])),
        "dropped": float(np.max(np.asarray(report.dropped))),
        "rounds": math.ceil(fullest / (2 * block_length(choices, config.router.num_experts))),
        "nan": [int(b) for b in np.nonzero(not_numbers.all(axis=(1, 2)))[0]],
        "some_nan": [int(b) for b in np.nonzero(not_numbers.any(axis=(1, 2)))[0]],
        "expert_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(routed(model).experts)),
        "collectives": {kind: asdict(counts) for kind, counts in collectives(program.as_text() or "").items()},
    }


def main(request: dict[str, Any]) -> None:
    """Run the cases of `request` and print what they gave."""
    jax.config.update("jax_enable_x64", request["x64"])
    if "processes" in request:
        address = f"127.0.0.1:{request['port']}"
        jax.distributed.initialize(address, request["processes"], request["rank"], initialization_timeout=HANG_SECONDS)
    found = [run(**case) for case in request["cases"]]
    print(json.dumps(found + [evaluation(**case) for case in request.get("evaluations", [])]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
