"""JSON and JSON Lines as a table: records or columns, as programs write them, one level of wrapping around, nested names with dots."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from common.errors import InputError
from fit.runs.schema import quoted

Found = tuple[pl.DataFrame, Int[np.ndarray, "rows"]]
"""A table and the place of each of its rows: an entry of the list, or a line of JSON Lines."""


def json_table(data: bytes, name: str) -> Found:
    """The table in JSON: a list of records, columns, either of them beside values that hold for all, or a record a line.

    Also read: what pandas writes (`to_json` in any orientation), and W&B's tables. Raises `InputError`, naming the row.
    """
    try:
        try:
            whole: Any = json.loads(data)
        except (ValueError, RecursionError):
            return _lines(data, name)
        if not isinstance(whole, dict):
            return _records(list(enumerate(whole, 1)), name)
        return _mapping(whole, name)
    except RecursionError:
        raise InputError(f"{name}: JSON that is nested too deeply") from None


def _mapping(whole: Mapping[str, Any], name: str) -> Found:
    lists = {key: value for key, value in whole.items() if isinstance(value, list)}
    header, rows = whole.get("columns"), whole.get("data")
    if isinstance(header, list) and isinstance(rows, list) and all(isinstance(row, list) and len(row) == len(header) for row in rows):
        return _records([(i, dict(zip(map(str, header), row, strict=True))) for i, row in enumerate(rows, 1)], name)
    if len(lists) == 1 and lists and all(isinstance(record, dict) for record in next(iter(lists.values()))):
        (key,) = lists
        shared = {other: value for other, value in whole.items() if other != key}
        return _records([(i, {**shared, **record}) for i, record in enumerate(lists[key], 1)], name)
    if lists and (len(lists) > 1 or len(whole) == 1):
        lengths = {key: len(value) for key, value in lists.items()}
        if len(set(lengths.values())) > 1 and len(lists) == len(whole):
            shown = ", ".join(f"{quoted(key)} {length}" for key, length in list(lengths.items())[:4])
            raise InputError(f"{name}: the columns differ in length, and need one entry per run: {shown}")
        if len(set(lengths.values())) == 1:
            shared = [(key, value) for key, value in whole.items() if key not in lists]
            rows = zip(*lists.values(), strict=True)
            return _records([(i, {**dict(shared), **dict(zip(lists, row, strict=True))}) for i, row in enumerate(rows, 1)], name)
    entries = list(whole.values())
    if len(entries) > 1 and all(isinstance(one, dict) and one.keys() == entries[0].keys() for one in entries):
        inner = list(entries[0])
        if inner and all(key.isdigit() for key in inner):  # pandas: {"N": {"0": 1e7, "1": 3e7}, ...}
            return _records([(i, {key: whole[key][row] for key in whole}) for i, row in enumerate(inner, 1)], name)
        return _records(list(enumerate(entries, 1)), name)
    return _records([(1, whole)], name)


def _lines(data: bytes, name: str) -> Found:
    records = list[tuple[int, Any]]()
    for line, text in enumerate(data.split(b"\n"), 1):
        if text.strip():
            try:
                records.append((line, json.loads(text)))
            except ValueError as error:
                raise InputError(f"{name}, row {line}: neither JSON nor JSON Lines: {str(error).splitlines()[0]}") from None
    return _records(records, name)


def _records(records: Sequence[tuple[int, Any]], name: str) -> Found:
    for place, record in records:
        if not isinstance(record, dict):
            raise InputError(f'{name}, row {place}: {quoted(json.dumps(record))} is no record, such as {{"N": 1e8}}')
    flat = [dict(_flattened(record)) for _, record in records]
    columns = {header: pl.Series(header, _cells([record.get(header) for record in flat])) for record in flat for header in record}
    return pl.DataFrame(list(columns.values())), np.array([place for place, _ in records], dtype=np.int64)


def _cells(values: list[Any]) -> list[Any]:
    """A column of one type: floats, truth values, or text, in which numbers stand as JSON writes them."""
    filled = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in filled):
        return values
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in filled):
        try:
            numbers = [None if value is None else float(value) for value in values]
        except OverflowError:
            numbers = [np.inf]
        if np.isfinite([value for value in numbers if value is not None]).all():
            return numbers
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]


def _flattened(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
