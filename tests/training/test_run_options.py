"""Every option of a run round-trips through TOML, and errors name the place."""

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from reference.config import REMATS, RouterConfig
from reference.errors import SEED, ConfigError, Range
from reference.routers import ROUTERS, Hash, LossFree, Reinforce, RouterOptions, SinkhornBase, Switch
from reference.sizes import LADDER
from tests.training.tiny_runs import ROOT, every_field_changed
from training.config import DataOptions, ModelOptions, RunOptions, TrainConfig, differences, paper_recipe, small_recipe
from training.folder import CONFIG, check_options
from training.optimizer import OptimizerConfig
from training.text.files import further_texts
from training.toml import from_toml, read_toml, to_toml

LENGTH = st.integers(1, 10**9)
RATE = st.floats(0, 1, exclude_min=True, allow_nan=False)

CONFIGS = st.builds(
    TrainConfig,
    model=st.builds(ModelOptions, router=st.sampled_from(["dense", *ROUTERS]), experts=LENGTH, remat=st.sampled_from(REMATS)),
    data=st.builds(DataOptions, corpus=st.text(st.characters(exclude_categories=["Cs"])), held_out=st.floats(0.01, 0.99), batch=LENGTH),
    optimizer=st.builds(OptimizerConfig, peak_learning_rate=RATE, weight_decay=RATE),
    run=st.builds(RunOptions, steps=LENGTH, seed=st.integers(0, 2**31)),
    routers=st.fixed_dictionaries(
        {
            "s-base": st.builds(SinkhornBase, iterations=st.integers(2, 100)),
            "hash": st.builds(Hash, table=st.sampled_from(["modulo", "random", "balanced"]), seed=st.integers(0, 100)),
            "rl-r": st.builds(Reinforce, policy_weight=RATE, entropy_weight=st.floats(-1, 1)),
            "switch": st.builds(Switch, balance_weight=RATE, z_weight=RATE),
            "loss-free": st.builds(LossFree, speed=RATE),
        }
    ),
)


@given(config=CONFIGS)
def test_what_is_written_is_read_back(config: TrainConfig) -> None:
    assert from_toml(to_toml(config), "config.toml") == config


def test_a_configuration_without_a_default_is_read_back() -> None:
    config = every_field_changed()
    assert from_toml(to_toml(config), "config.toml") == config


def test_every_option_is_written() -> None:
    written = to_toml(TrainConfig())
    for section, part in TrainConfig().sections().items():
        _, _, rest = written.partition(f"[{section}]\n")
        names = [line.partition(" = ")[0] for line in rest.partition("\n[")[0].strip().splitlines()]
        assert names == [field.name for field in dataclasses.fields(part)], section


def test_the_routers_own_options_reach_the_model() -> None:
    s_base, table = SinkhornBase(iterations=7), Hash("random", seed=3)
    rl_r, switch = Reinforce(policy_weight=0.5, entropy_weight=-0.01), Switch(z_weight=0.25)
    routers: dict[str, RouterOptions] = {"s-base": s_base, "hash": table, "rl-r": rl_r, "switch": switch, "loss-free": LossFree(0.5)}
    for name, technique in routers.items():
        routed = TrainConfig(model=ModelOptions(router=name), routers=routers).model_config(257).router
        assert isinstance(routed, RouterConfig)
        assert routed.technique == technique
    assert TrainConfig(model=ModelOptions(router="dense")).model_config(257).router is None


def test_the_papers_recipe_is_the_papers() -> None:
    config = paper_recipe("1.3B", "s-base", 64)
    assert (config.run.steps, config.data.batch, config.model.context) == (250_000, 256, 2048)
    # FACTS section 4: 130B tokens, learning rate 1e-7 -> 2e-4 over 1,500 steps, then to 2e-5.
    assert config.run.steps * config.data.batch * config.model.context == 131_072_000_000
    rates = config.optimizer
    assert (rates.initial_learning_rate, rates.peak_learning_rate, rates.final_learning_rate) == (1e-7, 2e-4, 2e-5)
    assert (rates.warmup_steps, rates.steps) == (1500, 250_000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model", r"^runs/a.toml: not TOML \("),
        ("[modle]", r"^runs/a.toml: there is no section 'modle'; there are model, data, .*; did you mean model\?$"),
        ("model = 1", r"^runs/a.toml: model must be a section, \[model\]$"),
        (
            "[model]\nexprts = 8",
            r"^runs/a.toml: there is no \[model\] option 'exprts'; there are size, router, .*; did you mean experts\?$",
        ),
        ("[model]\nexperts = 8.5", r"^runs/a.toml: model.experts is 8.5; it must be of type int$"),
        ("[run]\nseed = true", r"^runs/a.toml: run.seed is true; it must be of type int$"),
        ('[run]\nseed = "1"', r'^runs/a.toml: run.seed is "1"; it must be of type int$'),
        ('[model]\nrouter = "base"', r"^runs/a.toml: model: no router is called 'base'; there are dense, s-base"),
        ("[rl_r]\npolicy_weight = -1", r"^runs/a.toml: rl_r: RL-R's policy_weight is -1.0; it must be at least 0$"),
        ("[model]\ncapacity_factor = -1", r"^runs/a.toml: model: capacity_factor is -1.0; it must be at least 0$"),
        ('[hash]\ntable = "odd"', r'^runs/a.toml: hash.table is "odd"; it must be one of "modulo", "random", "balanced"$'),
        ("[data]\nbatch = 0", r"^runs/a.toml: data: batch is 0; it must be at least 1$"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        from_toml(text, "runs/a.toml")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("also", "said"),
    [("code", "cannot parse 'code'"), ("Code=a", "cannot parse"), ("code=", "cannot parse"), ("a=b,a=c", "taken"), ("test=a", "taken")],
)
def test_a_text_to_evaluate_on_needs_a_name_of_its_own(also: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        DataOptions(also=also)
    assert further_texts("code=package:docutils, c4=b/*.txt") == {"code": "package:docutils", "c4": "b/*.txt"}


def test_held_out_and_test_documents_leave_some_to_train_on() -> None:
    with pytest.raises(ConfigError, match=r"less than 1 - held_out = 0\.7"):
        DataOptions(held_out=0.3, test=0.7)


def test_differences_name_the_option_and_both_values() -> None:
    changed = TrainConfig().routers | {"rl-r": Reinforce(balance_weight=0.02, entropy_weight=0.25)}
    ours, theirs = TrainConfig(routers=changed), TrainConfig(run=RunOptions(seed=1))
    assert differences(ours, theirs) == ["run.seed: 1 -> 0", "rl_r.entropy_weight: -0.01 -> 0.25"]
    assert differences(ours, theirs, except_for=("run.seed",)) == ["rl_r.entropy_weight: -0.01 -> 0.25"]


def test_a_run_whose_groups_would_change_is_not_continued(tmp_path: Path) -> None:
    # 32 sequences of 128 tokens, 8 experts: 4 sequences are 64 tokens an expert. Over 16 devices each holds two.
    config = TrainConfig()
    assert config.group() == 4
    (tmp_path / CONFIG).write_text(to_toml(config))
    (tmp_path / "checkpoints" / "step_3").mkdir(parents=True)
    check_options(tmp_path, dataclasses.replace(config, run=RunOptions(mesh="data=8")))
    check_options(tmp_path, dataclasses.replace(config, data=DataOptions(accumulate=2)))
    with pytest.raises(InputError, match="4 sequences per group, but this mesh and accumulate give 2"):
        check_options(tmp_path, dataclasses.replace(config, run=RunOptions(mesh="data=16")))


def test_what_a_file_says_of_the_schedule_is_used_and_else_it_is_as_long_as_the_run() -> None:
    given = from_toml("[optimizer]\nwarmup_steps = 20\n[run]\nsteps = 40\n", "w.toml").optimizer
    assert (given.warmup_steps, given.steps) == (20, 40)
    given = from_toml("[optimizer]\nwarmup_steps = 30\nsteps = 60\n[run]\nsteps = 40\n", "w.toml").optimizer
    assert (given.warmup_steps, given.steps) == (30, 60)
    for text in ("[run]\nsteps = 40\n", "[optimizer]\nclip = 2.0\n[run]\nsteps = 40\n"):
        given = from_toml(text, "w.toml").optimizer
        assert (given.warmup_steps, given.steps) == (4, 40)
    assert from_toml("", "w.toml") == TrainConfig()
    # A longer run warms up no longer than the default.
    assert from_toml("[run]\nsteps = 4000\n", "w.toml").optimizer.warmup_steps == TrainConfig().optimizer.warmup_steps


def test_a_file_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_bytes(b"[run]\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"w\.toml: not UTF-8 \(byte 11\)"):
        read_toml(tmp_path / "w.toml")


NUMBERS = [
    (section, field.name)
    for section, options in TrainConfig().sections().items()
    for field in dataclasses.fields(options)
    if type(getattr(options, field.name)) in (int, float)
]


@pytest.mark.parametrize(("section", "name"), NUMBERS)
def test_every_number_has_a_range_and_what_is_not_in_it_is_one_line(section: str, name: str) -> None:
    options = TrainConfig().sections()[section]
    kind = get_type_hints(type(options), include_extras=True)[name]
    (limits,) = kind.__metadata__
    assert isinstance(limits, Range)
    whole = kind.__origin__ is int
    accepted, refused = list[float](), list[str]()
    for value in (-1, 0, 1, 10**10, 1e300, -1e300, math.inf, -math.inf, math.nan, -0.5, 0.5):
        if whole and not isinstance(value, int):
            continue
        written = f"[{section}]\n{name} = {value}\n"
        try:
            from_toml(written, "config.toml")
        except ConfigError as error:
            refused.append(str(error))
        else:
            accepted.append(value)
    assert refused
    assert all(line.startswith(f"config.toml: {section}") and name in line and "\n" not in line for line in refused)
    assert not any(math.isinf(value) or math.isnan(value) for value in accepted)
    assert not (whole and 10**10 in accepted)
    # The one number that may be negative: RL-R's entropy weight is a penalty then.
    assert name == "entropy_weight" or all(value >= 0 for value in accepted)


def test_a_range_says_where_it_ends() -> None:
    for limits, value, words in (
        (Range(0, 1, less=True), 1.0, "x is 1.0; it must be at least 0 and less than 1"),
        (Range(0, more=True), 0.0, "x is 0.0; it must be more than 0"),
        (Range(0), math.inf, "x is inf; it must be finite and at least 0"),
        (Range(1), 0, "x is 0; it must be at least 1"),
        (Range(1), 2**31, "x is 2147483648; it must be at least 1 and at most 2147483647"),
        (SEED, 2**32, "x is 4294967296; it must be at least 0 and at most 4294967295"),
        (Range(), math.nan, "x is nan; it must be finite"),
    ):
        with pytest.raises(ConfigError) as raised:
            limits.check("x", value)
        assert str(raised.value) == words
    SEED.check("x", 2**32 - 1)


def test_the_small_recipes_rates_are_near_those_measured_at_five_sizes_and_fall_with_the_size() -> None:
    measured = tomllib.loads((ROOT / "golden" / "grid.toml").read_text(encoding="utf-8"))["learning_rate"]
    peaks = {size: small_recipe(size).optimizer.peak_learning_rate for size in LADDER}
    assert {size: peaks[size] for size in measured} == pytest.approx(measured, rel=0.25)
    assert list(peaks.values()) == sorted(peaks.values(), reverse=True)
    assert all(small_recipe(size).optimizer.final_learning_rate == pytest.approx(peak / 10) for size, peak in peaks.items())
