"""Training a SentencePiece tokenizer, in a process of its own, so that Ctrl-C ends it at once."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from common.errors import InputError, WorkError
from common.files import write_atomically
from training.text.tokenizer import SentencePieceTokenizer

OPTIONS = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "user_defined_symbols": ["\n"],
    "bos_id": -1,
    "eos_id": -1,
    "max_sentence_length": 1 << 20,
    "num_threads": 1,
    "minloglevel": 2,
}
"""SentencePiece's options; several threads would give another tokenizer each time."""

TOKENIZER_TEXT = 100 << 20
"""Maximum characters of training text that a tokenizer is trained on."""

_TRAIN = """
import io, json, sys, sentencepiece
model = io.BytesIO()
lines = (line.rstrip(b"\\n") for line in sys.stdin.buffer)
try:
    options = json.loads(sys.argv[1])
    sentencepiece.SentencePieceTrainer.Train(sentence_iterator=lines, model_writer=model, **options)
except RuntimeError as error:
    sys.exit(str(error))
sys.stdout.buffer.write(model.getvalue())
"""


def train_bpe(texts: Iterable[str], vocabulary: int) -> bytes:
    """A SentencePiece BPE model trained on `texts`, with `vocabulary` ids including `end`.

    Deterministic. Raises `InputError` if there is too little text for this vocabulary.
    """
    options = json.dumps(OPTIONS | {"vocab_size": vocabulary - 1})
    command = [sys.executable, "-c", _TRAIN, options]
    pipe = subprocess.PIPE
    # In a session of its own: Ctrl-C is for this process, which ends that one.
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    ) as process:
        try:
            assert process.stdin is not None
            for lines in _lines(texts):
                process.stdin.write(lines)
            model, errors = process.communicate()
        except BrokenPipeError:
            model, errors = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode == 1 and errors:
        message = errors.decode(errors="replace").strip()
        raise InputError(
            f"a tokenizer of {vocabulary} ids cannot be trained on this corpus "
            f"({message.split('. ')[-1].strip() or message}); ask for another number"
        )
    if process.returncode:
        raise WorkError(f"the training of a tokenizer ended with status {process.returncode}")
    return model


def _lines(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        yield "".join(f"{line}\n" for line in text.splitlines() if line).encode()


def trained_tokenizer(
    texts: Iterable[str], vocabulary: int, cache: Path, key: str
) -> SentencePieceTokenizer:
    """The BPE tokenizer of `vocabulary` ids, from `cache`, or trained and cached.

    `key` identifies `texts`.
    """
    path = cache / f"bpe-{vocabulary}-{key}.model"
    if not path.exists():
        write_atomically(path, train_bpe(texts, vocabulary))
    return SentencePieceTokenizer(path.read_bytes(), f"bpe:{vocabulary}")


def training_version() -> str:
    """What a trained tokenizer depends on besides its text, part of its cache key."""
    return f"{json.dumps(OPTIONS)} {TOKENIZER_TEXT} sentencepiece {version('sentencepiece')}"
