"""Every size trains with every router, routing frequency and number of experts: nothing that is accepted fails later."""

from pathlib import Path

import pytest

from reference.errors import ConfigError
from reference.routers import ROUTERS
from reference.sizes import LADDER
from tests.training.ladder import EXPERTS, accepted, lower, one_of_each
from tests.training.tiny_runs import Quiet, tiny
from training.config import DataOptions, ModelOptions, RunOptions, TrainConfig
from training.run import train
from training.toml import from_toml

pytestmark = pytest.mark.whole

CONFIGS = list(accepted())


def test_the_ladder_has_every_size_router_frequency_and_number_of_experts() -> None:
    models = [config.model for config in CONFIGS]
    for size in LADDER:
        own = [model for model in models if model.size == size]
        assert {model.router for model in own} == {"dense", *ROUTERS}
        assert {model.experts for model in own} == set(EXPERTS)
        assert {1 / model.routing_frequency for model in own} == {1, 2, LADDER[size].num_blocks}


@pytest.mark.parametrize(
    "config", one_of_each(CONFIGS), ids=lambda config: f"{config.model.size}-{config.model.router}-{config.model.experts}"
)
def test_a_model_of_every_technique_lowers(config: TrainConfig) -> None:
    lower(config)


@pytest.mark.slow
def test_every_model_lowers() -> None:
    for config in CONFIGS:
        lower(config)


@pytest.mark.parametrize(("router", "experts"), [("s-base", 128), ("switch", 1)])
def test_more_experts_than_tokens_of_a_sequence_and_a_single_one_train_and_sample(
    router: str, experts: int, tmp_path: Path, programs: Path
) -> None:
    changes = {"size": "7K", "router": router, "experts": experts, "steps": 2, "checkpoint_every": 2, "also": "", "test": 0.0}
    outcome = train(tiny(programs / "corpus", **changes), tmp_path / "run", Quiet(), programs)
    assert outcome.step == 2
    assert (tmp_path / "run" / "sample.txt").read_bytes()


@pytest.mark.parametrize("written", ["1/3", "0.3333333333333333"])
def test_routing_frequency_is_a_fraction_or_a_decimal_in_a_file(written: str) -> None:
    value = f'"{written}"' if "/" in written else written
    assert from_toml(f"[model]\nsize = '5M'\nrouting_frequency = {value}\n", "file").model.routing_frequency == 1 / 3


def test_a_mesh_that_does_not_divide_the_model_is_refused_before_anything_is_read() -> None:
    config = TrainConfig(ModelOptions("15K"), DataOptions("/there/is/none", batch=32), run=RunOptions(mesh="model=3"))
    with pytest.raises(ConfigError, match="num_heads = 4 is not divisible"):
        config.check()
