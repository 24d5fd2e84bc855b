from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from terralabel.errors import RunError
from terralabel.runs.parts import Ragged, iterate_part, read_notes, read_part, row_count, stream_part, write_part


def some_columns(n: int = 5) -> dict:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 4, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return {
        "a": rng.integers(0, 9, n),
        "f": rng.random((n, 3)).astype(np.float32),
        "r": Ragged(rng.integers(0, 99, offsets[-1]).astype(np.uint32), offsets),
    }


def test_round_trip_of_every_kind_of_column(tmp_path: Path) -> None:
    columns = some_columns()
    write_part(tmp_path / "p.parquet", columns, {"tiles": ["ä"]})
    part = read_part(tmp_path / "p.parquet")
    assert part.notes == {"tiles": ["ä"]} == read_notes(tmp_path / "p.parquet")
    assert row_count(tmp_path / "p.parquet") == 5
    assert np.array_equal(part.columns["a"], columns["a"])
    assert part.columns["f"].dtype == np.float32 and np.array_equal(part.columns["f"], columns["f"])
    assert np.array_equal(part.columns["r"].values, columns["r"].values)
    assert np.array_equal(part.columns["r"].offsets, columns["r"].offsets)


def test_no_rows_keep_their_width(tmp_path: Path) -> None:
    write_part(
        tmp_path / "p.parquet", {"f": np.zeros((0, 7), np.float32), "r": Ragged(np.zeros(0, np.uint32), np.zeros(1, int))}, {}
    )
    part = read_part(tmp_path / "p.parquet")
    assert part.columns["f"].shape == (0, 7)
    assert len(part.columns["r"].offsets) == 1


def test_streaming_equals_writing_at_once_in_content(tmp_path: Path) -> None:
    columns = some_columns(8)
    notes: dict = {}
    with stream_part(tmp_path / "s.parquet", notes) as append:
        for start in (0, 3):
            stop = 3 if start == 0 else 8
            offsets = columns["r"].offsets[start : stop + 1]
            append(
                {
                    "a": columns["a"][start:stop],
                    "f": columns["f"][start:stop],
                    "r": Ragged(columns["r"].values[offsets[0] : offsets[-1]], offsets - offsets[0]),
                }
            )
        notes["n"] = 8
    part = read_part(tmp_path / "s.parquet")
    assert part.notes == {"n": 8}
    assert np.array_equal(part.columns["r"].values, columns["r"].values)
    batches = list(iterate_part(tmp_path / "s.parquet", ["f"], rows=3))
    assert np.array_equal(np.concatenate([b["f"] for b in batches]), columns["f"])


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.parquet", "two.parquet"):
        write_part(tmp_path / name, some_columns(), {"b": 1, "a": 2})
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_an_error_midway_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="midway"), stream_part(tmp_path / "p.parquet", {}) as append:
        append(some_columns())
        raise ValueError("midway")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_part_is_refused_by_name(tmp_path: Path, share: float) -> None:
    path = tmp_path / "p.parquet"
    write_part(path, some_columns(1000), {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RunError, match=r"p\.parquet is damaged.*delete it"):
        read_part(path)


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_part(path, {"a": np.random.default_rng(0).integers(0, 1 << 62, 4000)}, {})
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(RunError, match="damaged"):
        read_part(path)


def test_a_missing_part_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing from the run"):
        read_part(tmp_path / "none.parquet")
