"""Which documents are held out: some, by a hash of their text; of a single one its last part."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Literal

from common.errors import InputError
from training.text.read import Document

Split = Literal["train", "held_out", "test"]
"""Training, validation, and an optional test split for final results."""

TITLES = {"train": "training", "held_out": "held-out", "test": "test"}


@dataclass(frozen=True)
class Fractions:
    """Fractions of all documents, or of the text of a single one."""

    held_out: float = 0.05
    """0: none; 1: all."""
    test: float = 0.0
    seed: int = 0

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that must not be empty."""
        if self.held_out == 1:
            return ("held_out",)
        asked: dict[Split, float] = {"train": 1, "held_out": self.held_out, "test": self.test}
        return tuple(split for split, fraction in asked.items() if fraction)

    def place(self, first_piece: str) -> int:
        """A document's place in [0, 2^64): a hash of its first piece and the seed."""
        digest = hashlib.sha256(f"{self.seed}\n{first_piece}".encode()).digest()
        return int.from_bytes(digest[:8], "big")

    def split_at(self, place: int) -> Split:
        """The split of a document at `place`; the held-out ones do not depend on `test`."""
        if place < self.held_out * 2**64:
            return "held_out"
        return "test" if place < (self.held_out + self.test) * 2**64 else "train"


@dataclass(frozen=True)
class Splitter:
    """Assigns documents to splits."""

    fractions: Fractions
    given: dict[int, Split] = field(default_factory=dict)
    """Documents, by their number among those with text, without which a split would be empty."""
    cuts: tuple[tuple[Split, int], ...] = ()
    """Of a single document, the splits of its parts in order, and the length of each."""

    def pieces(self, documents: Iterator[Document]) -> Iterator[tuple[Split, str]]:
        """Split and text of each piece; a document ends with a piece without text."""
        number = 0
        for document in documents:
            pieces = filter(None, document.pieces)
            first = next(pieces, None)
            if first is None:
                continue
            if self.cuts:
                yield from self._cut(chain([first], pieces))
                continue
            split: Split = self.given.get(number) or self.fractions.split_at(
                self.fractions.place(first)
            )
            yield split, first
            for piece in pieces:
                yield split, piece
            yield split, ""
            number += 1

    def _cut(self, pieces: Iterator[str]) -> Iterator[tuple[Split, str]]:
        cuts = iter(self.cuts)
        split, left = next(cuts)
        for piece in pieces:
            while piece:
                some, piece = piece[:left], piece[left:]
                yield split, some
                left -= len(some)
                if not left:
                    yield split, ""
                    split, left = next(cuts, (split, 0))


def splitter_for(read: Callable[[], Iterator[Document]], fractions: Fractions) -> Splitter:
    """The splitter of the documents that `read` gives, none of whose splits is empty.

    Reads the beginnings of documents until each split has one: some twenty, if a twentieth is held
    out. Of fewer documents, those with the places nearest to a split's own are assigned to it, and
    a single one is cut. Raises `InputError` for a text that cannot be split.
    """
    splits, places = fractions.splits, list[int]()
    if len(splits) == 1:
        return Splitter(fractions)
    found: set[Split] = set()
    for document in read():
        first = next(filter(None, document.pieces), None)
        if first is None:
            continue
        places.append(fractions.place(first))
        found.add(fractions.split_at(places[-1]))
        if found == set(splits):
            return Splitter(fractions)
    if len(places) == 1:
        return Splitter(fractions, cuts=_cuts(read, fractions))
    if len(places) < len(splits):
        what = f"{len(places)} documents" if places else "no text"
        raise InputError(f"the corpus has {what}, too few for {len(splits)} splits; give more text")
    order = sorted(range(len(places)), key=places.__getitem__)
    by_place = {number: fractions.split_at(places[number]) for number in order}
    held_out = max(1, sum(split == "held_out" for split in by_place.values()))
    test = max(1, sum(split == "test" for split in by_place.values())) if fractions.test else 0
    held_out = min(held_out, len(order) - 1 - bool(test))
    test = min(test, len(order) - 1 - held_out)
    given: dict[int, Split] = dict.fromkeys(order, "train")
    given.update(dict.fromkeys(order[:held_out], "held_out"))
    given.update(dict.fromkeys(order[held_out : held_out + test], "test"))
    return Splitter(fractions, given)


def _cuts(
    read: Callable[[], Iterator[Document]], fractions: Fractions
) -> tuple[tuple[Split, int], ...]:
    """Parts of the one document: training text, test text, and the held-out text at its end.

    A part begins at a line, unless that makes a part half as long as it should be.
    """
    length = sum(len(piece) for document in read() for piece in document.pieces)
    order: tuple[Split, ...] = ("train", "test", "held_out")
    splits: list[Split] = [split for split in order if split in fractions.splits]
    if length < 2 * len(splits):
        raise InputError(
            f"the corpus has {length} characters, too few for {len(splits)} splits; give more text"
        )
    shares = {"held_out": fractions.held_out, "test": fractions.test}
    wanted = [sum(shares.get(split, 0.0) for split in splits[i:]) for i in range(1, len(splits))]
    begins = [min(max(round(length * (1 - share)), 1), length - 1) for share in wanted]
    sizes = _sizes([*begins, length])
    at_lines = _sizes([*_line_begins(read, begins), length])
    if all(2 * size >= wanted for size, wanted in zip(at_lines, sizes, strict=True)):
        sizes = at_lines
    if min(sizes) < 1:
        raise InputError("the corpus is too short for its splits; give more text")
    return tuple(zip(splits, sizes, strict=True))


def _sizes(ends: list[int]) -> list[int]:
    return [end - begin for begin, end in pairwise([0, *ends])]


def _line_begins(read: Callable[[], Iterator[Document]], places: list[int]) -> list[int]:
    """The first begin of a line at or after each of the `places`, in characters."""
    found, done = [0] * len(places), 0
    for piece in (piece for document in read() for piece in document.pieces):
        for i, place in enumerate(places):
            if not found[i] and done + len(piece) >= place:
                end = piece.find("\n", max(place - 1 - done, 0)) + 1
                found[i] = done + end if end else 0
        done += len(piece)
    return [begin or done for begin in found]
