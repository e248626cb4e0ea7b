"""The losses of a hundred steps of each router, as `golden_losses.json` has them. To write it anew, and say why in the commit:

python tests/training/golden_losses.py
"""

import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import reference.routers
from tests.checks import compile_quickly
from tests.training.tiny_runs import Started, tiny, train_here, write_corpus
from training.config import TrainConfig

FILE = Path(__file__).with_name("golden_losses.json")
ROUTERS = ("dense", *reference.routers.ROUTERS)


def fingerprint() -> dict[str, Any]:
    """What the last bits of a result depend on, besides the code: the processor, how many cores, and what compiles for it."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = "; ".join(
            next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "") for name in ("model name", "flags")
        )
    return {"processor": model, "cores": os.cpu_count(), "jax": jax.__version__, "jaxlib": version("jaxlib")}


def config_of(router: str, folder: Path, steps: int, mesh: str = "data=1") -> TrainConfig:
    """The schedule, and so what is compiled, is the same whatever the number of steps."""
    return tiny(folder / "corpus", router=router, mesh=mesh, test=0.0, also="", steps=steps, evaluate_every=100, checkpoint_every=100)


def losses(router: str, folder: Path, steps: int = 100) -> list[float]:
    """Of the first `steps` steps, on one device."""
    _, heard = train_here(config_of(router, folder, steps), folder / f"golden-{router}-{steps}", folder)
    return [progress.loss for progress in heard.steps]


def losses_on_mesh(router: str, folder: Path) -> list[float]:
    """Of a hundred steps on four devices, in a process that has them."""
    config = config_of(router, folder, 100, "data=2,expert=2")
    return [event["loss"] for event in Started(config, folder / f"golden-{router}", folder, devices=4).finish() if "loss" in event]


if __name__ == "__main__":
    # As the tests: optimizations change the last bits. JAX has read its own variable by now.
    compile_quickly()
    jax.config.update("jax_disable_most_optimizations", True)
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus")
        found = {router: losses(router, Path(folder)) for router in ROUTERS}
    FILE.write_text(json.dumps({"platform": fingerprint(), "losses": found}, indent=1) + "\n")
