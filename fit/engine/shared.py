"""One law fitted to several groups of runs together, such as routers, with some of its parameters shared between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Inexact

from common.errors import InputError
from fit.engine.losses import Loss
from fit.engine.solve import Fit, fit_law
from fit.laws.interface import Beta, Data, Law, Shape, Theta, stack_features

GROUP = "group"
"""The column that numbers each run's group, from 1."""

_RATIO = (1.1, 1e6)
"""Range of a shared ratio that is searched."""


@dataclass(frozen=True)
class _Joint:
    """The functions of the joint law: where each group's shapes and coefficients are among its own.

    `shape_of` says which of the group's shapes each of the joint law's is; `ratio` is a shared one: (over, under, its place).
    """

    law: Law
    shapes: Sequence[Sequence[int]]
    coefficients: Sequence[Sequence[int]]
    shape_of: Sequence[int]
    ratio: tuple[int, int, int] | None

    def theta(self, theta: Theta, group: int) -> Inexact[np.ndarray, "*batch own_shapes"]:
        """The shape parameters of one group."""
        own = theta[..., list(self.shapes[group])]
        if self.ratio is not None:
            over, under, place = self.ratio
            own[..., over] = own[..., under] * theta[..., place]
        return own

    def features(self, theta: Theta, data: Data) -> Inexact[np.ndarray, "*batch runs features"]:
        """Each group's features for its own runs, zero for the others'."""
        columns: list[Inexact[np.ndarray, "..."]] = [np.zeros(1) for _ in range(1 + max(map(max, self.coefficients)))]
        for group, places in enumerate(self.coefficients):
            here = np.real(data[GROUP]) == group + 1
            own = self.law.features(self.theta(theta, group), data)
            for j, place in enumerate(places):
                columns[place] = columns[place] + np.where(here, own[..., j], 0.0)
        return stack_features(theta, tuple(columns))

    def report(self, theta: Float[np.ndarray, "*batch shapes"], beta: Beta) -> Float[np.ndarray, "*batch parameters"]:
        """The parameters of every group."""
        groups = enumerate(self.coefficients)
        return np.concatenate([self.law.parameter_values(self.theta(theta, g), beta[..., list(own)]) for g, own in groups], axis=-1)

    def bounds(self, data: Data, loss: Float[np.ndarray, "runs"]) -> tuple[tuple[float, float], ...]:
        """Each shape's own, and a wide range for a shared ratio."""
        limits = self.law.limits(data, loss)[list(self.shape_of)]
        if self.ratio is not None:
            limits[self.ratio[2]] = _RATIO
        return tuple((float(low), float(high)) for low, high in limits)


def shared_law(law: Law, groups: Sequence[str], shared: Sequence[str]) -> Law:
    """The joint law of these groups. `shared` names coefficients, shape parameters, or one ratio such as E_max.

    It reads the column `group` besides, and reports every parameter of every group, `a[S-Base]`. Raises `InputError` for other names, and
    for a law whose link reads a shape (a floor) that is not shared.
    """
    names = [shape.name for shape in law.shapes]
    ratios = [name for name in shared if name in law.ratios]
    unknown = [name for name in shared if name not in (*law.coefficients, *names, *law.ratios)]
    apart = [name for name in names[: law.link.num_shapes] if name not in shared]
    if unknown or len(ratios) > 1 or apart:
        what = f"has no {', '.join(unknown)}" if unknown else f"needs {', '.join(apart)} shared" if apart else "can share one ratio"
        raise InputError(f"law {law.name!r} {what}; it can share: {', '.join((*law.coefficients, *names, *law.ratios))}")
    over = law.ratios[ratios[0]][0] if ratios else ""
    taken: list[int] = []
    shapes: list[Shape] = []
    places: list[list[int]] = [[] for _ in groups]
    for k, shape in enumerate(law.shapes):
        for g, group in enumerate(groups):
            if g == 0 or (shape.name not in shared and shape.name != over):
                taken.append(k)
                shapes.append(replace(shape, name=shape.name if shape.name in shared or shape.name == over else f"{shape.name}[{group}]"))
            places[g].append(len(shapes) - 1)
    ratio = None
    if ratios:
        # The shape above the fraction line is the ratio times the one below it; its own place is of no use, so it becomes the ratio's.
        place = names.index(over)
        ratio = place, names.index(law.ratios[ratios[0]][1]), places[0][place]
        shapes[places[0][place]] = Shape(ratios[0], *_RATIO, points=14)
    columns: list[list[int]] = [[] for _ in groups]
    labels: list[str] = []
    for name in law.coefficients:
        for g, group in enumerate(groups):
            if g == 0 or name not in shared:
                labels.append(name if name in shared else f"{name}[{group}]")
            columns[g].append(len(labels) - 1)
    joint = _Joint(law, places, columns, taken, ratio)
    return replace(
        law,
        name=f"{law.name}, {', '.join(shared)} shared",
        columns=(*law.columns, GROUP),
        coefficients=tuple(labels),
        features=joint.features,
        shapes=tuple(shapes),
        parameters=tuple(f"{name}[{group}]" for group in groups for name in law.parameter_names),
        report=joint.report,
        bounds=joint.bounds,
        nonnegative=tuple(label for label in labels if label.partition("[")[0] in law.nonnegative),
        signs={}, units={}, ratios={}, roles=None, published=(),
    )  # fmt: skip


def fit_shared(
    law: Law,
    groups: Mapping[str, tuple[Mapping[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]],
    shared: Sequence[str],
    objective: Loss | None = None,
    *,
    unbounded: bool = False,
) -> Fit:
    """Fit `law` to several groups at once, each its columns and losses, with the `shared` parameters the same in all.

    The fit's parameters are those of every group, `b[Hash]`; its certificate and degrees of freedom are the joint fit's.
    """
    codes = np.concatenate([np.full(len(loss), float(k)) for k, (_, loss) in enumerate(groups.values(), start=1)])
    data = {name: np.concatenate([columns[name] for columns, _ in groups.values()]) for name in law.columns}
    losses = np.concatenate([loss for _, loss in groups.values()])
    return fit_law(shared_law(law, list(groups), shared), {**data, GROUP: codes}, losses, objective, unbounded=unbounded)
