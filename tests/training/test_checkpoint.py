"""Digests of arrays, and checkpoints that are read as they were saved or called damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from tests.training.tiny_runs import Quiet, tiny, write_corpus
from training.digests import digests
from training.optimizer import make_optimizer
from training.restore import CHECKPOINTS, DamagedError, read_newest, read_state
from training.run import train
from training.start import run_mesh, state_shapes


def digest(array: Any) -> str:
    """Of one array."""
    return digests({"x": jnp.asarray(array)})["x"]


def by_hand(array: np.ndarray[Any, Any]) -> str:
    """The digest of a float32 array, in Python's integers."""
    plain = weighted = 0
    for index, word in enumerate(array.reshape(-1).view(np.uint32).tolist()):
        x = word ^ ((index + 1) * 0x85EBCA77 % 2**32)
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        x ^= x >> 16
        plain, weighted = plain + x, weighted + x * (index * 0x9E3779B2 + 1)
    return f"{plain % 2**32:08x}{weighted % 2**32:08x}"


def test_a_digest_is_what_its_formula_gives() -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    assert digest(array) == by_hand(array)


@given(index=st.integers(0, 59), bit=st.integers(0, 31))
def test_every_flipped_bit_changes_both_halves_of_a_digest(index: int, bit: int) -> None:
    words = np.random.default_rng(1).integers(0, 2**32, (3, 4, 5), np.uint32)
    before = digest(words)
    words.reshape(-1)[index] ^= np.uint32(1 << bit)
    after = digest(words)
    assert after[:8] != before[:8]
    assert after[8:] != before[8:]


def test_moved_elements_and_other_kinds_of_numbers_change_a_digest() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    found = {digest(array), digest(array[::-1]), digest(array[:, ::-1]), digest(np.roll(array, 1)), digest(array.astype(np.int32))}
    assert len(found) == 5
    for dtype in (jnp.bfloat16, jnp.int8, jnp.bool_):
        assert digest(jnp.arange(5).astype(dtype)) != digest(jnp.arange(5)[::-1].astype(dtype))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense run of 4 steps with checkpoints of steps 2 and 4."""
    base = tmp_path_factory.mktemp("checkpoint")
    config = tiny(write_corpus(base / "corpus"), size="7K", router="dense", steps=4, checkpoint_every=2, test=0.0, also="")
    train(config, base / "run", Quiet(), base)
    return base


def shapes(base: Path) -> Any:
    """Of the run's state."""
    config = tiny(base / "corpus", size="7K", router="dense", steps=4)
    return state_shapes(config.model_config(257), make_optimizer(config.optimizer), run_mesh(config.run))


def edited(base: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Checkpoints of which the newest one's JSON is changed."""
    shutil.copytree(base / "run" / CHECKPOINTS, folder)
    path = folder / "step_4" / "data" / "metadata"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    return folder


def test_what_is_saved_is_read(base: Path) -> None:
    state, place = read_state(base / "run" / CHECKPOINTS, 4, shapes(base))
    assert place == {"next_index": 4}
    assert int(state.step) == 4


def test_a_position_in_the_data_that_is_not_the_steps_is_damage(base: Path, tmp_path: Path) -> None:
    for place in (12, 99999999999, -5, None):
        folder = edited(base, tmp_path / str(place), lambda about, place=place: about["place"].update(next_index=place))
        with pytest.raises(DamagedError, match=r"its position in the data is .*, not batch 4"):
            read_state(folder, 4, shapes(base))


def test_an_array_that_is_not_what_was_saved_is_named_and_the_older_checkpoint_taken(base: Path, tmp_path: Path) -> None:
    def _other_digest(about: dict[str, Any]) -> None:
        about["arrays"]["model.embedding"]["digest"] = "0" * 16

    folder, heard = edited(base, tmp_path / "other", _other_digest), list[str]()
    state, place, step = read_newest(folder, [2, 4], shapes(base), heard.append)
    assert (int(state.step), place, step) == (2, {"next_index": 2}, 2)
    assert heard == [f"{folder}: the checkpoint of step 4 is damaged: model.embedding is not what was saved; that of step 2 is taken"]
    with pytest.raises(InputError, match=r"step 4 is damaged: .*no older checkpoint can be used\. Restore it") as raised:
        read_newest(folder, [4], shapes(base), heard.append)
    assert "\n" not in str(raised.value)


def test_arrays_of_another_model_are_no_damage(base: Path) -> None:
    config = tiny(base / "corpus", size="15K", router="dense")
    like = state_shapes(config.model_config(257), make_optimizer(config.optimizer), run_mesh(config.run))
    with pytest.raises(InputError, match=r"has shape .* in the checkpoint, .* in the model; use the options of its run"):
        read_newest(base / "run" / CHECKPOINTS, [2, 4], like, print)
