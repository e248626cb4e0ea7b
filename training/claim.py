"""Whose a run's folder is: claimed by a run at its start, marked as finished at its end."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from common.errors import InputError
from common.files import write_atomically
from common.terminal import Say
from training.choices import CHOICES
from training.config import TrainConfig
from training.curves import CURVES
from training.folder import (
    CONFIG,
    DATA,
    RESULTS,
    SAMPLE,
    check_data,
    check_options,
    data_of,
    is_kept,
)
from training.manifest import MANIFEST, differing, is_recorded, mend, write_manifest
from training.records import METRICS, read_records
from training.restore import SET_ASIDE
from training.text.prepare import PreparedText
from training.text.shards import MODEL
from training.text.tokenizer import Tokenizer
from training.toml import read_toml, to_toml
from training.wandb import ID as WANDB_ID


def claim(
    folder: Path, config: TrainConfig, tokenizer: Tokenizer, text: PreparedText, say: Say
) -> None:
    """Check options, tokenizer and text against the run in `folder`, and write the missing files.

    Called by one process. A run that left neither a checkpoint nor a result is replaced. Raises
    `InputError` if the folder has another run.
    """
    identity = _identity(config, tokenizer, text)
    if not is_kept(folder):
        _clear(folder, identity, say)
    for name, content in identity.items():
        mend(folder, name, content, say)
    check_options(folder, config)
    check_data(folder, tokenizer, text)
    if (folder / CONFIG).exists() and read_toml(folder / CONFIG).run.steps != config.run.steps:
        # It marks the end of the run, which has moved.
        (folder / SAMPLE).unlink(missing_ok=True)
    for name, content in identity.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            write_atomically(folder / name, content)
    write_manifest(folder, identity)


def finish(
    folder: Path, config: TrainConfig, tokenizer: Tokenizer, text: PreparedText, sample: str
) -> None:
    """Write the sample, which marks a run as finished, and the digests of all results."""
    contents = {name: (folder / name).read_bytes() for name in RESULTS if name != SAMPLE}
    contents |= {SAMPLE: sample.encode()} | _identity(config, tokenizer, text)
    write_manifest(folder, contents)
    write_atomically(folder / SAMPLE, sample)


def _identity(config: TrainConfig, tokenizer: Tokenizer, text: PreparedText) -> dict[str, bytes]:
    """The files that say which run a folder has."""
    data = json.dumps(asdict(data_of(tokenizer, text)), indent=1) + "\n"
    model = {} if tokenizer.model is None else {MODEL: tokenizer.model}
    return {CONFIG: to_toml(config).encode(), DATA: data.encode(), **model}


def _clear(folder: Path, identity: dict[str, bytes], say: Say) -> None:
    """Remove what a run of other options or text left that kept no checkpoint."""
    if all(is_recorded(folder, name, content) for name, content in identity.items()):
        return
    if (folder / CONFIG).exists():
        say(f"{folder} had another run without a checkpoint; it is replaced")
    for name in (MANIFEST, CONFIG, DATA, MODEL, CURVES, METRICS, WANDB_ID):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / CHOICES, ignore_errors=True)


def start_over(folder: Path, config: TrainConfig, say: Say) -> None:
    """Make room for a run from step 0 where there is no checkpoint.

    Records that reach the first checkpoint are moved aside. Raises `InputError` if the run is
    finished.
    """
    if (folder / SAMPLE).exists():
        damaged = ", ".join(differing(folder, RESULTS)) or CURVES
        raise InputError(
            f"{folder} has a finished run whose {damaged} is damaged, and no checkpoint to write "
            "it from; restore it from a backup, or train in another folder"
        )
    found = read_records(folder / METRICS)
    if not found.records and not found.damage:
        return
    many = f"{folder} has records of {found.last_step} steps, but no checkpoint to continue from"
    if found.damage or found.last_step >= config.run.checkpoint_every:
        target = folder / SET_ASIDE
        target.mkdir(exist_ok=True)
        for name in (METRICS, CURVES):
            if (folder / name).exists():
                (folder / name).replace(target / name)
        say(f"{many}; they are now in {target}, and training starts over")
    else:
        say(f"{many}; training starts over")
