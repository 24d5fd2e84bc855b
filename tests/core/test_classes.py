from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terralabel.core.classes import IGNORE, ClassEntry, Classes, distinct_color
from terralabel.errors import InputError


@given(st.integers(0, 700))
def test_a_class_per_cluster_that_is_never_nodata_and_never_wraps(count: int) -> None:
    classes = Classes.of_clusters(count)
    ids = [entry.id for entry in classes]
    assert len(ids) == count and IGNORE not in ids and len(set(ids)) == count
    assert classes.dtype == ("uint8" if count <= 255 else "uint16")
    assert sorted(classes.of_cluster) == list(range(count))


@given(
    st.dictionaries(
        st.integers(0, 65534).filter(lambda i: i != IGNORE), st.text(st.characters(exclude_categories=["Cs"])), max_size=8
    )
)
def test_json_round_trip(names: dict[int, str]) -> None:
    entries = [ClassEntry(i, name, distinct_color(i), (i, i + 70000)) for i, name in names.items()]
    classes = Classes().with_entries(entries)
    assert Classes.from_json(classes.to_json()) == classes


def test_the_first_colours_differ() -> None:
    assert len({distinct_color(i) for i in range(24)}) == 24


def test_a_map_written_by_hand_needs_ids_and_names_only() -> None:
    classes = Classes.from_json('{"classes": [{"id": 1, "name": "road"}, {"id": 0, "name": "field", "color": "#d9b365"}]}')
    assert [(entry.id, entry.name, entry.clusters) for entry in classes] == [(0, "field", ()), (1, "road", ())]
    assert classes[0].color == "#d9b365" and classes[1].color == distinct_color(1)


@pytest.mark.parametrize(
    "classes, message",
    [
        ([{"id": 255, "name": "a", "color": "#000000"}], "no label"),
        ([{"id": -1, "name": "a", "color": "#000000"}], "0..65534"),
        ([{"id": 70000, "name": "a", "color": "#000000"}], "0..65534"),
        ([{"id": 1, "name": "a", "color": "red"}], "not #rrggbb"),
        ([{"id": 1, "name": "a", "color": "#000000"}] * 2, "unique"),
        ([{"id": i, "name": "a", "color": "#000000", "clusters": [3]} for i in (1, 2)], "Cluster 3 belongs to two"),
        ([{"name": "a"}], "Not a class map"),
        ([7], "Not a class map"),
        (7, "Not a class map"),
    ],
)
def test_what_is_no_class_map_is_refused(classes: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Classes.from_json(json.dumps({"version": 1, "classes": classes}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"classes": {}}', '{"version": 2, "classes": []}'])
def test_other_files_are_refused(text: str) -> None:
    if text == '{"classes": {}}':
        assert len(Classes.from_json(text)) == 0
        return
    with pytest.raises(InputError):
        Classes.from_json(text)
