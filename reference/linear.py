"""The product of tokens with a weight, which projections, feed-forwards and logits share."""

from jaxtyping import Array, Float

from reference.mesh import GROUPS, Axes, einsum, reshape


def linear(
    x: Float[Array, "batch context features"],
    weight: Float[Array, "features outputs"],
    *,
    within: Axes = None,
    out: Axes = None,
) -> Float[Array, "batch context outputs"]:
    """x W in the type of `x`. `within` is what the features are spread over, `out` what the outputs
    are.

    The product itself is one of two matrices, all tokens on one axis: were it of three axes, XLA on
    CPU would compute the weight's gradient from transposed copies of both factors, and a
    feed-forward's training took 1.7 times as long (`docs/LOG.md`).
    """
    batch, context, features = x.shape
    rows = reshape(x, (batch * context, features), out=(GROUPS, within))
    product = einsum("td,df->tf", rows, weight.astype(x.dtype), out=(GROUPS, out))
    return reshape(product, (batch, context, weight.shape[1]), out=(GROUPS, None, out))
