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
from tests.training.tiny_runs import Started, tiny, write_corpus

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


def losses(router: str, folder: Path, steps: int = 100, **request: Any) -> list[float]:
    """Of the first `steps` steps, whatever their number; `request` as `Started` takes it, with `mesh`."""
    mesh = request.pop("mesh", "data=1")
    config = tiny(folder / "corpus", router=router, mesh=mesh, test=0.0, also="", steps=steps, evaluate_every=100, checkpoint_every=100)
    run = Started(config, folder / f"golden-{router}-{mesh}-{steps}", folder, **request)
    found = {event["step"]: event["loss"] for event in run.finish() if "loss" in event}
    assert list(found) == list(range(1, steps + 1)), run.stderr()
    return list(found.values())


if __name__ == "__main__":
    # As in the tests (tests/conftest.py): XLA's optimizations change the last bits.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus")
        found = {router: losses(router, Path(folder)) for router in ROUTERS}
    FILE.write_text(json.dumps({"platform": fingerprint(), "losses": found}, indent=1) + "\n")
