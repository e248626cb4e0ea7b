"""The random keys of a run: each is used for one purpose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.training.tiny_runs import Quiet, tiny, write_corpus
from training import loop, run
from training.keys import run_keys
from training.run import train


class Recorder:
    """Records every key that is split off or folded while a function of some purpose runs, compiled or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: dict[str, set[tuple[int, ...]]] = {}
        self._purpose = ""
        self._patch = monkeypatch
        for name in ("split", "fold_in"):
            monkeypatch.setattr(jax.random, name, self._recorded(getattr(jax.random, name)))

    def watch(self, module: Any, name: str, purpose: str) -> None:
        """Attribute what `module.name` derives, and what is traced in it, to `purpose`."""
        function = getattr(module, name)

        def _attributed(*arguments: Any, **named: Any) -> Any:
            before, self._purpose = self._purpose, purpose
            try:
                return function(*arguments, **named)
            finally:
                self._purpose = before

        self._patch.setattr(module, name, _attributed)

    def _recorded(self, derive: Callable[..., Any]) -> Callable[..., Any]:
        def _derive(*arguments: Any, **named: Any) -> Any:
            keys = derive(*arguments, **named)
            if self._purpose:
                found = self.keys.setdefault(self._purpose, set())

                def _keep(data: Any) -> None:
                    found.update(tuple(row) for row in np.asarray(data).reshape(-1, 2).tolist())

                jax.debug.callback(_keep, jax.random.key_data(keys))
            return keys

        return _derive


@pytest.mark.usefixtures("fresh_optimizers")
def test_no_two_purposes_of_a_run_use_the_same_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    for module, name, purpose in ((run, "first_state", "init"), (loop, "train_step", "steps"), (run, "sample", "sample")):
        recorder.watch(module, name, purpose)
    config = tiny(write_corpus(tmp_path / "corpus"), router="rl-r", steps=8)
    train(config, tmp_path / "run", Quiet(), tmp_path / "cache")
    jax.effects_barrier()
    # Of the weights embedding, attention, feed-forward and router; of the steps eight; of the text its positions.
    assert min(len(recorder.keys[purpose]) for purpose in ("init", "steps")) >= 8
    assert len(recorder.keys["sample"]) == run.SAMPLE_TOKENS
    for one, other in (("init", "steps"), ("init", "sample"), ("steps", "sample")):
        assert not recorder.keys[one] & recorder.keys[other], (one, other)


def test_the_keys_of_two_seeds_are_all_different() -> None:
    keys = {tuple(jax.random.key_data(key).tolist()) for seed in range(50) for key in run_keys(seed)}
    assert len(keys) == 150
