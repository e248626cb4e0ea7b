"""One law fitted to several groups of runs together, such as routers, with some of its parameters shared between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Inexact

from common.errors import InputError
from fit.engine.losses import Loss
from fit.engine.solve import Fit, fit_law
from fit.laws.interface import Beta, Data, Law, Shape, Theta, stack_features

GROUP = "group"
"""The column that numbers each run's group, from 1."""


@dataclass(frozen=True)
class _Layout:
    """Where each group's shapes and coefficients are among those of the joint law; `ratio` is a shared one: (over, under, its place)."""

    shapes: tuple[tuple[int, ...], ...]
    coefficients: tuple[tuple[int, ...], ...]
    ratio: tuple[int, int, int] | None

    def theta(self, theta: Theta, group: int) -> Inexact[np.ndarray, "*batch own_shapes"]:
        """The shape parameters of one group."""
        own = theta[..., list(self.shapes[group])]
        if self.ratio is not None:
            over, under, place = self.ratio
            own[..., over] = own[..., under] * theta[..., place]
        return own


def _features(theta: Theta, data: Data, law: Law, layout: _Layout) -> Inexact[np.ndarray, "*batch runs features"]:
    count = 1 + max(max(places) for places in layout.coefficients)
    columns: list[Inexact[np.ndarray, "..."]] = [np.zeros(1) for _ in range(count)]
    for group, places in enumerate(layout.coefficients):
        here = np.real(data[GROUP]) == group + 1
        own = law.features(layout.theta(theta, group), data)
        for j, place in enumerate(places):
            columns[place] = columns[place] + np.where(here, own[..., j], 0.0)
    return stack_features(theta, tuple(columns))


def _report(theta: Float[np.ndarray, "*batch shapes"], beta: Beta, law: Law, layout: _Layout) -> Float[np.ndarray, "*batch parameters"]:
    groups = range(len(layout.coefficients))
    parts = [law.parameter_values(layout.theta(theta, g), beta[..., list(layout.coefficients[g])]) for g in groups]
    return np.concatenate(parts, axis=-1)


def _bounds(
    data: Data, loss: Float[np.ndarray, "runs"], law: Law, taken: tuple[int, ...], at: int | None
) -> tuple[tuple[float, float], ...]:
    limits = law.limits(data, loss)
    return tuple((1.1, 1e6) if place == at else (float(limits[k, 0]), float(limits[k, 1])) for place, k in enumerate(taken))


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
        shapes[places[0][place]] = Shape(ratios[0], 1.1, 1e6, points=14)
    columns: list[list[int]] = [[] for _ in groups]
    labels: list[str] = []
    for name in law.coefficients:
        for g, group in enumerate(groups):
            if g == 0 or name not in shared:
                labels.append(name if name in shared else f"{name}[{group}]")
            columns[g].append(len(labels) - 1)
    layout = _Layout(tuple(map(tuple, places)), tuple(map(tuple, columns)), ratio)
    return replace(
        law,
        name=f"{law.name}, {', '.join(shared)} shared",
        columns=(*law.columns, GROUP),
        coefficients=tuple(labels),
        features=partial(_features, law=law, layout=layout),
        shapes=tuple(shapes),
        parameters=tuple(f"{name}[{group}]" for group in groups for name in law.parameter_names),
        report=partial(_report, law=law, layout=layout),
        bounds=partial(_bounds, law=law, taken=tuple(taken), at=None if ratio is None else ratio[2]),
        box={label: law.box[name] for name in law.box for label in labels if label.partition("[")[0] == name},
        signs={}, units={}, ratios={}, roles=None, published=(),
    )  # fmt: skip


def fit_shared(
    law: Law,
    groups: Mapping[str, tuple[Mapping[str, Float[np.ndarray, "runs"]], Float[np.ndarray, "runs"]]],
    shared: Sequence[str],
    objective: Loss | None = None,
) -> Fit:
    """Fit `law` to several groups at once, each its columns and losses, with the `shared` parameters the same in all.

    The fit's parameters are those of every group, `b[Hash]`; its certificate and degrees of freedom are the joint fit's.
    """
    codes = np.concatenate([np.full(len(loss), float(k)) for k, (_, loss) in enumerate(groups.values(), start=1)])
    data = {name: np.concatenate([columns[name] for columns, _ in groups.values()]) for name in law.columns}
    return fit_law(
        shared_law(law, list(groups), shared), {**data, GROUP: codes}, np.concatenate([loss for _, loss in groups.values()]), objective
    )
