"""Folders of token shards that are given as a corpus."""

from dataclasses import replace
from pathlib import Path

from common.errors import InputError
from training.config import DataOptions
from training.text.fetch import local_path
from training.text.files import mixture
from training.text.shards import INDEX, MODEL, read_index
from training.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_from


def settled(data: DataOptions) -> DataOptions:
    """`data` as it is: with a folder of shards, its tokenizer and held-out fraction.

    Raises `InputError` where `data` asks for others than the shards'.
    """
    default = DataOptions()
    for source in filter(is_shards, mixture(data.corpus)):
        shards = read_index(Path(local_path(source)))
        again = f"leave it out, or write the shards again with `cli.py tokenize {source}-2`"
        for name in ("held_out", "test"):
            asked, has = getattr(data, name), getattr(shards.split, name)
            if asked not in (getattr(default, name), has):
                raise InputError(
                    f"{source} was written with {name} = {has:g}, not {asked:g}; {again}"
                )
        if data.tokenizer not in (default.tokenizer, shards.tokenizer_name) and (
            data.tokenizer.startswith("bpe:")
            or load_tokenizer(data.tokenizer).fingerprint != shards.tokenizer
        ):
            raise InputError(
                f"{source} was written with the tokenizer {shards.tokenizer_name}, "
                f"not {data.tokenizer}; {again}"
            )
        data = replace(data, tokenizer=shards.tokenizer_name, held_out=shards.split.held_out)
    return data


def is_shards(source: str) -> bool:
    """Whether `source` is a folder of token shards."""
    return bool(source) and (Path(local_path(source)) / INDEX).is_file()


def shards_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of the shards in `folder`. Raises `InputError` if it is not the one of them."""
    model = folder / MODEL
    has_one = model.is_file()
    own = tokenizer_from(model.read_bytes(), str(model)) if has_one else load_tokenizer("bytes")
    index = read_index(folder)
    if own.fingerprint != index.tokenizer or own.vocabulary != index.vocabulary:
        raise InputError(
            f"{model} is not the tokenizer that {folder} was written with; write the shards again"
        )
    own.name = index.tokenizer_name
    return own
