"""Every model that the command line accepts, lowered: a training step, an evaluation and a sampled token.

`python -m tests.training.ladder [PART PARTS]` lowers all of them, unroll, accumulate and remat in turn, and prints what fails.
"""

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from reference.config import REMATS, check_shape
from reference.decoding import decode, empty_cache
from reference.errors import ConfigError
from reference.mesh import BATCH, make_mesh
from reference.routers import ROUTERS
from reference.sizes import LADDER
from training.config import DataOptions, ModelOptions, TrainConfig
from training.evaluate import sums_of
from training.optimizer import make_optimizer
from training.start import state_shapes
from training.step import train_step

VOCABULARY = 257
"""Of bytes."""

EXPERTS = (1, 2, 8, 64, 128, 512)

SETTINGS = tuple(itertools.product((1, 2, 3, 4, 5), (1, 2), REMATS, ("plain", "chunked")))
"""unroll, accumulate, remat, attention: taken in turn."""


def accepted() -> Iterator[TrainConfig]:
    """Rung x {dense, routers} x R in {1, 1/2, least} x E, where such a model exists, each with the next of `SETTINGS`."""
    settings = itertools.cycle(SETTINGS)
    for size, router in itertools.product(LADDER, ("dense", *ROUTERS)):
        frequencies = dict.fromkeys((1.0, 0.5, 1 / LADDER[size].num_blocks))
        for frequency, experts in itertools.product(frequencies, EXPERTS) if router != "dense" else [(0.5, 8)] * 5:
            unroll, accumulate, remat, form = next(settings)
            model = ModelOptions(size, router, experts, routing_frequency=frequency, context=32, unroll=unroll, remat=remat, attention=form)
            config = TrainConfig(model, DataOptions(batch=4, accumulate=accumulate))
            try:
                config.model_config(VOCABULARY)
            except ConfigError:
                continue
            yield config


def lower(config: TrainConfig) -> None:
    """Lower the step, an evaluation batch, and the step of sampling one text, on shapes alone."""
    model, mesh = config.model_config(VOCABULARY), make_mesh(1, 1, 1, devices=jax.devices()[:1])
    optimizer, data = make_optimizer(config.optimizer), config.data
    micro = data.batch // data.accumulate
    check_shape(model, mesh.shape, micro)
    state, row = state_shapes(model, optimizer, mesh), (model.context + 1,)

    def _tokens(*leading: int) -> jax.ShapeDtypeStruct:
        layout = NamedSharding(mesh, P(*[None] * (len(leading) - 1), BATCH, None))
        return jax.ShapeDtypeStruct((*leading, *row), jnp.int32, sharding=layout)

    with jax.set_mesh(mesh):
        tokens = _tokens(data.batch) if data.accumulate == 1 else _tokens(data.accumulate, micro)
        jax.jit(partial(train_step, optimizer=optimizer)).lower(state, tokens, jax.random.key(0))
        jax.jit(sums_of).lower(state.model, _tokens(micro))
        one = jnp.zeros(1, jnp.int32)
        jax.jit(lambda model: decode(model, one, empty_cache(model, 1), one)).lower(state.model)


def one_of_each(configs: list[TrainConfig]) -> list[TrainConfig]:
    """A model of every technique, of sizes from the smallest to the largest; R, E and settings take turns, and no group has more than two
    blocks."""
    sizes = [list(LADDER)[i] for i in (0, 3, 6, 9, 12, -1)]
    shallow = [config for config in configs if config.model.routing_frequency >= 0.5]
    found = [
        [config for config in shallow if (config.model.size, config.model.router) == each]
        for each in zip(sizes, ("dense", *ROUTERS), strict=True)
    ]
    return [each[(5 * i) % len(each)] for i, each in enumerate(found)]


def main(part: int = 1, parts: int = 1) -> None:
    """Lower all, or every so many, and print what fails and how many there are."""
    configs, failed = list(accepted())[part - 1 :: parts], 0
    for i, config in enumerate(configs):
        try:
            lower(config)
        except Exception as error:
            failed += 1
            print(f"{config.model}, accumulate {config.data.accumulate}: {type(error).__name__} {str(error)[:200]}", flush=True)
        if i % 50 == 49:
            print(f"{i + 1} of {len(configs)}, {failed} failed", file=sys.stderr, flush=True)
        jax.clear_caches()
    count = Counter(config.model.router for config in configs)
    print(f"{len(configs)} models ({', '.join(f'{number} {router}' for router, number in count.items())}): {failed} failed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
