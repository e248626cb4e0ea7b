"""The words of reports: heads, notes, captions and warnings in words.toml, sentences with figures in templates."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.document import Table
from common.document.numbers import listing, percent
from common.document.pages import parts
from fit.report.view import OUTSIDE


@cache
def words() -> Mapping[str, Any]:
    """The words of a report."""
    return tomllib.loads((files("fit.report") / "words.toml").read_text(encoding="utf-8"))


def rendered(template: str, **facts: Any) -> str:
    """A template filled in; it has every fact that it asks for."""
    found = Environment(loader=PackageLoader("fit.report"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    filters: dict[str, Any] = {"listing": listing, "percent": percent, "parts": parts}
    found.filters.update(filters)
    return found.get_template(template).render(**facts).strip()


def bullets(template: str, **facts: Any) -> tuple[str, ...]:
    """The findings of a template, in which each starts with `* `."""
    return tuple(" ".join(part.split()) for part in re.split(r"^\* ", rendered(template, **facts), flags=re.MULTILINE)[1:])


def made(name: str, rows: Iterable[tuple[str, ...]], columns: Iterable[str] = (), **facts: Any) -> Table | None:
    """The table of this name in words.toml with these rows, and with `columns` where it has none there; None without rows.

    Its note, or else its title, says what marks extrapolated figures, where there are any.
    """
    text, cells = words()["tables"][name], tuple(rows)
    title, note = (text[key].format(**facts) for key in ("title", "note"))
    if any(OUTSIDE in cell for row in cells for cell in row):
        title, note = (title, f"{note} {OUTSIDE} extrapolated.") if note else (f"{title} ({OUTSIDE} extrapolated)", note)
    return Table(title, tuple(text["columns"] or columns), cells, note, "first" in text) if cells else None
