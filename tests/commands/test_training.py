"""The options of `train`: its configuration, printed without a run, and the folder's name."""

from pathlib import Path

import pytest
import tyro

from cli import main
from commands.training import Train, folder_name
from training.config import TrainConfig, paper_recipe
from training.toml import from_toml


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> TrainConfig:
    assert main(["train", *arguments, "--print-config"]) == 0
    return from_toml(capsys.readouterr().out, "printed")


def test_a_configuration_is_printed_without_a_run_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed(capsys) == TrainConfig()
    assert printed(capsys, "--size", "1.3B", "--experts", "64", "--recipe", "paper") == paper_recipe()
    changed = printed(capsys, "--size", "5M", "--routing-frequency", "1/3", "--steps", "40", "--learning-rate", "1e-3")
    assert changed.model.routing_frequency == 1 / 3
    assert (changed.run.steps, changed.optimizer.steps, changed.optimizer.warmup_steps) == (40, 40, 4)
    assert changed.optimizer.final_learning_rate == pytest.approx(1e-4)
    assert not [*tmp_path.iterdir()]


def test_help_shows_the_real_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    default = TrainConfig()
    for value in (default.model.size, default.model.router, default.run.steps, default.data.batch, default.model.context):
        assert f"(default: {value})" in words
    assert "None" not in words


OTHERS: dict[str, list[str]] = {
    "107K-s-base-e8-seed0": [],
    "107K-s-base-e8-400steps-seed0": ["--steps", "400"],
    "107K-s-base-e8-lr0.001-seed0": ["--learning-rate", "1e-3"],
    "107K-s-base-e8-books-seed1": ["--corpus", "my/books", "--seed", "1"],
    "60K-hash-e8-k2-seed0": ["--size", "60K", "--router", "hash", "--k", "2"],
    "107K-dense-seed0": ["--router", "dense"],
    "107K-s-base-e8-bpe_300-seed0": ["--tokenizer", "bpe:300"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_is_named_after_what_differs_from_the_recipe(name: str) -> None:
    assert folder_name(tyro.cli(Train, args=OTHERS[name]).options()) == name


def test_every_other_option_changes_the_folders_name() -> None:
    names = [
        folder_name(train.options()) for train in (Train(batch=16), Train(context=64), Train(capacity_factor=2.0), Train(text_field="body"))
    ]
    assert len({*names, folder_name(TrainConfig())}) == 5


def test_what_a_run_may_change_as_it_goes_on_leaves_the_name() -> None:
    assert folder_name(Train(accumulate=2).options()) == folder_name(TrainConfig())


@pytest.mark.parametrize("arguments", [["--context", "0"], ["--mesh", "model=3"], ["--experts", "0"], ["--routing-frequency", "2/3"]])
def test_what_cannot_work_is_refused_before_the_text_is_looked_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--corpus", "/there/is/none", *arguments]) == 2
    assert "corpus" not in capsys.readouterr().err
