"""A law with one of its ratios held, such as E_max = E_start/rho, which is neither a coefficient nor a shape of its own."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Inexact

from common.errors import InputError
from fit.laws.interface import Beta, Data, Law, Theta


@dataclass(frozen=True)
class _Held:
    """The functions and the link of a law without its shape `gone`, which is shape `over` divided by `value`."""

    law: Law
    name: str
    gone: int
    over: int
    value: float

    @property
    def num_shapes(self) -> int:
        """The link sees all the shape parameters that are left."""
        return len(self.law.shapes) - 1

    def whole(self, theta: Theta) -> Inexact[np.ndarray, "*batch all_shapes"]:
        """All shape parameters of the whole law."""
        kept = self.over if self.over < self.gone else self.over - 1
        return np.concatenate([theta[..., : self.gone], theta[..., kept : kept + 1] / self.value, theta[..., self.gone :]], axis=-1)

    def features(self, theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs features"]:
        """The whole law's features."""
        return self.law.features(self.whole(theta), data)

    def report(self, theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch parameters"]:
        """The whole law's parameters."""
        return self.law.parameter_values(self.whole(theta), beta)

    def bounds(self, data: Data, loss: Float[np.ndarray, "runs"]) -> tuple[tuple[float, float], ...]:
        """Bounds of the shapes that are left: `over` so that the one that is gone stays within its own.

        Raises `InputError` for a value that no two shapes within theirs have for a ratio (but for rounding).
        """
        limits = self.law.limits(data, loss)
        least, most = limits[self.over] / limits[self.gone][::-1]
        if not least * (1 - 1e-9) <= self.value <= most * (1 + 1e-9):
            raise InputError(
                f"{self.name} of law {self.law.name!r} lies from {least:.4g} to {most:.4g}, and cannot be held at {self.value:g}"
            )
        limits[self.over] = np.clip(limits[self.over], *(limits[self.gone] * self.value))
        return tuple((float(low), float(high)) for low, high in np.delete(limits, self.gone, axis=0))

    def of_loss(self, loss: Float[np.ndarray, "..."], theta: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The whole law's eta."""
        return self.law.link.of_loss(loss, self.whole(theta))

    def log10_loss(self, eta: Inexact[np.ndarray, "..."], theta: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
        """The whole law's loss."""
        return self.law.link.log10_loss(eta, self.whole(theta))


def hold(law: Law, name: str, value: float) -> Law:
    """The law with the ratio `name` held at `value` (in its reported unit), and one shape less to fit.

    It reports the same parameters, the held one among them. Raises `InputError` for a parameter that is not a ratio, and, once fitted, for
    a value outside its range.
    """
    if name not in law.ratios:
        raise InputError(f"law {law.name!r} has no ratio {name!r} to hold; it has: {', '.join(law.ratios) or 'none'}")
    over, gone = ([shape.name for shape in law.shapes].index(part) for part in law.ratios[name])
    held = _Held(law, name, gone, over, value)
    return replace(
        law,
        name=f"{law.name} at {name} = {value:g}",
        features=held.features,
        shapes=tuple(shape for k, shape in enumerate(law.shapes) if k != gone),
        link=held if law.link.num_shapes else law.link,
        parameters=law.parameter_names,
        report=held.report,
        bounds=held.bounds,
        ratios={},
    )
