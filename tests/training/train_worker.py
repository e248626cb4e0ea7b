"""Trains as asked, in a process of its own that can be killed; prints what happens, a JSON object a line.

    python train_worker.py '{"folder": ..., "cache": ..., "config": TOML}'

Further keys: `inside`, the folder it runs in; `hidden`, names of files that this process does not see; `devices`, how many XLA is to
simulate; `processes`, the fields of `Processes`; `heartbeat`, seconds.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def say(**event: Any) -> None:
    """Print an event; whoever reads sees it at once."""
    print(json.dumps(event), flush=True)


class Teller:
    """Tells what it is shown."""

    def on_step(self, progress: Any) -> None:
        """The step and its loss."""
        say(step=progress.step, loss=progress.loss, held_out=progress.held_out)

    def on_event(self, message: str) -> None:
        """The message."""
        say(event=message)


def digest(folder: Path, step: int) -> str:
    """Of every array of the checkpoint of `step`, by name."""
    import numpy as np
    import orbax.checkpoint as ocp

    path = folder / "checkpoints" / f"step_{step}" / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        names = checkpointer.metadata(path).item_metadata.tree
        plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        arrays = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=plain))
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + np.asarray(arrays[name]).tobytes())
    return whole.hexdigest()


def hide(names: Sequence[str]) -> None:
    """Files of these names are not there for this process, as on a file system that has not caught up with another's writes."""
    exists, is_file = Path.exists, Path.is_file
    Path.exists = lambda self: self.name not in names and exists(self)
    Path.is_file = lambda self: self.name not in names and is_file(self)


def main(request: dict[str, Any]) -> int:
    """Train; the exit codes are those of `cli.py`."""
    if "devices" in request:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={request['devices']}"
    from common.errors import InputError, WorkError
    from common.files import store_url
    from training import distributed
    from training.run import train
    from training.toml import from_toml

    hide(request.get("hidden", ()))
    distributed.HEARTBEAT_SECONDS = request.get("heartbeat", distributed.HEARTBEAT_SECONDS)
    processes = distributed.Processes(**request["processes"]) if "processes" in request else None
    folder = Path(request["folder"])
    folder = folder if store_url(folder) else folder.absolute()
    os.chdir(request.get("inside", "."))
    say(event="ready")
    try:
        outcome = train(from_toml(request["config"], "the test"), folder, Teller(), Path(request["cache"]), processes)
    except (InputError, WorkError) as error:
        say(error=str(error))
        return 2 if isinstance(error, InputError) else 1
    say(done=outcome.step, stopped=outcome.stopped, held_out=outcome.held_out, sample=outcome.sample)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
