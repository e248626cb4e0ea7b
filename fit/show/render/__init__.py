"""Documents on a terminal, as Markdown, HTML and LaTeX, and in a folder as files."""

import json
from pathlib import Path
from typing import Any

from common.files import write_atomically
from fit.show.document import Document
from fit.show.render.html import to_html
from fit.show.render.markdown import to_markdown


def json_text(record: dict[str, Any]) -> str:
    """A record as the JSON that files and `--json` hold alike. Raises `ValueError` for a number that JSON lacks."""
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_document(document: Document, record: dict[str, Any], directory: Path, name: str) -> tuple[Path, ...]:
    """Write `NAME.html`, `NAME.md`, `NAME.json` and `figures/*.svg` into `directory`, made where it is not there.

    Everything is drawn and composed before the first file is written. Returns the paths. Raises `OSError` as the file system does.
    """
    figures = drawings(document)
    contents: dict[str, str] = {
        f"{name}.html": to_html(document, figures),
        f"{name}.md": to_markdown(document),
        f"{name}.json": json_text(record),
        **{f"figures/{figure}.svg": svg for figure, svg in figures.items()},
    }
    return write_all(contents, directory)


def write_all(contents: dict[str, str], directory: Path) -> tuple[Path, ...]:
    """Write each text to its path below `directory`."""
    for path, content in contents.items():
        write_atomically(directory / path, content)
    return tuple(directory / path for path in contents)


def drawings(document: Document) -> dict[str, str]:
    """Every figure of a document as SVG, by name. The same document gives the same bytes."""
    if not document.figures():
        return {}
    from fit.show.figures.style import to_svg

    return {figure.name: to_svg(figure.draw()) for figure in document.figures()}
