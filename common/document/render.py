"""A document on a terminal, as HTML, Markdown and LaTeX, and in a folder as files."""

import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.document import Document, Figure
from common.document.pages import to_html, to_latex, to_markdown
from common.document.terminal import terminal
from common.files import write_atomically

__all__ = ["json_text", "show", "terminal", "to_html", "to_latex", "to_markdown", "write_document"]


def show(document: Document, full: bool = False) -> None:
    """Print the document on standard output, as wide as the terminal; without one as wide as COLUMNS says, or 80.

    Colours only on a terminal, and not where NO_COLOR is set. Raises `BrokenPipeError` where whoever read has seen enough.
    """
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size().columns
    print(terminal(document, width, full, color=color, encoding=sys.stdout.encoding or "ascii"), end="")


def json_text(record: Mapping[str, Any]) -> str:
    """A record as the JSON that files and `--json` hold alike. Raises `ValueError` for a number that JSON lacks."""
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_document(
    document: Document, record: Mapping[str, Any], directory: Path, name: str, files: Mapping[str, str] | None = None, page: str = "",
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Path, ...]:  # fmt: skip
    """Write `PAGE.html`, `PAGE.md`, `NAME.json`, `figures/*.svg` and `files` (texts by path) into `directory`, made where it is not there.

    `page` left out is `name`. Everything is drawn and composed before the first file is written. Returns the paths. Raises `OSError` as
    the file system does.
    """
    figures = _drawn(document.figures(), progress) if document.figures() else {}
    texts = {
        f"{page or name}.html": to_html(document, figures),
        f"{page or name}.md": to_markdown(document),
        f"{name}.json": json_text(record),
    }
    texts |= {**{f"figures/{figure}.svg": svg for figure, svg in figures.items()}, **(files or {})}
    for path, text in texts.items():
        write_atomically(directory / path, text)
    return tuple(directory / path for path in texts)


def _drawn(figures: Sequence[Figure], progress: Callable[[int, int, str], None] | None) -> dict[str, str]:
    """Every figure's SVG by name."""
    from common.plots import to_svg

    found: dict[str, str] = {}
    # A figure is so many small objects that Python searches all there are for cycles again and again, a fifth of the time it takes to
    # draw: those that were there before are left out of it meanwhile.
    gc.freeze()
    try:
        for done, figure in enumerate(figures, start=1):
            found[figure.name] = to_svg(figure.draw())
            if progress:
                progress(done, len(figures), "figures")
    finally:
        gc.unfreeze()
    return found
