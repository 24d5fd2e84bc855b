"""Parts: the Parquet files that stages leave behind, one per shard.

A part under its final name is whole (see `core.files.atomic_path`), its pages carry checksums that are verified on
reading, and equal content gives equal bytes. Columns are plain arrays: (n,), (n, d), or ragged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from terralabel.core.files import atomic_path
from terralabel.errors import RunError

__all__ = ["Part", "Ragged", "read_notes", "read_part", "row_count", "write_part"]

_NOTES = b"terralabel"


@dataclass(frozen=True)
class Ragged:
    """`n` rows of unequal length: `values` one after the other, row i at ``offsets[i]:offsets[i + 1]``."""

    values: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Part:
    """What a part holds: `columns` by name, and `notes`, a JSON object about the shard (its tiles, counts, settings)."""

    columns: Mapping[str, np.ndarray | Ragged]
    notes: Mapping[str, Any]


def _to_arrow(column: np.ndarray | Ragged) -> pa.Array:
    if isinstance(column, Ragged):
        return pa.ListArray.from_arrays(pa.array(column.offsets.astype(np.int32)), pa.array(column.values))
    if column.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(column).ravel()), max(column.shape[1], 1))
    return pa.array(column)


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray | Ragged:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of no chunks at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    if pa.types.is_list(array.type):
        offsets = array.offsets.to_numpy().astype(np.int64)
        return Ragged(array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]], offsets - offsets[0])
    return array.to_numpy(zero_copy_only=False)


def write_part(final: Path, columns: Mapping[str, np.ndarray | Ragged], notes: Mapping[str, Any]) -> None:
    """Write a part; the file appears whole or not at all."""
    table = pa.table({name: _to_arrow(column) for name, column in columns.items()})
    text = json.dumps(notes, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    table = table.replace_schema_metadata({_NOTES: text.encode()})
    with atomic_path(final) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True, row_group_size=1 << 17, use_dictionary=False)


def read_part(path: Path, columns: list[str] | None = None) -> Part:
    """Read a part, or some of its columns; a damaged one raises `RunError` that says to delete it."""
    try:
        table = pq.read_table(path, columns=columns, page_checksum_verification=True, memory_map=False, use_threads=False)
        notes = json.loads((table.schema.metadata or {})[_NOTES])
        return Part({name: _to_numpy(table.column(name)) for name in table.column_names}, notes)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing from the run: run the same command again to make it.") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged ({_first_line(error)}): delete it and run the same command again.") from error


def read_notes(path: Path) -> Mapping[str, Any]:
    """Only the notes of a part: costs the file's footer."""
    try:
        return json.loads((pq.read_schema(path).metadata or {})[_NOTES])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged ({_first_line(error)}): delete it and run the same command again.") from error


def row_count(path: Path) -> int:
    """Rows of a part: costs the file's footer."""
    return pq.read_metadata(path).num_rows


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
