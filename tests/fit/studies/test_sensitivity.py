"""What other choices do to a fit: the released figures under other seeds, targets and steps, and simulated ones whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from fit.load.runs import Runs, load_runs
from fit.load.schema import LOSSES
from fit.solver.losses import Huber, Squared, SquaredLog
from fit.studies.sensitivity import Variant, by_choice, by_step, by_target, load_steps, refitted, sensitivity_table
from golden import simulated_curves, small_curves
from golden.simulate import PUBLISHED

STEPS = (10_000, 100_000, 240_000)


@pytest.fixture(scope="module")
def runs(release: Path) -> Runs:
    """The released runs."""
    return load_runs(release)


def found(variants: tuple[Variant, ...], choice: str) -> Variant:
    """The variant of this choice."""
    return next(variant for variant in variants if variant.choice == choice)


def test_the_seed_filter_of_the_releases_notebook_gives_its_58_runs_and_their_reference_row(runs: Runs) -> None:
    variants = by_choice(runs, "S-Base", "bounded")
    # The reference rows have four decimals of a coefficient, three of E_start and two of E_max.
    reference = {
        "as fitted": (61, 0.003203, (-0.0838, -0.1234, 0.0104, 1.1216), 2.394, 217.65),
        "seed 42 alone": (58, 0.003228, (-0.0830, -0.1180, 0.0099, 1.1136), 2.075, 238.67),
    }
    for choice, (count, rmse, row, start, end) in reference.items():
        variant = found(variants, choice)
        assert variant.runs == count
        assert [variant.values[name] for name in "abcd"] == pytest.approx(row, abs=5e-5)
        assert variant.values["E_start"] == pytest.approx(start, abs=5e-4)
        assert variant.values["E_max"] == pytest.approx(end, abs=5e-3)
        assert variant.rmse is not None
        assert variant.rmse / np.log(10) == pytest.approx(rmse, abs=5e-7)


def test_every_size_is_left_out_once_and_every_loss_tried(runs: Runs) -> None:
    choices = [variant.choice for variant in by_choice(runs, "Hash", "separable")]
    assert choices[0] == "as fitted"
    assert [choice for choice in choices if choice.startswith("without")] == [
        f"without {label}" for label in ("15M", "25M", "55M", "130M", "370M", "1.3B")
    ]
    assert {Squared().name, Huber(1e-3).name} <= set(choices)
    assert SquaredLog().name not in choices, "it is the fit itself"


def test_all_six_losses_of_the_release_can_be_fitted(runs: Runs) -> None:
    variants = by_target(runs, "RL-R", "bilinear")
    assert [variant.choice for variant in variants] == list(LOSSES)
    assert all(variant.values["a"] < 0 and variant.values["b"] < 0 for variant in variants)
    # Empty cells are left out, not imputed: of 62 runs some have no other loss at their last evaluation.
    assert found(variants, "loss_validation").runs == 62
    assert 56 <= min(variant.runs for variant in variants) < 62


def test_a_loss_column_of_ones_own_is_fitted_as_the_releases_are() -> None:
    variants = by_target(load_runs(small_curves()), "Hash", "separable")
    assert {variant.choice for variant in variants} == {"loss_validation", "loss_test", "loss_bible", "loss_code"}


def test_steps_read_at_once_are_those_loaded_one_by_one(release: Path, runs: Runs) -> None:
    at_once = load_steps(release, STEPS)
    assert list(at_once) == list(STEPS)
    for variant, step in zip(by_step(at_once, runs, "S-Base", "bilinear"), STEPS, strict=False):
        alone = refitted("", load_runs(release, step=step), "S-Base", "bilinear")
        assert variant.choice == f"step {step:,}"
        assert variant.values == alone.values


def test_every_evaluation_of_the_release_is_found_but_that_of_untrained_models(release: Path) -> None:
    steps = list(load_steps(release))
    assert steps == [*range(10_000, 250_000, 10_000), 249_000]


def test_steps_follow_the_filter_of_the_runs_they_are_compared_with(release: Path, runs: Runs) -> None:
    small = runs.where("dense_parameter_count < 1e9")
    steps = load_steps(release, STEPS[-1:])
    first, last = by_step(steps, small, "S-Base", "bilinear")
    assert (first.runs, last.choice) == (last.runs, "as fitted")
    assert first.runs == refitted("", steps[STEPS[-1]].where("dense_parameter_count < 1e9"), "S-Base", "bilinear").runs


def test_a_file_without_steps_says_so(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("N,loss_validation\n1e7,3.0\n")
    with pytest.raises(InputError, match="no column 'step'"):
        load_steps(path)


def test_choices_that_should_not_matter_leave_the_truth_where_it_is() -> None:
    # Noise is 0.003 in log10 on 60 runs: a slope in log10 N over two decades is known to about 0.003 / 60^0.5 / 0.6 = 0.0006; five times
    # that for what losing a size or robust weights cost.
    variants = by_choice(load_runs(simulated_curves()), "S-Base", "bilinear")
    truth = variants[0].values["a"]
    assert truth == pytest.approx(PUBLISHED["S-Base"].a, abs=0.005)
    assert all(variant.values["a"] == pytest.approx(truth, abs=0.003) for variant in variants)


def test_what_cannot_be_fitted_is_a_row_with_the_reason() -> None:
    columns = {"N": [1e7, 1e7, 1e8, 1e8], "E": [1, 8, 1, 8], "loss": [3.0, 2.8, 2.6, 2.5]}
    variants = by_choice(Runs.from_columns(columns), "all", "separable")
    lost = [variant for variant in variants if not variant.values]
    assert [variant.choice for variant in lost] == ["without 10M", "without 100M"]
    table = sensitivity_table("title", variants)
    assert "without 10M: law 'separable'" in table.note
    assert table.rows[-1][2:] == ("", "", "", "")
