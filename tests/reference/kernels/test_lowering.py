"""What the kernels lower to, for platforms that are not there; and what they keep and hold in memory."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from reference.attention import HEAD_OUTPUTS
from reference.kernels.relative_attention import Platform, fits, relative_attention
from reference.mesh import BATCH, DATA, EXPERT, HEADS, MODEL

BATCH_SIZE, NUM_HEADS, KQV = 4, 4, 64
# JAX asks which GPU it lowers for; the kernels ask nothing.
DEVICE = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
MESH = AbstractMesh((2, 1, 2), (DATA, EXPERT, MODEL), (AxisType.Explicit,) * 3, abstract_device=DEVICE)


def _operands(context: int, dtype: Any = jnp.bfloat16) -> list[jax.ShapeDtypeStruct]:
    """Query, key, value, position, document, sharded over `MESH`."""

    def _of(shape: tuple[int, ...], spec: P, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, spec))

    query = _of((BATCH_SIZE, NUM_HEADS, context, KQV), P(*HEADS), dtype)
    position = _of((2, NUM_HEADS, context, KQV), P(*HEADS), dtype)
    return [query, query, query, position, _of((BATCH_SIZE, context), P(BATCH, None), jnp.int32)]


def _gradients(*given: Any, **options: Any) -> Any:
    """Of the sum of squares, by query, key, value and position."""

    def _loss(*of: Any) -> Any:
        output = relative_attention(*of, document=given[4], **options)
        return jnp.sum(output.astype(jnp.float32) ** 2)

    return jax.grad(_loss, argnums=(0, 1, 2, 3))(*given[:4])


# Forward and backward; on a GPU the backward pass has three kernels.
@pytest.mark.parametrize(("lowered_for", "call", "kernels"), [("tpu", "tpu_custom_call", 2), ("cuda", "__gpu$xla.gpu.triton", 4)])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_forward_and_backward_passes_lower_to_kernels_and_no_sum_over_devices(
    lowered_for: str, call: str, kernels: int, dtype: Any
) -> None:
    with jax.sharding.use_abstract_mesh(MESH):
        traced = jax.jit(_gradients).trace(*_operands(100, dtype))
        text = traced.lower(lowering_platforms=(lowered_for,)).as_text()
    assert text.count(f"@{call}(") == kernels
    # Each device has a gradient of its own copy of the positions.
    assert text.count('"stablehlo.all_reduce"') == 0


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All of them, those inside kernels left out."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name != "pallas_call":
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "jaxpr")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def _largest(context: int, platform: Platform) -> int:
    """Entries of the largest array outside of the kernels."""
    with jax.sharding.use_abstract_mesh(MESH):
        jaxpr = jax.make_jaxpr(lambda *given: _gradients(*given, interpret=platform))(*_operands(context))
    arrays = [x.aval.size for equation in _equations(jaxpr.jaxpr) for x in equation.outvars]
    assert any(equation.primitive.name == "pallas_call" for equation in _equations(jaxpr.jaxpr))
    return max(arrays)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_no_array_outside_of_the_kernels_grows_with_the_square_of_the_context(platform: Platform) -> None:
    # Multiples of all blocks.
    short, long = (_largest(context, platform) for context in (1024, 4096))
    assert long == 4 * short
    assert short < BATCH_SIZE * NUM_HEADS * 1024**2


def _kernels(policy: Any) -> int:
    """Kernels in the gradient of attention that is computed again where `policy` does not keep it."""

    def _again(*given: Any) -> Any:
        attend = jax.checkpoint(lambda *of: relative_attention(*of, document=given[4]), policy=policy)
        return jax.grad(lambda *of: jnp.sum(attend(*of).astype(jnp.float32) ** 2), argnums=(0, 1, 2, 3))(*given[:4])

    with jax.sharding.use_abstract_mesh(MESH):
        lowered = jax.jit(_again).trace(*_operands(100)).lower(lowering_platforms=("tpu",))
    return lowered.as_text().count("@tpu_custom_call(")


def test_a_policy_can_keep_what_the_backward_pass_needs() -> None:
    policies = jax.checkpoint_policies
    assert _kernels(policies.nothing_saveable) == 3
    assert _kernels(policies.save_only_these_names(HEAD_OUTPUTS)) == 2


def test_what_does_not_fit_is_named() -> None:
    for kqv in (32, 64, 128):
        assert fits(kqv, 2048, jnp.bfloat16, "tpu") is None
        assert fits(kqv, 2048, jnp.bfloat16, "gpu") is None
    assert fits(128, 2048, jnp.float32, "tpu") is None
    assert fits(12, 64, jnp.float32, "tpu") is None
    assert "tpu and gpu" in str(fits(128, 2048, jnp.bfloat16, "cpu"))
    assert "float64" in str(fits(128, 2048, jnp.float64, "gpu"))
    assert "not 12" in str(fits(12, 64, jnp.float32, "gpu"))
    assert "85 MiB, of 60" in str(fits(128, 16384, jnp.bfloat16, "tpu"))
