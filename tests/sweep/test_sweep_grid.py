"""A grid's file: which runs it asks for, and what is said of one that cannot be."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.errors import ConfigError
from reference.sizes import NANO
from sweep.grid import read_grid, runs_of
from sweep.run import Run
from training.config import TrainConfig, paper_recipe, small_recipe
from training.toml import from_toml, to_toml

OUT = Path("out")


def grid(**lists: list[Any]) -> str:
    """A [grid] of these lists."""
    return "[grid]\n" + "".join(f"{name} = {values!r}\n" for name, values in lists.items()).replace("'", '"')


def runs(text: str) -> list[Run]:
    """What `text` asks for."""
    return runs_of(text, "grid.toml", OUT)


sizes = st.lists(st.sampled_from(list(NANO)), min_size=1, max_size=3)
# RL-R chooses one expert: with k it would be refused.
routers = st.lists(st.sampled_from(["dense", "s-base", "hash", "switch"]), min_size=1, max_size=4)
experts = st.lists(st.sampled_from([1, 2, 4, 32]), min_size=1, max_size=4)
seeds = st.lists(st.integers(0, 1000), min_size=1, max_size=3)


@settings(max_examples=30)
@given(sizes, routers, experts, st.lists(st.sampled_from([1, 2]), min_size=1, max_size=2), seeds)
def test_every_combination_is_a_run_once_and_a_dense_one_has_no_experts(
    sizes: list[str], routers: list[str], experts: list[int], ks: list[int], seeds: list[int]
) -> None:
    lists = {"size": sizes, "router": routers, "experts": experts, "k": ks, "seed": seeds}
    expected = {
        (size, router, *((1, 1) if router == "dense" else (e, k)), seed)
        for size, router, e, k, seed in itertools.product(sizes, routers, experts, ks, seeds)
        if router == "dense" or e > 1
    }
    if not expected:
        with pytest.raises(ConfigError, match="at least 2 experts"):
            runs(grid(**lists))
        return
    found = runs(grid(**lists))
    models = [(run.config.model, run.config.run.seed) for run in found]
    asked = [(m.size, m.router, *((1, 1) if m.router == "dense" else (m.experts, m.k)), seed) for m, seed in models]
    assert len(asked) == len(expected)
    assert set(asked) == expected
    assert len({run.name for run in found}) == len(found)
    assert all(from_toml(to_toml(run.config), "written") == run.config for run in found)


def test_several_grids_share_what_they_have_in_common_and_a_run_is_made_once() -> None:
    text = """
        [[grid]]
        size = ["27K", "60K"]
        router = ["dense", "hash"]
        experts = 4

        [[grid]]
        size = "27K"
        router = "hash"
        experts = [4, 8]
        routing_frequency = [0.5, 1.0]
        seed = [0, 1]

        [model]
        context = 64

        [data]
        batch = 8
    """
    found = runs(text)
    assert [run.name for run in found] == [
        "27K-dense-seed0",
        "27K-hash-e4-seed0",
        "60K-dense-seed0",
        "60K-hash-e4-seed0",
        "27K-hash-e4-seed1",
        "27K-hash-e4-r1-seed0",
        "27K-hash-e4-r1-seed1",
        "27K-hash-e8-seed0",
        "27K-hash-e8-seed1",
        "27K-hash-e8-r1-seed0",
        "27K-hash-e8-r1-seed1",
    ]
    assert {(run.config.model.context, run.config.data.batch) for run in found} == {(64, 8)}
    assert found[0].folder == OUT / "27K-dense-seed0"


def test_an_empty_grid_of_one_value_has_the_defaults_of_train() -> None:
    (run,) = runs(grid(seed=[0]))
    assert run.config == TrainConfig()


def test_tokens_are_rounded_up_to_whole_steps_and_the_schedule_ends_with_them() -> None:
    shared = "[data]\nbatch = 10\n[model]\ncontext = 100\n[run]\ntokens = 250_001\n[tokens]\n60K = 5e5\n"
    small, large = runs(grid(size=["27K", "60K"], router=["dense"]) + shared)
    assert (small.config.run.steps, large.config.run.steps) == (251, 500)
    # A tenth of the steps, or the default's 100 if that is less.
    assert [(run.config.optimizer.steps, run.config.optimizer.warmup_steps) for run in (small, large)] == [(251, 25), (500, 50)]
    given = "[optimizer]\nwarmup_steps = 7\nsteps = 900\n"
    assert [(c.steps, c.warmup_steps) for c in (run.config.optimizer for run in runs(grid(size=["27K"]) + given))] == [(900, 7)]


def test_a_learning_rate_by_size_scales_the_final_one_alike() -> None:
    text = grid(size=["27K", "60K"], router=["dense"]) + "[learning_rate]\n60K = 1e-2\n[optimizer]\npeak_learning_rate = 4e-3\n"
    small, large = (run.config.optimizer for run in runs(text))
    assert (small.peak_learning_rate, small.final_learning_rate) == (4e-3, small_recipe("27K").optimizer.final_learning_rate)
    # One rounding in the ratio, one in the product.
    assert (large.peak_learning_rate, large.final_learning_rate) == (
        1e-2,
        pytest.approx(2.5 * small_recipe("60K").optimizer.final_learning_rate, rel=1e-15),
    )


def test_sizes_of_the_paper_name_the_recipe_that_they_start_from() -> None:
    text = "[grid]\nsize = ['15M']\nrouter = 'dense'\n"
    with pytest.raises(ConfigError, match=r"15M are sizes of the paper.*\nput recipe = 'paper' or"):
        runs(text)
    (small,), (paper,), (short,) = (
        runs(f"recipe = '{name}'\n{text}{more}") for name, more in (("small", ""), ("paper", ""), ("paper", SHORT))
    )
    assert (small.config.data.batch, paper.config.data.batch) == (32, 256)
    assert paper.config == replace(
        paper_recipe("15M", "dense"), run=paper.config.run, model=paper.config.model, routers=paper.config.routers
    )
    assert (paper.config.run.steps, paper.config.optimizer.steps, paper.config.optimizer.warmup_steps) == (250_000, 250_000, 1500)
    assert (short.config.run.steps, short.config.optimizer.warmup_steps) == (10, 1)


SHORT = f"[run]\ntokens = {10 * 256 * 2048}\n"


def test_a_routers_own_options_are_its_runs_alone() -> None:
    shared, table = grid(router=["dense", "hash"]), '[hash]\ntable = "balanced"\n'
    before, after = runs(shared), runs(shared + table)
    assert before[0].config == after[0].config
    assert [run[1].config.sections()["hash"].table for run in (before, after)] == ["modulo", "balanced"]


def test_a_grids_own_options_are_its_runs_alone_and_its_name_ends_theirs() -> None:
    own = "[grid.s_base]\niterations = 3\n[grid.run]\ntokens = 1e5\n"
    plain, short = runs(f"[[grid]]\nrouter = 's-base'\n[[grid]]\nrouter = 's-base'\nvariant = 'short'\n{own}")
    assert (plain.name, short.name) == ("107K-s-base-e8-seed0", "107K-s-base-e8-seed0-short")
    assert [run.config.sections()["s_base"].iterations for run in (plain, short)] == [10, 3]
    assert plain.config.run.steps > short.config.run.steps == math.ceil(1e5 / (32 * 128))


def test_a_grids_own_numbers_by_size_go_before_the_files() -> None:
    own = "learning_rate.27K = 1e-3\ntokens.27K = 4096\n"
    text = f"[[grid]]\nsize = ['27K', '60K']\nrouter = 'dense'\nvariant = 'low'\n{own}[[grid]]\nsize = '27K'\nrouter = 'dense'\n"
    low, other, plain = runs(f"{text}[learning_rate]\n27K = 2e-3\n60K = 3e-3\n[run]\ntokens = 8192\n")
    assert [run.name for run in (low, other, plain)] == ["27K-dense-seed0-low", "60K-dense-seed0-low", "27K-dense-seed0"]
    assert [run.config.optimizer.peak_learning_rate for run in (low, other, plain)] == [1e-3, 3e-3, 2e-3]
    assert [run.config.run.steps for run in (low, other, plain)] == [1, 2, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no [grid]"),
        ("[grid\n", "not TOML"),
        ("[grid]\nsizes = ['27K']\n", "grid, beside variant, size, router"),
        ("[grid]\nsize = ['27K', '61K']\n", "no size is called '61K'"),
        ("[grid]\nsize = []\n", "grid has no run"),
        ("[grid]\nrouter = ['base']\n", "model: no router is called 'base'; there are dense, s-base"),
        ("[grid]\nexperts = ['4']\n", 'model.experts is "4"; it must be of type int'),
        ("[grid]\nexperts = [4]\nk = [8]\n", "107K-s-base-e4-k8-seed0 is invalid: k is 8 with 4 experts"),
        ("[grid]\nseed = [0]\n[schedule]\n", "there is no section 'schedule'"),
        ("[grid]\nseed = [0]\n[model]\nheads = 3\n", "there is no [model] option 'heads'"),
        ("[grid]\nrouter = 'dense'\n[hash]\ntables = 'balanced'\n", "there is no [hash] option 'tables'"),
        ("[grid]\nseed = [0]\n[run]\nsteps = 3\ntokens = 100\n", "run.tokens and run.steps both give"),
        ("[grid]\nseed = [0]\n[run]\nsteps = 3.5\n", "run.steps is 3.5; it must be of type int"),
        ("[grid]\nseed = [0]\n[run]\ntokens = 0\n", "tokens is 0"),
        ("[grid]\nseed = [0]\n[run]\ntokens = true\n", "tokens is True; it must be a number above 0"),
        ("[grid]\nseed = [-1]\n", "seed is -1"),
        ("[grid]\nseed = [0]\n[learning_rate]\n'61K' = 1e-3\n", "no run has the size of learning_rate.61K; sizes: 107K"),
        ("[grid]\nseed = [0]\n[learning_rate]\n'27K' = 1e-3\n", "no run has the size of learning_rate.27K; sizes: 107K"),
        ("[grid]\nseed = [0]\n[learning_rate]\n107K = -1\n", "learning_rate.107K is -1"),
        ("grid = 3\n", "grid must be a section"),
        ("[[grid]]\nseed = [0]\n[[grid]]\nseed = [0]\n[grid.s_base]\niterations = 3\n", "give one a variant"),
        ("[[grid]]\nvariant = 'a'\nsize = '27K'\ntokens.60K = 4096\n", "no run has the size of tokens.60K; sizes: 27K"),
        ("[[grid]]\nvariant = 'A/b'\n", "grid.variant is 'A/b'"),
        ("[[grid]]\nvariant = 'a'\n[grid.rl_r]\niterations = 3\n", "there is no [rl_r] option 'iterations'"),
        ("learning_rate = 3\n[grid]\nseed = [0]\n", "learning_rate must be a section"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line_with_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_grid(path, OUT)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_grid_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no grid"):
        read_grid(tmp_path / "absent.toml", OUT)
