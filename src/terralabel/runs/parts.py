"""Parts: the Parquet files that stages leave behind, one per shard.

A part under its final name is whole (see `core.files.atomic_path`), its pages carry checksums that are verified on
reading, and equal content gives equal bytes. Columns are plain arrays: (n,), (n, d), or ragged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from terralabel.core.files import atomic_path
from terralabel.errors import RunError

__all__ = [
    "Part",
    "Ragged",
    "column_width",
    "iterate_part",
    "read_notes",
    "read_part",
    "row_count",
    "stream_part",
    "write_part",
]

_NOTES = b"terralabel"


@dataclass(frozen=True)
class Ragged:
    """`n` rows of unequal length: `values` one after the other, row i at ``offsets[i]:offsets[i + 1]``."""

    values: np.ndarray
    offsets: np.ndarray


Columns = Mapping[str, np.ndarray | Ragged]


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


def write_part(final: Path, columns: Columns, notes: Mapping[str, Any]) -> None:
    """Write a part; the file appears whole or not at all."""
    with stream_part(final, notes, _bytes_of(columns)) as append:
        append(columns)


def _bytes_of(columns: Columns) -> int:
    """Bytes of the columns before they are compressed."""
    arrays = [a for c in columns.values() for a in ((c.values, c.offsets) if isinstance(c, Ragged) else (c,))]
    return sum(array.nbytes for array in arrays)


@contextmanager
def stream_part(final: Path, notes: Mapping[str, Any], needed: int = 0) -> Iterator[Callable[[Columns], None]]:
    """Write a part batch by batch: yields a function that appends rows; `notes` may be filled until the end.

    The file appears whole when the block ends, or not at all. At least one batch is needed: it sets the columns' types.
    `needed`: bytes at most, as far as known.
    """
    writer: pq.ParquetWriter | None = None
    with atomic_path(final, needed) as temporary:

        def append(columns: Columns) -> None:
            nonlocal writer
            table = pa.table({name: _to_arrow(column) for name, column in columns.items()})
            if writer is None:
                writer = pq.ParquetWriter(
                    temporary, table.schema, compression="zstd", write_page_checksum=True, use_dictionary=False
                )
            writer.write_table(table, row_group_size=1 << 17)

        try:
            yield append
            if writer is None:
                raise RunError(f"{final.name}: a part needs at least one batch, even an empty one.")
            text = json.dumps(notes, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            writer.add_key_value_metadata({_NOTES: text.encode()})
        finally:
            if writer is not None:
                writer.close()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong while reading a part becomes a `RunError` that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing from the run: run the same command again to make it.") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{path} is damaged ({line}): delete it and run the same command again.") from error


def read_part(path: Path, columns: list[str] | None = None) -> Part:
    """Read a part, or some of its columns; a damaged one raises `RunError` that says to delete it."""
    with _readable(path):
        table = pq.read_table(path, columns=columns, page_checksum_verification=True, memory_map=False, use_threads=False)
        return Part({name: _to_numpy(table.column(name)) for name in table.column_names}, read_notes(path))


def iterate_part(
    path: Path, columns: list[str] | None = None, rows: int = 1 << 15
) -> Iterator[Mapping[str, np.ndarray | Ragged]]:
    """The columns of a part in batches of at most `rows` rows, in order: memory for one batch only."""
    with _readable(path), pq.ParquetFile(path, page_checksum_verification=True, memory_map=False, pre_buffer=False) as file:
        for batch in file.iter_batches(rows, columns=columns, use_threads=False):
            table = pa.table(batch)
            yield {name: _to_numpy(table.column(name)) for name in table.column_names}


def read_notes(path: Path) -> Mapping[str, Any]:
    """Only the notes of a part: costs the file's footer."""
    with _readable(path):
        return json.loads((pq.read_metadata(path).metadata or {})[_NOTES])


def row_count(path: Path) -> int:
    """Rows of a part: costs the file's footer."""
    return pq.read_metadata(path).num_rows


def column_width(path: Path, column: str) -> int:
    """d of a two-dimensional column (n, d): costs the file's footer; 0 for a part written without any row or column."""
    kind = pq.read_schema(path).field(column).type
    return kind.list_size if row_count(path) else 0
