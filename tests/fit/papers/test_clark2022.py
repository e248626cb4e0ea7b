"""The paper beside the runs: published figures, conclusions, and what is asked for where no file is given."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fit
from commands.studies import Reproduce
from common.document.terminal import terminal
from fit.analysis import Options
from fit.papers import clark2022
from fit.papers.clark2022 import Reproduction, losses_at_equal_flops, reproduce, reproduce_document, reproduce_json
from fit.runs import Runs
from tests.checks import unchecked

DOCS = Path(__file__).parents[3] / "docs" / "json.md"
PUBLIC = {"fit", "fit.analysis", "fit.quantities", "fit.report", "fit.report.record", "fit.uncertainty.distributions"}


@pytest.fixture(scope="module")
@unchecked()
def simulated(simulated_runs: Runs) -> Reproduction:
    """The paper beside runs drawn from its own rows."""
    return reproduce(simulated_runs, Options(draws=300))


@pytest.fixture(scope="module")
@unchecked()
def released(released_runs: Runs) -> Reproduction:
    """The paper beside its runs, with as few draws as six clusters allow."""
    return reproduce(released_runs, Options(draws=300))


def test_the_row_that_runs_were_drawn_from_lies_inside_our_intervals(simulated: Reproduction) -> None:
    # The simulated dense runs follow S-Base's row, so that it alone is the exact truth of its runs.
    found = {line.name: line.inside for line in simulated.figures if line.router == "S-Base"}
    assert found == dict.fromkeys(("a", "b", "c", "d", "E_start", "E_max", "N_cutoff"), True)


def test_all_23_published_figures_are_held_against_ours(simulated: Reproduction) -> None:
    # Seven of each router in Table 3, two of the dense law.
    assert len(simulated.figures) == 23
    assert {line.router for line in simulated.figures} == {"S-Base", "RL-R", "Hash", "Dense"}


def test_delta_is_ours_minus_published(simulated: Reproduction) -> None:
    line = next(line for line in simulated.figures if (line.router, line.name) == ("Hash", "c"))
    assert line.published == 0.012
    assert line.delta == simulated.analysis.result("Hash", "bounded").fit.parameters["c"] - 0.012


def test_rounding_alone_moves_n_cutoff_by_the_factors_given(simulated: Reproduction) -> None:
    line = next(line for line in simulated.figures if (line.router, line.name) == ("S-Base", "N_cutoff"))
    # 10^(-b/c) with b = -0.108 and c = 0.009: from 10^(0.1075/0.0095) to 10^(0.1085/0.0085).
    assert "give 207B to 5.82T" in line.why


def test_simulated_runs_are_called_so(simulated: Reproduction) -> None:
    assert reproduce_document(simulated).verdict.startswith("Simulated runs. ")


def test_without_draws_nothing_is_inside_and_every_delta_stands_and_routers_may_be_asked_for_in_one_name(simulated_runs: Runs) -> None:
    found = reproduce(simulated_runs, Options(routers=("S-Base,Hash",), draws=0))
    assert {line.router for line in found.figures} == {"Dense", "S-Base", "Hash"}
    assert {line.inside for line in found.figures} == {None}
    for line in found.figures:
        assert line.delta == pytest.approx(line.ours.value - line.published, rel=1e-12, nan_ok=True)


def test_a_router_that_the_paper_or_the_runs_do_not_have_is_refused(small_runs: Runs) -> None:
    renamed = np.where(small_runs["router_type"] == "RL-R", "Switch", small_runs["router_type"])
    with_switch = replace(small_runs, columns={**small_runs.columns, "router_type": renamed})
    with pytest.raises(fit.InputError, match="published for S-Base, RL-R and Hash; the runs have S-Base, Hash and Switch"):
        reproduce(with_switch, Options(routers=("Hash,Switch",)))
    with pytest.raises(fit.InputError, match="no runs of router 'Switch'"):
        reproduce(small_runs, Options(routers=("Switch",)))


def test_without_a_file_the_released_one_is_asked_for_in_three_lines() -> None:
    with pytest.raises(fit.InputError, match=r"cli\.py fetch") as caught:
        Reproduce().run()
    assert len(str(caught.value).splitlines()) <= 3


def made_up(extra: float) -> Runs:
    """Plain runs on a power law of F, and four of k = 2 between them whose losses are higher by a factor e^`extra`, each by its own bit."""
    flops = np.concatenate([np.geomspace(1e9, 1e12, 7), np.geomspace(2e9, 5e11, 4), [5e12]])
    k = np.where(np.arange(len(flops)) < 7, 1.0, 2.0)
    bits = np.concatenate([np.zeros(7), np.array([-1e-3, 1e-3, -5e-4, 5e-4]), [0.0]])
    loss = 20 * flops**-0.1 * np.exp(np.where(k == 2, extra, 0.0) + bits)
    ones = np.ones_like(flops)
    columns = {
        "N": flops / 10,
        "E": 8 * ones,
        "k": k,
        "R": 0.5 * ones,
        "F": flops,
        "router": np.full(len(flops), "Hash"),
        "loss_validation": loss,
    }
    return Runs.from_columns(columns)


def test_losses_at_equal_flops_are_those_over_the_power_law_of_the_plain_runs() -> None:
    found = losses_at_equal_flops(made_up(0.02), made_up(0.02)["k"] == 2)
    # A power law is a straight line between its runs; the run beyond the largest plain one has nothing to be held against.
    assert found == pytest.approx([0.019, 0.021, 0.0195, 0.0205], abs=1e-12)


def test_the_paper_is_reproduced_through_public_modules_alone() -> None:
    tree = ast.parse(Path(str(clark2022.__file__)).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {module for module in modules if module.split(".")[0] == "fit"} <= PUBLIC


def test_json_is_json_and_its_own_keys_are_documented(simulated: Reproduction) -> None:
    record = json.loads(json.dumps(reproduce_json(simulated), allow_nan=False))
    section = DOCS.read_text().split("## reproduce.json")[1].split("\n## ")[0]
    keys = {"schema", "verdict", "figures", "claims", *(f"figures[].{key}" for key in record["figures"][0])}
    keys |= {f"claims[].{key}" for key in record["claims"][0]}
    assert record["schema"] == "routelaw.reproduce/2"
    assert {key for key in keys if f"| `{key}` |" not in section} == set()


def test_our_figures_on_the_release_are_those_of_a_correct_fit(released: Reproduction) -> None:
    ours = {line.name: line.ours.value for line in released.figures if line.router == "S-Base"}
    # FACTS section 7, each within half a unit of the last digit given there.
    expected = {"a": (-0.0838, 4), "b": (-0.1234, 4), "c": (0.0104, 4), "d": (1.1216, 4), "E_start": (2.394, 3), "E_max": (217.65, 2)}
    assert {name: round(ours[name], digits) for name, (_, digits) in expected.items()} == {
        name: value for name, (value, _) in expected.items()
    }


def test_the_seed_filter_moves_e_start_and_e_max_of_the_release_towards_the_paper(released: Reproduction) -> None:
    why = {line.name: line.why for line in released.figures if line.router == "S-Base"}
    # FACTS section 7: with the 58 runs of seed 42 alone.
    assert "seed filter: 2.075" in why["E_start"]
    assert "seed filter: 238.7" in why["E_max"]


def test_the_published_rows_lie_in_the_valley_of_the_released_runs(released: Reproduction) -> None:
    outside = [line for line in released.figures if line.inside is False]
    assert {line.router for line in outside} <= {"S-Base"}
    assert all("the valley" in line.why for line in outside)
    # With residuals drawn one by one, as the valley's F test has it, all of Table 3 is inside.
    assert all(clark2022.inside(line.independent, line.published) for line in released.figures)


def test_conclusions_on_the_release(released: Reproduction) -> None:
    assert {claim.name: claim.verdict for claim in released.claims} == {
        "gains shrink with N": "half",
        "gains end at N_cutoff": "artefact",
        "routing helps to 1.31B": "yes",
        "S-Base is best": "yes",
        "64 to 128 experts": "advice",
        "k = 1": "not shown",
        "R of 1/2 to 1": "yes",
    }


def test_first_screen_on_the_release_has_30_lines_at_most(released: Reproduction) -> None:
    lines = terminal(reproduce_document(released), 80).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
