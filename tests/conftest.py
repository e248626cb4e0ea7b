"""What all tests share: settings of JAX and hypothesis, the order of the files, the released runs, and text for training."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.checks import check_anew, compile_quickly

# As the commands set it: two workers on two cores, with matrices so small that threads of the linear algebra only wait for each other.
# The workers are started by this process and take it over.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
compile_quickly()
# What one test compiles, the workers and the processes that they start find. Below a fifth of a second compiling is as fast.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="routelaw-tests-xla-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# A busy machine must not fail a test: no time limit for an example, nor for drawing it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LONGEST = ("sweep/test_local", "training/test_resume", "training/test_distributed", "training/test_run", "reference/test_mesh")
"""Files that take longest: first, so that none of them is left for the end, when one worker has nothing to do."""

RELEASE = Path(__file__).parents[2] / "shared" / "data" / "curves.csv.gz"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    items.sort(key=lambda item: not any(f"tests/{name}.py" in item.nodeid for name in LONGEST))


def pytest_collection_finish() -> None:
    """What is loaded by now stays, and Python's garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def pytest_runtest_setup() -> None:
    """Check the first calls of every function anew in each test."""
    check_anew()


@pytest.fixture(scope="session")
def release() -> Path:
    """The released curves, read from beside the checkout; tests that need them are skipped only where they are absent."""
    if not RELEASE.exists():
        pytest.skip("the released curves are not beside this checkout (expected ../shared/data/curves.csv.gz)")
    return RELEASE


@pytest.fixture
def fresh_optimizers() -> Generator[None]:
    """Optimizers, and the steps compiled for them, that no other test has used: for tests that replace a part of them."""
    from training.optimizer import make_optimizer

    make_optimizer.cache_clear()
    yield
    make_optimizer.cache_clear()


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of text, tokens and compiled programs, for all processes that are started."""
    from tests.training.tiny_runs import write_corpus

    folder = tmp_path_factory.mktemp("programs")
    write_corpus(folder / "corpus")
    return folder
