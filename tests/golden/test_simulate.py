"""The embedded simulated runs: the same bytes, the released counts, the published laws, the stated noise."""

import csv
import gzip
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from golden import simulated_curves
from golden.simulate import NUM_EXPERTS, PUBLISHED, SIZES, SimulatedRun, as_csv, count, simulate

# Table 3 as published, typed a second time: a, b, c, d, E_start, E_max.
TABLE_3 = {
    "S-Base": (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478),
    "RL-R": (-0.083, -0.126, 0.012, 1.111, 1.880, 469.982),
    "Hash": (-0.087, -0.136, 0.012, 1.157, 4.175, 477.741),
}


def released_canonical_runs(release: Path) -> list[dict[str, str]]:
    """The last row of every released run with k = 1, R = 1/2 and no added FLOPs."""
    with gzip.open(release, "rt", encoding="utf-8", newline="") as file:
        last = {row["hyper_id"]: row for row in csv.DictReader(file)}
    canonical = ("1", "0.5", "1.0")
    return [row for row in last.values() if (row["k"], row["routing_frequency"], row["flop_increase"]) == canonical]


def test_the_committed_script_writes_the_committed_bytes() -> None:
    assert simulated_curves().read_bytes() == as_csv(simulate()).encode()


def test_another_seed_gives_other_losses() -> None:
    assert as_csv(simulate(seed=1)) != as_csv(simulate(seed=0))


def test_columns_are_the_releases_in_its_order_then_simulated(release: Path) -> None:
    with gzip.open(release, "rt", encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    assert [field.name for field in fields(SimulatedRun)] == [*header, "simulated"]


def test_every_row_says_that_it_is_simulated_and_leaves_unmeasured_losses_empty() -> None:
    with simulated_curves().open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["simulated"] for row in rows} == {"1"}
    unmeasured = ("loss_c4", "loss_curation_corpus", "loss_lambada", "loss_pile", "loss_wikitext103")
    assert {row[column] for row in rows for column in unmeasured} == {""}


def test_the_grid_is_full_and_has_one_run_per_cell() -> None:
    cells = [(run.router_type, run.model_size_label, run.num_experts) for run in simulate()]
    routed = {(router, size.label, e) for router in TABLE_3 for size in SIZES for e in NUM_EXPERTS}
    assert set(cells) == routed | {("Dense", size.label, 1) for size in SIZES}
    assert len(cells) == len(set(cells)) == 168


def test_released_counts_are_reproduced_exactly(release: Path) -> None:
    sizes = {size.label: size for size in SIZES}
    rows = released_canonical_runs(release)
    assert len(rows) == 166
    for row in rows:
        size = sizes[row["model_size_label"]]
        shape = (size.d_model, size.num_blocks, size.num_heads, size.kqv_size)
        assert shape == tuple(int(row[c]) for c in ("d_model", "num_blocks", "num_heads", "kqv_size"))
        expected = (row["dense_parameter_count"], row["total_parameter_count"], row["flops_per_step"])
        assert count(size, row["router_type"], int(row["num_experts"])) == tuple(float(value) for value in expected)


def test_noiseless_losses_are_those_of_the_release_up_to_published_rounding(release: Path) -> None:
    simulated = {(run.router_type, run.model_size_label, run.num_experts): run for run in simulate(noise=0.0)}
    for row in released_canonical_runs(release):
        run = simulated[row["router_type"], row["model_size_label"], int(row["num_experts"])]
        # Half a third place in each of a, b, c, d moves log10 L by up to 0.0005 (9.1 + 2.5 + 9.1 * 2.5 + 1) = 0.018,
        # and the published fit has residuals of its own (RMSE 0.003).
        assert abs(math.log10(run.loss_validation / float(row["loss_validation"]))) < 0.02


@pytest.mark.parametrize("router", TABLE_3)
def test_noiseless_losses_are_linear_with_the_published_coefficients(router: str) -> None:
    *linear, e_start, e_max = TABLE_3[router]
    runs = [run for run in simulate(noise=0.0) if run.router_type == router]
    experts = np.array([run.num_experts for run in runs])
    log_n = np.log10([run.dense_parameter_count for run in runs])
    # Eq. 1 as a fraction over E_max: u / (1 + u / E_max) with u = E - 1 + (1/E_start - 1/E_max)^-1.
    u = experts - 1 + e_start * e_max / (e_max - e_start)
    log_e = np.log10(u * e_max / (u + e_max))
    design = np.stack([log_n, log_e, log_n * log_e, np.ones_like(log_n)], axis=1)
    solution, *_ = np.linalg.lstsq(design, np.log10([run.loss_validation for run in runs]))
    # Losses above 1.8 rounded to 1e-6 are off by at most 1.3e-7 in log10: 54 runs with a smallest singular value above
    # 0.1 move the solution by less than sqrt(54) * 1.3e-7 / 0.1.
    assert np.linalg.svd(design, compute_uv=False).min() > 0.1
    np.testing.assert_allclose(solution, linear, rtol=0, atol=1e-5)


def test_dense_runs_follow_s_bases_law_with_e_start_for_one_expert() -> None:
    a, b, c, d, e_start, _ = TABLE_3["S-Base"]
    for run in simulate(noise=0.0):
        if run.router_type == "Dense":
            log_n, log_e = math.log10(run.dense_parameter_count), math.log10(e_start)
            expected = a * log_n + b * log_e + c * log_n * log_e + d
            assert math.log10(run.loss_validation) == pytest.approx(expected, abs=2e-7)


def test_saturated_experts_tend_to_e_max() -> None:
    for router, law in PUBLISHED.items():
        # 1/Ê - 1/E_max is below 1/(E - 1): a relative gap of at most E_max / E.
        assert law.saturated(10**12) == pytest.approx(TABLE_3[router][5], rel=1e-9)


def test_noise_is_log_normal_with_the_stated_standard_deviation() -> None:
    clean = np.log10([run.loss_validation for run in simulate(noise=0.0)])
    noisy = np.log10([[run.loss_validation for run in simulate(seed=seed)] for seed in range(60)])
    draws = (noisy - clean).ravel() / 0.003
    # 10,080 standard normal draws: four standard errors of the mean, the standard deviation and the share within one
    # standard deviation (0.6827). Rounding of the losses moves a draw by less than 1e-4.
    four_errors = 4 / math.sqrt(draws.size)
    assert abs(draws.mean()) < four_errors
    assert abs(draws.std() - 1) < four_errors / math.sqrt(2)
    assert abs(np.mean(np.abs(draws) < 1) - 0.6827) < four_errors * math.sqrt(0.6827 * 0.3173)
