"""A law with one of its ratios held, such as E_max = E_start/rho, which is neither a coefficient nor a shape of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Inexact

from common.errors import InputError
from fit.laws.interface import Beta, Data, Law, Link, Theta


def _restored(theta: Theta, law: Law, gone: int, over: int, value: float) -> Inexact[np.ndarray, "*batch all_shapes"]:
    """All shape parameters of the whole law: shape `gone` is shape `over` divided by `value`."""
    kept = over if over < gone else over - 1
    return np.concatenate([theta[..., :gone], theta[..., kept : kept + 1] / value, theta[..., gone:]], axis=-1)


@dataclass(frozen=True)
class _HeldLink:
    """A link that sees all shape parameters, under a law that has one less."""

    link: Link
    restore: Callable[[Theta], Inexact[np.ndarray, "*batch all_shapes"]]
    num_shapes: int

    def of_loss(self, loss: Float[np.ndarray, "..."], theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The whole law's eta."""
        return self.link.of_loss(loss, self.restore(theta))

    def log10_loss(self, eta: Inexact[np.ndarray, "..."], theta: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
        """The whole law's loss."""
        return self.link.log10_loss(eta, self.restore(theta))


def _features(
    theta: Theta, data: Data, law: Law, restore: Callable[[Theta], Inexact[np.ndarray, "*batch all_shapes"]]
) -> Inexact[np.ndarray, "*batch runs features"]:
    return law.features(restore(theta), data)


def _report(
    theta: Float[np.ndarray, "*batch shapes"], beta: Beta, law: Law, restore: Callable[[Theta], Inexact[np.ndarray, "*batch all_shapes"]]
) -> Float[np.ndarray, "*batch parameters"]:
    return law.parameter_values(restore(theta), beta)


def _bounds(data: Data, loss: Float[np.ndarray, "runs"], law: Law, gone: int, over: int, value: float) -> tuple[tuple[float, float], ...]:
    """Bounds of the shapes that are left: `over` so that the one that is gone stays within its own."""
    limits = law.limits(data, loss)
    low, high = limits[gone] * value
    limits[over] = np.clip(limits[over], low, high)
    return tuple((float(low), float(high)) for k, (low, high) in enumerate(limits) if k != gone)


def hold(law: Law, name: str, value: float) -> Law:
    """The law with the ratio `name` held at `value` (in its reported unit), and one shape less to fit.

    It reports the same parameters, the held one among them. Raises `InputError` for a parameter that is not a ratio.
    """
    if name not in law.ratios:
        raise InputError(f"law {law.name!r} has no ratio {name!r} to hold; it has: {', '.join(law.ratios) or 'none'}")
    shapes = [shape.name for shape in law.shapes]
    over, gone = (shapes.index(part) for part in law.ratios[name])
    restore = partial(_restored, law=law, gone=gone, over=over, value=value)
    left = tuple(shape for k, shape in enumerate(law.shapes) if k != gone)
    link = _HeldLink(law.link, restore, len(left)) if law.link.num_shapes else law.link
    return replace(
        law,
        name=f"{law.name} at {name} = {value:g}",
        features=partial(_features, law=law, restore=restore),
        shapes=left,
        link=link,
        parameters=law.parameter_names,
        report=partial(_report, law=law, restore=restore),
        bounds=partial(_bounds, law=law, gone=gone, over=over, value=value),
        ratios={},
    )
