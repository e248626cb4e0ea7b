"""What several subcommands share: lists of names, where results go, and how progress is shown."""

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from common.document import Document

Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME,...")]
"""A list of names: an option given several times, or once with commas."""

Numbers = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NUMBER,...")]
"""A list of numbers, in the same way."""


Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True)
class Output:
    """Where results go."""

    out: Path | None = None
    """A folder for the report: HTML, Markdown, JSON, figures, and from `fit` CSV and LaTeX too."""
    full: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print everything: every table, and every warning in full."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON only, on standard output."""


Whole = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
"""A whole number that may be left out."""


@dataclass(frozen=True)
class Shape:
    """Any architecture in place of --size: all of it, but for `kqv_size`."""

    d_model: Whole = None
    """Width of the residual stream, with --num-blocks and --num-heads in place of --size."""
    num_blocks: Whole = None
    """Number of blocks."""
    num_heads: Whole = None
    """Heads of attention."""
    kqv_size: Whole = None
    """Width of a head; default: d_model / num_heads."""

    @property
    def name(self) -> str:
        """The shape as a size, 512x6x8x64; empty without. Raises `InputError` for part of one."""
        given = [self.d_model, self.num_blocks, self.num_heads]
        if given == [None] * 3 and self.kqv_size is None:
            return ""
        if self.d_model is None or self.num_blocks is None or self.num_heads is None:
            from common.errors import InputError

            raise InputError(
                "a shape has all of --d-model, --num-blocks and --num-heads, such as --d-model 512 --num-blocks 6 --num-heads 8"
            )
        return f"{self.d_model}x{self.num_blocks}x{self.num_heads}x{self.kqv_size or self.d_model // max(self.num_heads, 1)}"


def split(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each name of a list that may hold several with commas, once, in order."""
    return tuple(dict.fromkeys(part.strip() for name in names for part in name.split(",") if part.strip()))


def finish(
    output: Output, name: str, as_json: Callable[[], dict[str, Any]], as_document: "Callable[[], Document]",
    files: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write the report, with further `files` by path, if a folder was given, then show the result."""
    if output.out:
        from common.document.render import write_document

        write_document(as_document(), as_json(), output.out, name, files)
    show_result(output, name, as_json, as_document)


def show_result(output: Output, page: str, as_json: Callable[[], dict[str, Any]], as_document: "Callable[[], Document]") -> None:
    """Print the result: its JSON alone where asked for, else the first screen or all of it, and where `page` was written."""
    from common.document.render import json_text, show

    if output.json:
        print(json_text(as_json()), end="")
        return
    show(as_document(), output.full)
    if output.out:
        print(f"Report: {output.out / f'{page}.html'}")


@contextmanager
def progress_shown(unit: str = "") -> Generator[Callable[[int, int, str], None], None, None]:
    """Shows how far the work is: a bar on a terminal, a line every few seconds elsewhere; on standard error."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def _line(done: int, total: int, what: str) -> None:
            nonlocal last
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"{done} of {total} {unit} {what}".replace("  ", " "), file=sys.stderr, flush=True)

        yield _line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def _move(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total or None, description=what)

        yield _move
