"""A run's folder: its files, the run it belongs to, and whether that is finished.

lock              held by the training process
config.toml       repeats the run exactly
data.json         tokenizer and text; a run continues with the same ones only
tokenizer.model   unless the tokenizer is bytes
digests.json      `manifest.py`, SHA-256 of the other files
checkpoints/      `checkpoint.py`
set_aside/        what a run could not be continued from
metrics.jsonl     `records.py`, a line per step and per evaluation
curves.csv        `records.py`, a row per evaluation, for `fit`
choices/          `choices.py`, the experts of each evaluation's tokens
tensorboard/      `tensorboard.py`, optional
sample.txt        written last: its presence marks a finished run
"""

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.errors import InputError, WorkError
from common.files import write_atomically
from training.choices import CHOICES
from training.config import TrainConfig, differences
from training.curves import CURVES, last_loss
from training.manifest import MANIFEST, check_file, differing, is_recorded, mend, write_manifest
from training.records import METRICS, read_records
from training.restore import CHECKPOINTS, SET_ASIDE, Say, checkpoint_steps
from training.text.given import settled
from training.text.prepare import PreparedText, cached_text
from training.text.shards import MODEL
from training.text.tokenizer import ByteTokenizer, Tokenizer, tokenizer_from
from training.toml import read_toml, to_toml

CONFIG, DATA, SAMPLE, LOCK = "config.toml", "data.json", "sample.txt", "lock"

PATIENCE_SECONDS = 45
"""How long to wait for another process to release a folder.

Our choice: a process that was asked to stop may still write a checkpoint.
"""

TEXT = ("data.corpus", "data.held_out_corpus", "data.text_field", "data.tokenizer")
"""Options that name the text and its tokenizer."""

MAY_DIFFER = (
    *TEXT,
    *("data.accumulate", "data.also"),
    *("run.steps", "run.mesh", "run.keep", "run.keep_every"),
    *("run.evaluate_every", "run.evaluation_tokens", "run.checkpoint_every"),
)
"""Options that a continued run may change.

They change results by rounding only, except that RL-R resamples for each microbatch. Text and
tokenizer may have moved: `check_data` compares their content.
"""

AFTER_DECAY_BEGINS = ("optimizer.steps", "optimizer.decay_steps", "optimizer.final_learning_rate")
"""Options that have no effect before the decay of the stable schedule."""


@dataclass(frozen=True)
class Data:
    """Identifies a run's tokenizer and text."""

    tokenizer: str
    """Fingerprint of the tokenizer."""
    vocabulary: int
    train_tokens: int
    held_out_tokens: int
    content: str
    """SHA-256 of the text."""
    read_as: str
    """What its files were read as."""
    parts: tuple[tuple[float, str], ...]
    """Weights and names of its token shards in the cache."""
    held_out_part: str
    """The name of those of the text that is held out, if it is another one."""


def data_of(tokenizer: Tokenizer, text: PreparedText) -> Data:
    """The identity of a tokenizer and a text."""
    return Data(
        tokenizer.fingerprint,
        tokenizer.vocabulary,
        text.tokens("train"),
        text.tokens("held_out"),
        text.content,
        text.read_as,
        tuple((weight, shards.folder.name) for weight, shards in text.parts),
        text.held_out.folder.name if text.held_out else "",
    )


@contextmanager
def locked(folder: Path, on_event: Callable[[str], None]) -> Generator[None]:
    """Locks `folder`, creating it if needed; the system releases the lock however the process ends.

    Raises `WorkError` if another process holds it for longer than `PATIENCE_SECONDS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_event(f"another process is using {folder}; waiting for it to end")
            lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout as error:
        raise WorkError(
            f"another process is using {folder}; wait until it has ended, or use another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_options(folder: Path, config: TrainConfig) -> None:
    """Raises `InputError` if the run in `folder` cannot be continued with the options of `config`.

    All options must be equal except `MAY_DIFFER` and, with the stable schedule before its decay
    begins, `AFTER_DECAY_BEGINS`. The message lists the differences.
    """
    before = _options_before(folder, config) if is_kept(folder) else None
    if before is None:
        return
    config = replace(config, data=settled(config.data))
    newest = max(checkpoint_steps(folder / CHECKPOINTS), default=0)
    different = differences(config, before, except_for=MAY_DIFFER)
    if not different and config.group() != before.group():
        raise InputError(
            f"{folder} has a run with {before.group()} sequences per group, but this mesh and "
            f"accumulate give {config.group()}; use another mesh, or another folder with "
            "model.sequences_per_group"
        )
    reason = ""
    if config.optimizer.schedule == before.optimizer.schedule == "stable":
        decay = min(config.optimizer.decay_begins, before.optimizer.decay_begins)
        if newest <= decay:
            different = differences(config, before, except_for=MAY_DIFFER + AFTER_DECAY_BEGINS)
        else:
            reason = (
                f"; its decay begins after step {decay}, but its newest checkpoint is of step "
                f'{newest}: train in another folder with begin_from = "{folder}"'
            )
    elif config.optimizer.steps != before.optimizer.steps:
        reason = (
            "; a cosine schedule depends on its last step throughout: "
            'runs that may become longer need schedule = "stable"'
        )
    if different:
        raise InputError(
            f"{folder} has a run with other options ({'; '.join(different)}); "
            f"use its options, or another folder{reason}"
        )
    if config.run.steps < newest:
        raise InputError(
            f"{folder} has a run of {newest} steps, but run.steps is {config.run.steps}; "
            "ask for more steps, or use another folder"
        )


def is_kept(folder: Path) -> bool:
    """Whether `folder` has a checkpoint or a finished run, which no other run may replace."""
    return bool(checkpoint_steps(folder / CHECKPOINTS)) or (folder / SAMPLE).exists()


def run_options(folder: Path) -> TrainConfig:
    """The options of the run in `folder`.

    Raises `InputError` if there is none, or its config.toml is not what was written.
    """
    if (folder / CONFIG).exists():
        check_file(folder, CONFIG)
    return read_toml(folder / CONFIG)


def _options_before(folder: Path, config: TrainConfig) -> TrainConfig | None:
    """The options of the run in `folder`, `config` itself if its file is damaged but was of these.

    None if there is no run.
    """
    if differing(folder, [CONFIG]):
        if is_recorded(folder, CONFIG, to_toml(config).encode()):
            return config
        check_file(folder, CONFIG)
    return read_toml(folder / CONFIG) if (folder / CONFIG).exists() else None


RESULTS = (CURVES, METRICS, SAMPLE)
"""Files whose digests are known once a run is finished."""


def finished(folder: Path, config: TrainConfig) -> tuple[float, str] | None:
    """Held-out loss and sample of the run in `folder`.

    None if it is not finished, if one of its files is not what it was then, or if the text of
    `config` has another name than the run's.
    """
    loss = last_loss(folder / CURVES, config.run.steps)
    if loss is None or not (folder / SAMPLE).is_file() or differing(folder, RESULTS):
        return None
    if not _same_text(config, read_toml(folder / CONFIG)):
        # Whether it is the same by content is found out by reading it.
        return None
    # In binary mode, because text mode would change the sample's line ends.
    return loss, (folder / SAMPLE).read_bytes().decode()


def _same_text(one: TrainConfig, other: TrainConfig) -> bool:
    ours, theirs = (asdict(settled(config.data)) for config in (one, other))
    return all(
        ours[name.removeprefix("data.")] == theirs[name.removeprefix("data.")] for name in TEXT
    )


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
    for name in (MANIFEST, CONFIG, DATA, MODEL, CURVES, METRICS):
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


def tokenizer_of(folder: Path, config: TrainConfig) -> Tokenizer:
    """The tokenizer of the run in `folder`."""
    model = folder / MODEL
    check_file(folder, MODEL)
    if not model.exists():
        return ByteTokenizer()
    return tokenizer_from(model.read_bytes(), config.data.tokenizer)


def own_text(folder: Path, cache: Path) -> PreparedText | None:
    """The text of the run in `folder`, from the cache; None if it is not there.

    Tokens in the cache are found by content: the corpus may have moved.
    """
    if not (folder / DATA).exists():
        return None
    data = _read_data(folder / DATA)
    parts = [(weight, name) for weight, name in data.get("parts", ())]
    return cached_text(parts, data.get("held_out_part", ""), cache)


def _read_data(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"{path} is damaged; remove it to continue with the text as it is now, unchecked"
        )
    return found


def check_data(folder: Path, tokenizer: Tokenizer, text: PreparedText) -> None:
    """Raises `InputError` if the run in `folder`, if any, has another tokenizer or text."""
    if not (folder / DATA).exists():
        return
    check_file(folder, DATA)
    data, before = data_of(tokenizer, text), _read_data(folder / DATA)
    for name, what in (
        ("vocabulary", "a vocabulary of {} ids"),
        ("tokenizer", "tokenizer {:.12}"),
        ("train_tokens", "{} training tokens"),
        ("held_out_tokens", "{} held-out tokens"),
        ("content", "text of SHA-256 {:.12}"),
    ):
        was, now = before.get(name, "(not kept)"), getattr(data, name)
        if was != now:
            raise InputError(
                f"{folder} was started with {what.format(was)}, "
                f"the corpus now gives {what.format(now)}; "
                "restore the corpus, or train in another folder"
            )
