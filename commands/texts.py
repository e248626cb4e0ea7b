"""`tokenize` and `cache`: text as token ids, and where they are kept."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from commands.shared import progress_shown
from common.terminal import printable


@dataclass(frozen=True)
class Tokenize:
    """Write a corpus as token shards, which `train --corpus` streams instead of holding them in memory."""

    corpus: Annotated[str, tyro.conf.Positional]
    """Text: text, JSON, CSV, Parquet or Arrow files (also .gz, .xz, .zst): a file, a folder, or a glob pattern."""
    out: Annotated[Path, tyro.conf.Positional]
    """The folder to write; it must not exist."""
    tokenizer: str = "bytes"
    """bytes, bpe:SIZE (trained on the corpus), a SentencePiece .model or a Hugging Face tokenizer.json."""
    held_out: float = 0.05
    """Fraction of the documents that is held out; of a single document, its last part."""
    test: float = 0.0
    """Fraction of documents in the test split, for final results."""
    text_field: str = "text"
    """The field or column of JSON, CSV, Parquet or Arrow records that is their text."""
    skip_bad_records: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out records without a readable text, and count them."""

    def run(self) -> None:
        """Tokenize, and print the size of each split."""
        from common.files import store_url
        from training.cache import cache_folder
        from training.config import DataOptions
        from training.text.files import check_local
        from training.text.prepare import how_far, tokenize
        from training.text.read import Corpus
        from training.text.split import TITLES

        if not store_url(self.corpus):
            check_local(self.corpus)
        check_local(str(self.out))
        options: Any = {"text_field": self.text_field, "skip_bad_records": self.skip_bad_records}
        data = DataOptions(self.corpus, self.tokenizer, self.held_out, self.test, **options)
        begun = time.monotonic()
        with progress_shown("MB") as progress:

            def _shown(corpus: Corpus) -> None:
                progress(corpus.done // 10**6, corpus.total // 10**6, how_far(corpus, time.monotonic() - begun))

            shards = tokenize(
                data, self.out, cache_folder(), lambda message: print(printable(message), file=sys.stderr, flush=True), _shown
            )[1]
        if shards.cut:
            print(printable(f"{self.corpus} is one document: its last part is held out"))
        for split, number in shards.documents.items():
            tokens = sum(shard.tokens for shard in shards.files[split])
            print(printable(f"{self.out}, {TITLES[split]}: {tokens:,} tokens of {number:,} documents"))


@dataclass(frozen=True)
class Cache:
    """List what the cache holds: tokens of corpora, trained tokenizers, compiled programs."""

    clear: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Remove all of it; later runs make anew what they need."""
    older_than: float = 0.0
    """Only what was last written this many days ago."""

    def run(self) -> None:
        """List, and remove if asked."""
        from training.cache import cache_folder, clear, entries

        folder, oldest = cache_folder(), time.time() - 86_400 * self.older_than
        found = [entry for entry in entries(folder) if entry.changed <= oldest]
        for entry in found:
            days = (time.time() - entry.changed) / 86_400
            print(f"{entry.bytes / 1e6:12,.1f} MB  {days:6.1f} days  {entry.kind:<18}  {entry.path.name}")
        total = sum(entry.bytes for entry in found) / 1e6
        if self.clear:
            clear(found)
        print(f"{total:12,.1f} MB in {folder}" + (", removed" if self.clear else ""))
