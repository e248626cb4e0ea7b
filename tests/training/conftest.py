"""What the tests that start processes share."""

from pathlib import Path

import pytest

from tests.training.tiny_runs import write_corpus


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of text, tokens and compiled programs, for all processes that are started."""
    folder = tmp_path_factory.mktemp("programs")
    write_corpus(folder / "corpus")
    return folder
