"""A law fitted to several groups together: each group's own fit where nothing is shared, one regression where something is."""

import numpy as np
import pytest

from common.errors import InputError
from fit.engine.shared import fit_shared
from fit.engine.solve import fit_law
from fit.laws import BILINEAR, BOUNDED, FLOOR
from fit.runs.schema import E, N
from tests.checks import unchecked
from tests.fit.designs import Sample, bilinear_losses, grid, made_up


def _groups() -> dict[str, Sample]:
    return {"one": (grid(), bilinear_losses(grid(), c=0.01)), "two": (grid(4, 4), bilinear_losses(grid(4, 4), b=-0.05, c=0.012))}


def test_with_nothing_shared_each_group_has_its_own_fit() -> None:
    groups = _groups()
    found = fit_shared(BILINEAR, groups, ())
    for name, (data, loss) in groups.items():
        for parameter, value in fit_law(BILINEAR, data, loss).parameters.items():
            assert found.parameters[f"{parameter}[{name}]"] == pytest.approx(value, rel=1e-8)
    assert found.degrees == 25 + 16 - 8


def test_a_shared_coefficient_is_that_of_one_regression() -> None:
    groups = _groups()
    found = fit_shared(BILINEAR, groups, ("c",))
    blocks = [BILINEAR.features(np.zeros(0), data) for data, _ in groups.values()]
    first, second = (
        np.concatenate([block[:, [0, 1, 3]], np.zeros_like(block[:, :3])][:: 1 if k == 0 else -1], axis=1) for k, block in enumerate(blocks)
    )
    x = np.concatenate([np.concatenate([first, second]), np.concatenate([block[:, 2:3] for block in blocks])], axis=1)
    y = np.concatenate([np.log10(loss) for _, loss in groups.values()])
    beta, *_ = np.linalg.lstsq(x, y, rcond=None)
    assert found.parameters["c[one]"] == found.parameters["c[two]"] == pytest.approx(beta[6], rel=1e-8)
    assert found.parameters["b[two]"] == pytest.approx(beta[4], rel=1e-8)
    assert found.degrees == 25 + 16 - 7


@unchecked()
def test_a_shared_ratio_is_held_by_both_and_no_worse_anywhere_else() -> None:
    data, loss = made_up(BOUNDED)
    _, other = made_up(BOUNDED, seed=1)
    found = fit_shared(BOUNDED, {"one": (data, loss), "two": (data, other)}, ("E_max",))
    both = found.parameters["E_max[one]"]
    assert found.parameters["E_max[two]"] == pytest.approx(both, rel=1e-12)

    def apart(e_max: float) -> float:
        return sum(fit_law(BOUNDED, data, losses, fixed={"E_max": e_max}).certificate.objective for losses in (loss, other)) / 2

    assert found.certificate.objective == pytest.approx(apart(both), rel=1e-8)
    assert all(found.certificate.objective < apart(both * factor) for factor in (0.97, 1.03))


def test_what_cannot_be_shared_is_refused_with_what_can() -> None:
    with pytest.raises(InputError, match="has no z; it can share: a, b, c, d"):
        fit_shared(BILINEAR, _groups(), ("z",))
    with pytest.raises(InputError, match="needs L_0 shared"):
        fit_shared(FLOOR, _groups(), ("a",))
    joint = fit_shared(FLOOR, _groups(), ("L_0",))
    assert set(joint.problem.data) == {N, E, "group"}
    # Signs, units and what else goes by the names of one group's parameters are not the joint law's.
    assert (joint.law.signs, joint.law.units, joint.law.ratios, joint.law.roles, joint.law.published) == ({}, {}, {}, None, ())
