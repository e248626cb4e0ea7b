"""A run read again: weights alone, on one device or a mesh, in the type asked for; and text too short to measure."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import InputError
from reference.config import Dtype
from tests.checks import on_devices
from tests.training.tiny_runs import ROOT, Quiet, tiny, write_corpus
from training.load import evaluate_run, load_run, sample_run
from training.optimizer import make_optimizer
from training.restore import CHECKPOINTS, read_state, read_weights
from training.run import train
from training.start import model_shapes, run_mesh, state_shapes


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of tokens, and the folder of all that is here."""
    return tmp_path_factory.mktemp("load")


@pytest.fixture(scope="module")
def run(cache: Path) -> Path:
    """Three steps with S-BASE."""
    config = tiny(write_corpus(cache / "corpus"), steps=3, test=0.0, also="")
    train(config, cache / "run", Quiet(), cache)
    return cache / "run"


def on_eight_devices(cache: Path, *arguments: str) -> str:
    """Standard output of the command in a process with 8 simulated devices."""
    environment = on_devices(8) | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "cli.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_on_eight_devices_a_run_has_the_losses_and_the_text_of_one(run: Path, cache: Path) -> None:
    mesh = ("--mesh", "data=2,expert=4")
    found = json.loads(on_eight_devices(cache, "eval", str(run), "--corpus", str(cache / "corpus"), "--json", *mesh))
    expected = dataclasses.asdict(evaluate_run(run, str(cache / "corpus"), cache))
    # float32 sums in another order; the numbers of tokens and bytes are the same.
    assert found == {name: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value for name, value in expected.items()}
    options = ("--prompt", "the cat", "--tokens", "20", "--samples", "3", "--json")
    record = json.loads(on_eight_devices(cache, "sample", str(run), *options, *mesh))
    assert record["texts"] == sample_run(run, "the cat", tokens=20, samples=3).texts
    assert len(set(record["texts"])) == 3
    assert record["texts"][:1] == sample_run(run, "the cat", tokens=20).texts


def test_the_weights_of_a_checkpoint_are_those_of_its_state(run: Path) -> None:
    loaded = load_run(run)
    mesh = run_mesh(loaded.config.run)
    shapes = state_shapes(loaded.model.config, make_optimizer(loaded.config.optimizer), mesh)
    state, place = read_state(run / CHECKPOINTS, 3, shapes)
    jax.tree.map(np.testing.assert_array_equal, loaded.model, state.model)
    assert loaded.step == 3
    assert place == {"next_index": 3}


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_weights_are_restored_in_the_type_asked_for(run: Path, dtype: Dtype, size: int) -> None:
    loaded, stored = load_run(run, dtype=dtype).model, load_run(run).model
    for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(stored), strict=True):
        assert one.dtype.itemsize == size
        np.testing.assert_array_equal(one, other.astype(dtype))
    logits, _ = loaded(jnp.zeros((1, 16), jnp.int32), inference=True)
    assert logits.dtype == jnp.float32
    assert loaded.config.dtype == dtype


def test_no_optimizer_state_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import orbax.checkpoint as ocp

    read: list[set[str]] = []
    restore = ocp.PyTreeCheckpointHandler.restore

    def _recorded(self: Any, path: Any, args: Any) -> Any:
        found: Any = restore(self, path, args=args)
        read.append(set(found))
        return found

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", _recorded)
    config = load_run(run).model.config
    read_weights(run / CHECKPOINTS, None, model_shapes(config, None, None), print)
    assert all(name.startswith("model.") for names in read for name in names)
    assert len(read) == 2


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_of_fewer_than_two_bytes_is_one_line(run: Path, cache: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "short.txt").write_text(text)
    with pytest.raises(InputError, match=r"fewer than two bytes|has no held-out text") as raised:
        evaluate_run(run, str(tmp_path / "short.txt"), cache)
    assert "\n" not in str(raised.value)
