"""Where compiled programs are kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from training.host import keep_compiled

OPTIONS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes")


@pytest.fixture
def no_cache() -> Iterator[None]:
    """JAX as it is where nobody has asked for a cache; put back as it was."""
    settings: Any = jax.config
    before = {name: getattr(settings, name) for name in OPTIONS}
    jax.config.update(OPTIONS[0], None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("no_cache")
def test_programs_are_kept_in_the_given_folder_unless_the_user_has_named_one(tmp_path: Path) -> None:
    settings: Any = jax.config
    assert keep_compiled(tmp_path / "ours")
    first = Path(settings.jax_compilation_cache_dir)
    assert first.parent == tmp_path / "ours"
    # Small and quick programs, too.
    assert (settings.jax_persistent_cache_min_compile_time_secs, settings.jax_persistent_cache_min_entry_size_bytes) == (0.0, -1)
    assert not keep_compiled(tmp_path / "other")
    assert Path(settings.jax_compilation_cache_dir) == first
