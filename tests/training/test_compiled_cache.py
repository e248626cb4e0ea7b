"""Programs that are kept for later runs change nothing but the time they take."""

from pathlib import Path

import pytest

from tests.training.tiny_runs import Started, result, tiny
from training.config import TrainConfig

STEPS = 4


@pytest.fixture(scope="module")
def config(programs: Path) -> TrainConfig:
    """A run of four steps of a dense model: nothing here depends on the router."""
    return tiny(programs / "corpus", router="dense", test=0.0, also="", steps=STEPS)


def started(config: TrainConfig, folder: Path, cache: Path) -> Started:
    """A run that keeps programs where `train` keeps them, in `cache`."""
    return Started(config, folder, cache, own_cache=True)


def xla(cache: Path) -> list[Path]:
    """What is kept."""
    return sorted(cache.glob("xla-*/*-cache"))


@pytest.mark.slow
def test_results_are_the_same_bits_compiled_or_taken_from_the_cache_by_two_at_once_or_broken(config: TrainConfig, tmp_path: Path) -> None:
    # Two that compile at once and write the same entries.
    both = [started(config, tmp_path / name, tmp_path) for name in ("one", "other")]
    for run in both:
        assert run.finish()[-1]["done"] == STEPS, run.stderr()
    compiled = result(tmp_path / "one", STEPS)
    assert result(tmp_path / "other", STEPS) == compiled
    kept = xla(tmp_path)
    assert kept
    # Half of the entries as a kill leaves them, cut short; the others are taken as they are.
    for path in kept[::2]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = started(config, tmp_path / "again", tmp_path)
    assert again.finish()[-1]["done"] == STEPS, again.stderr()
    assert result(tmp_path / "again", STEPS) == compiled
    # Nothing else was compiled.
    assert xla(tmp_path) == kept
