"""The devices of a run: which it uses of those there are, and what is missing where none are."""

import math
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from common.errors import InputError, first_line
from common.terminal import Say
from reference.config import check_shape
from reference.errors import ConfigError
from reference.mesh import DATA, EXPERT, MODEL, default_axes
from training.config import TrainConfig

EXTRAS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}
"""The extra that has JAX for a platform."""


def all_devices() -> list[Any]:
    """The `jax.Device`s of all processes.

    Raises `InputError` where the requested platform has none.
    """
    try:
        return jax.devices()
    except RuntimeError as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        extras = [EXTRAS[name] for name in asked.split(",") if name in EXTRAS]
        install = f"install its driver, and JAX for it: uv sync --extra {(extras or ['cuda'])[0]}"
        raise InputError(
            f"JAX has no device of the platform {asked or '(JAX_PLATFORMS is not set)'}: "
            f"{first_line(error)}\n{install}\nor train on the CPU: JAX_PLATFORMS=cpu"
        ) from error


def unused_accelerator() -> str | None:
    """A line on an accelerator of this machine that JAX does not see; None if there is none.

    `JAX_PLATFORMS=cpu` says that this is meant.
    """
    if jax.default_backend() != "cpu" or "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        return None
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        name, extra = "an NVIDIA GPU", "cuda"
    elif Path("/dev/accel0").exists():
        name, extra = "a TPU", "tpu"
    else:
        return None
    return (
        f"this machine has {name}, but JAX sees only its CPU: uv sync --extra {extra} "
        "(JAX_PLATFORMS=cpu if that is meant)"
    )


def settled(config: TrainConfig, say: Say) -> TrainConfig:
    """`config` with `mesh = "all"` written out for the devices there are.

    Of all devices it takes as many as the batch and the model can be divided by, by
    `reference.mesh.default_axes`. Tells `say` which, and what would use the others. Raises
    `InputError` if there are several processes, whose devices must all be used, and they do not
    divide the batch.
    """
    if config.run.mesh != "all":
        return config
    devices = all_devices()
    model = config.model_config(config.data.vocabulary() or 257)
    experts = model.router.num_experts if model.router else 1
    micro = config.data.batch // config.data.accumulate

    def _fits(number: int) -> bool:
        data, expert, model_axis = default_axes(number, experts)
        shape = {DATA: data, EXPERT: expert, MODEL: model_axis}
        try:
            check_shape(model, shape, micro)
        except ConfigError:
            return False
        return True

    there = len(devices)
    used = next(filter(_fits, range(there, 0, -1)), 1)
    if used < there and jax.process_count() > 1:
        raise InputError(
            f"{jax.process_count()} processes have {there} devices, which do not divide a "
            f"microbatch of {micro} sequences; use a batch of {_next(micro, there)}, or --mesh"
        )
    axes = zip((DATA, EXPERT, MODEL), default_axes(used, experts), strict=True)
    mesh = ",".join(f"{axis}={number}" for axis, number in axes if number > 1) or "data=1"
    if jax.process_index() == 0 and (there > 1 or devices[0].platform != "cpu"):
        kinds = ", ".join(
            f"{n} x {kind}" for kind, n in Counter(d.device_kind for d in devices).items()
        )
        idle = (
            f"; {there - used} are idle, because {used} divide a microbatch of {micro} sequences: "
            f"--batch {_next(micro, there) * config.data.accumulate} would use all"
        )
        say(f"devices: {kinds}; mesh {mesh}{idle if used < there else ''}")
    return replace(config, run=replace(config.run, mesh=mesh))


def _next(batch: int, devices: int) -> int:
    """The least multiple of `devices` that is at least `batch`."""
    return math.ceil(batch / devices) * devices
