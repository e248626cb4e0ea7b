"""The Transformer: its scan against a loop, one expert against the dense model, types, rematerialisation, the size of its program."""

import inspect
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from reference.config import REMATS, ModelConfig, Size
from reference.errors import ConfigError
from reference.feedforward import FeedForward
from reference.objective import objective
from reference.routed import RoutedFeedForward
from reference.routers import ROUTERS
from reference.transformer import Transformer
from tests.reference.small_models import CONTEXT, SIZE, draw, small, some_tokens


def _logits(model: Transformer, *, inference: bool, batch: int = 2) -> Float[Array, "batch context vocabulary"]:
    run = eqx.filter_jit(lambda model, tokens, key: model(tokens, key=key, inference=inference)[0])
    return run(model, some_tokens(batch), jax.random.key(0))


# Groups ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("period", "unroll"), [(1, 1), (2, 1), (3, 1), (2, 3)])
def test_the_scan_and_the_unrolled_groups_are_a_loop_over_the_groups(period: int, unroll: int) -> None:
    config = replace(small("switch", size=replace(SIZE, num_blocks=6), routing_frequency=1 / period), unroll=unroll)
    with jax.enable_x64(True):
        model = draw(replace(config, dtype="float64"))
        tokens = some_tokens(2)
        embed_and_run = eqx.filter_jit(
            lambda model: (model.embed(tokens), model.run_groups(model.embed(tokens), tokens, key=None, inference=False))
        )
        x, (scanned, routing) = embed_and_run(model)
        run_one = eqx.filter_jit(lambda group, x: group(x, tokens, None, False))
        for layer in range(6 // period):
            group = jax.tree.map(lambda w, layer=layer: w[layer] if eqx.is_array(w) else w, model.groups)
            x, of_layer = run_one(group, x)
            np.testing.assert_array_equal(of_layer.experts, routing.experts[layer])
        # The same operations, fused otherwise: float64 rounding.
        np.testing.assert_allclose(scanned, x, rtol=0, atol=1e-12)
    assert routing.experts.shape == (6 // period, 2, CONTEXT, 1)


@pytest.mark.parametrize("period", [1, 2, 3, 6])
def test_the_last_block_of_each_group_is_routed(period: int) -> None:
    config = small("s-base", size=replace(SIZE, num_blocks=6), routing_frequency=1 / period)
    model = eqx.filter_eval_shape(Transformer, config, key=jax.random.key(0))
    *before, last = (type(block.feedforward) for block in model.groups.blocks)
    assert before == [FeedForward] * (period - 1)
    assert last is RoutedFeedForward
    assert config.routed_layers == 6 // period
    assert {leaf.shape[0] for leaf in jax.tree.leaves(eqx.filter(model.groups, lambda leaf: hasattr(leaf, "shape")))} == {6 // period}


@pytest.fixture(scope="module")
def fresh() -> Transformer:
    """Three blocks of width 64 as they are drawn."""
    return eqx.filter_jit(Transformer)(small("dense", size=Size(64, 3, 1, 4), vocabulary=256), key=jax.random.key(0))


def test_no_two_blocks_start_from_the_same_weights(fresh: Transformer) -> None:
    queries = np.asarray(fresh.groups.blocks[0].attention.query)
    assert len(queries) == 3
    assert len(np.unique(queries)) > 0.99 * queries.size


def test_embeddings_are_drawn_and_read_at_the_scale_that_the_docstring_states(fresh: Transformer) -> None:
    # 64 * 256 normal numbers: five standard errors of their root mean square are 2.8 %.
    assert float(jnp.std(fresh.embedding)) == pytest.approx(0.02, rel=0.028)
    tokens = some_tokens(1)
    np.testing.assert_array_equal(fresh.embed(tokens), fresh.embedding[tokens])


@pytest.mark.parametrize("d_model", [32, 512])
def test_a_fresh_models_loss_is_log_v_at_any_width(d_model: int) -> None:
    config = small("dense", size=Size(d_model, 2, 2, d_model // 2))
    loss, _ = eqx.filter_jit(objective)(eqx.filter_jit(Transformer)(config, key=jax.random.key(0)), some_tokens(8, CONTEXT + 1))
    # Logits have a standard deviation of 0.02 sqrt(D), at most 0.45, and half its square, 0.1, is what they add to the loss; as much again
    # is left for the token just read, whose own embedding is part of what predicts. With embeddings of unit variance it was 5 and more.
    assert abs(float(loss) - np.log(config.vocabulary)) < 0.2


# One expert -----------------------------------------------------------------------------------------------------------------------


def _with_one_expert(config: ModelConfig, dense: Transformer) -> Transformer:
    """A routed model with the weights of a dense one; all blocks are routed."""
    (given,), (block,) = dense.groups.blocks, draw(config).groups.blocks
    assert isinstance(given.feedforward, FeedForward)
    assert isinstance(block.feedforward, RoutedFeedForward)
    matrices = (given.feedforward.w_in[:, None], given.feedforward.w_out[:, None])
    routed = eqx.tree_at(lambda f: (f.experts.w_in, f.experts.w_out), block.feedforward, matrices)
    groups = eqx.tree_at(lambda g: g.blocks[0].feedforward, dense.groups, routed)
    return eqx.tree_at(lambda m: (m.embedding, m.groups, m.final_norm), draw(config), (dense.embedding, groups, dense.final_norm))


@pytest.fixture(scope="module")
def dense_in_float64() -> tuple[Transformer, Float[Array, "batch context vocabulary"]]:
    with jax.enable_x64(True):
        model = draw(small("dense", dtype="float64"))
        return model, _logits(model, inference=True)


@pytest.mark.parametrize("inference", [False, True], ids=["training", "evaluation"])
@pytest.mark.parametrize("technique", [name for name in ROUTERS if name != "loss-free"])
def test_with_one_expert_every_technique_is_the_dense_model(
    technique: str, inference: bool, dense_in_float64: tuple[Transformer, Float[Array, "batch context vocabulary"]]
) -> None:
    dense, expected = dense_in_float64
    with jax.enable_x64(True):
        model = _with_one_expert(small(technique, num_experts=1, dtype="float64", routing_frequency=1.0), dense)
        # The same products, in training batched over the one expert: float64 rounding of logits of size three.
        np.testing.assert_allclose(_logits(model, inference=inference), expected, rtol=0, atol=1e-13)


# Evaluation -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("technique", ["dense", *ROUTERS])
def test_in_evaluation_a_sequence_does_not_depend_on_its_batch_nor_on_what_follows(technique: str) -> None:
    model = draw(small(technique, routing_frequency=1.0))
    run = eqx.filter_jit(lambda tokens: model(tokens, inference=True)[0])
    tokens = some_tokens(3)
    in_batch = run(tokens)
    others = tokens.at[jnp.array([0, 2])].set(some_tokens(2, seed=5))
    # The same program on the same numbers: every bit is the same.
    np.testing.assert_array_equal(run(others)[1], in_batch[1])
    # Another program, for one sequence of 7 tokens: float32 rounding of logits of size three.
    np.testing.assert_allclose(run(tokens[1:2, :7])[0], in_batch[1, :7], rtol=0, atol=1e-5)


def test_whether_it_is_training_or_evaluation_has_to_be_given() -> None:
    # Equinox's `inference_mode` sets a field, of which there is none: nobody may believe that it did anything.
    model = draw(small("s-base", routing_frequency=1.0))
    parameter = inspect.signature(Transformer.__call__).parameters["inference"]
    assert parameter.default is inspect.Parameter.empty
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    forgotten: dict[str, Any] = {}
    with pytest.raises(TypeError, match="inference"):
        eqx.nn.inference_mode(model)(some_tokens(1), **forgotten)


@pytest.mark.parametrize("changed", [{"capacity_factor": 2.0}, {"evaluation_capacity_factor": 1.0}, {"drop_order": "gate"}])
def test_layers_built_with_another_configuration_than_the_models_are_refused_in_a_line(changed: dict[str, Any]) -> None:
    model, other = draw(small("switch")), draw(small("switch", router=changed))
    mixed = eqx.tree_at(lambda model: model.groups, model, other.groups)
    with pytest.raises(ConfigError, match="were built with another RouterConfig than") as error:
        mixed(some_tokens(1), inference=True)
    assert "\n" not in str(error.value)
    # Layers of the same configuration may come from anywhere.
    same = eqx.tree_at(lambda model: model.groups, model, draw(small("switch"), seed=5).groups)
    eqx.filter_eval_shape(lambda model: model(some_tokens(1), inference=True), same)


# Types ----------------------------------------------------------------------------------------------------------------------------


def _value_and_gradients(config: ModelConfig, *, batch: int = 2) -> tuple[Float[Array, ""], PyTree]:
    """The objective and its gradient by every weight, in training."""
    weights, rest = eqx.partition(draw(config), eqx.is_inexact_array)
    tokens, key = some_tokens(batch, config.context + 1), jax.random.key(0)
    return jax.jit(jax.value_and_grad(lambda weights: objective(eqx.combine(weights, rest), tokens, key=key)[0]))(weights)


def _relative(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# Both experts are chosen for every token: rounding has nothing to decide but their gates.
BOTH_EXPERTS: dict[str, Any] = {"num_experts": 2, "k": 2, "router": {"capacity_factor": 2.0}, "routing_frequency": 1.0}


def test_activations_in_bfloat16_change_outputs_and_gradients_by_their_rounding() -> None:
    narrow, wide = (_value_and_gradients(small("switch", dtype=dtype, **BOTH_EXPERTS)) for dtype in ("bfloat16", "float32"))
    # A rounding to bfloat16 is 2^-9 of a number, 0.2 %; there are about ten along each of the four blocks, there and back: in quadrature
    # 0.2 % * sqrt(80) = 2 %, and three times that where terms cancel. The loss is a mean over 24 tokens, whose errors are independent.
    assert abs(float(narrow[0]) / float(wide[0]) - 1) < 0.005
    for found, expected in zip(jax.tree.leaves(narrow[1]), jax.tree.leaves(wide[1]), strict=True):
        assert found.dtype == jnp.float32
        assert 1e-4 < _relative(found, expected) < 0.06


def _traced(dtype: str) -> tuple[Any, PyTree]:
    """The gradient's program for activations of `dtype`, and the weights it is called with."""
    weights, rest = eqx.partition(draw(small("switch", dtype=dtype, **BOTH_EXPERTS)), eqx.is_inexact_array)
    tokens = some_tokens(2, CONTEXT + 1)
    gradient = jax.grad(lambda weights: objective(eqx.combine(weights, rest), tokens, key=jax.random.key(0))[0])
    return jax.jit(gradient).trace(weights), weights


def test_matrices_are_narrowed_before_the_scan_so_that_their_stacked_gradients_are_and_no_number_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (narrow, weights), (same, _) = _traced("bfloat16"), _traced("float32")
    monkeypatch.setattr("reference.transformer.narrowed", lambda blocks, dtype: blocks)
    (wide, _), (unchanged, _) = _traced("bfloat16"), _traced("float32")

    def _stacked(program: Any) -> set[str]:
        """Dtypes of the gradients of the experts' weights that the backward pass's scan stacks."""
        *_, backward = (equation for equation in program.jaxpr.eqns if equation.primitive.name == "scan")
        shapes = {weight.shape for weight in jax.tree.leaves(weights.groups.blocks[0].feedforward.experts)}
        return {str(out.aval.dtype) for out in backward.outvars if out.aval.shape in shapes}

    assert [_stacked(program) for program in (narrow, wide)] == [{"bfloat16"}, {"float32"}]
    # The products of the backward pass are rounded to bfloat16 in both, and what is converted back is the same.
    gradient, expected = (jax.tree.leaves(program.lower().compile()(weights)) for program in (narrow, wide))
    for found, exact in zip(gradient, expected, strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, exact)
    # In float32 it is the same program.
    assert str(same.jaxpr) == str(unchanged.jaxpr)


def test_logits_and_everything_of_the_routers_stay_in_float32() -> None:
    model = draw(small("rl-r", dtype="bfloat16"))
    key = jax.random.key(0)
    logits, routing = eqx.filter_eval_shape(lambda model: model(some_tokens(2), key=key, inference=False), model)
    assert logits.dtype == jnp.float32
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(routing) if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    assert dtypes == {jnp.dtype(jnp.float32)}
    x, _ = eqx.filter_eval_shape(
        lambda model: model.run_groups(model.embed(some_tokens(2)), some_tokens(2), key=key, inference=False), model
    )
    assert x.dtype == jnp.bfloat16


def test_logits_of_bfloat16_activations_are_sums_in_float32_of_their_products() -> None:
    model = draw(small("dense", dtype="bfloat16"))
    x = model.embed(some_tokens(2))
    found = eqx.filter_jit(lambda x: model.logits(x))(x)
    normal = np.asarray(eqx.filter_jit(model.final_norm)(x), np.float64)
    table = np.asarray(model.embedding.astype(jnp.bfloat16), np.float64)
    # A product of two bfloat16 numbers is exact in float32: what is rounded are sums of sixteen. Sums in bfloat16 would be off by 1e-2.
    np.testing.assert_allclose(found, normal @ table.T, rtol=0, atol=3e-6)


# Rematerialisation ----------------------------------------------------------------------------------------------------------------


def test_recomputing_activations_changes_no_loss_and_no_gradient() -> None:
    with jax.enable_x64(True):
        kept, *others = (_value_and_gradients(small("switch", dtype="float64", remat=remat, routing_frequency=1.0)) for remat in REMATS)
    for again in others:
        assert float(kept[0]) == pytest.approx(float(again[0]), rel=1e-14)
        for found, expected in zip(jax.tree.leaves(again[1]), jax.tree.leaves(kept[1]), strict=True):
            # The same operations, fused otherwise: float64 rounding.
            assert _relative(found, expected) < 1e-12


def _temporary_bytes(config: ModelConfig) -> int:
    weights, rest = eqx.partition(draw(config), eqx.is_inexact_array)
    tokens, key = some_tokens(2, config.context + 1), jax.random.key(0)
    step = jax.jit(jax.grad(lambda weights: objective(eqx.combine(weights, rest), tokens, key=key)[0]))
    analysis = step.lower(weights).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_recomputing_activations_saves_memory() -> None:
    deep = small("hash", size=replace(SIZE, num_blocks=6), context=64, routing_frequency=1.0)
    # Of six groups only their inputs are kept and one group's activations: about a sixth of it all, and what is
    # needed besides (gradients of the weights, logits).
    assert _temporary_bytes(replace(deep, remat="full")) < 0.5 * _temporary_bytes(deep)


# Depth ----------------------------------------------------------------------------------------------------------------------------


def _lines_of_program(config: ModelConfig) -> int:
    """Of the program that XLA is given for a loss and its gradients."""
    model = eqx.filter_eval_shape(Transformer, config, key=jax.random.key(0))
    weights, rest = eqx.partition(model, lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact))
    tokens = jax.ShapeDtypeStruct((2, CONTEXT + 1), jnp.int32)

    def _loss(weights: PyTree, rest: PyTree, tokens: Any, key: PRNGKeyArray) -> Float[Array, ""]:
        return objective(eqx.combine(weights, rest), tokens, key=key)[0]

    return len(jax.jit(jax.value_and_grad(_loss)).lower(weights, rest, tokens, jax.random.key(0)).as_text().splitlines())


@pytest.mark.parametrize("technique", ["dense", *ROUTERS])
def test_the_program_of_24_layers_is_as_long_as_that_of_6(technique: str) -> None:
    shallow, deep = (_lines_of_program(small(technique, size=replace(SIZE, num_blocks=blocks))) for blocks in (6, 24))
    assert deep == shallow
