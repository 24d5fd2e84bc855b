"""Names from a few labelled images, and edits of the class map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terralabel.clusters import align as edit
from terralabel.core.classes import ClassEntry, Classes
from terralabel.errors import InputError, SettingsError

TRUTH = Classes((ClassEntry(0, "other", "#000000"), ClassEntry(2, "roof", "#ff0000"), ClassEntry(5, "wood", "#00ff00")))


def gathered(classes):
    return {entry.id: entry.clusters for entry in classes}


def test_align_by_majority_and_one_to_one():
    counts = np.array([[0, 9, 8], [0, 8, 0], [0, 0, 0], [3, 3, 0]])
    assert edit.align(counts, [0, 1, 4, 7], [0, 2, 5]) == {0: 2, 1: 2, 4: None, 7: 0}
    assert edit.align(counts, [0, 1, 4, 7], [0, 2, 5], "hungarian") == {0: 5, 1: 2, 4: None, 7: 0}
    with pytest.raises(SettingsError, match="majority or hungarian"):
        edit.align(counts, [0, 1, 4, 7], [0, 2, 5], "most")
    with pytest.raises(InputError, match="3 clusters x 3 classes"):
        edit.align(counts, [0, 1, 4], [0, 2, 5])


def test_aligned_takes_the_truths_classes_and_keeps_the_unnamed():
    classes = Classes.of_clusters(6)
    result = edit.aligned(classes, {0: 2, 1: 2, 2: None, 3: 5}, TRUTH)
    assert gathered(result) == {0: (), 1: (2,), 2: (0, 1), 4: (4,), 5: (3,), 3: (5,)}
    assert result[2].name == "roof"
    assert result[1].name == "cluster 2"
    assert result[3].name == "cluster 5"
    with pytest.raises(InputError, match="class 9"):
        edit.aligned(classes, {0: 9}, TRUTH)


def test_aligned_leaves_dropped_clusters_dropped():
    classes = edit.drop(Classes.of_clusters(4), [3])
    result = edit.aligned(classes, {0: 2}, TRUTH)
    assert sorted(result.of_cluster) == [0, 1, 2]


def test_find_by_id_and_name():
    assert edit.find(TRUTH, 2).name == edit.find(TRUTH, "2").name == edit.find(TRUTH, "roof").name == "roof"
    with pytest.raises(InputError, match="Did you mean 'roof'"):
        edit.find(TRUTH, "rooof")
    with pytest.raises(InputError, match="Known ids: 0, 2, 5"):
        edit.find(TRUTH, 77)


def test_name_and_recolor():
    classes = edit.recolor(edit.name(Classes.of_clusters(3), 1, " Straße <b> "), 1, "#AABBCC")
    assert (classes[1].name, classes[1].color) == ("Straße <b>", "#aabbcc")
    assert classes[0] == Classes.of_clusters(3)[0]
    for wrong in ("", "  ", "a\nb", "x" * 201):
        with pytest.raises(InputError, match="printable"):
            edit.name(classes, 1, wrong)
    with pytest.raises(InputError, match="merge 0 and 1"):
        edit.name(classes, 1, "cluster 0")
    with pytest.raises(InputError, match="#rrggbb"):
        edit.recolor(classes, 1, "red")


def test_merge_keeps_the_first():
    classes = edit.merge(Classes.of_clusters(5), [3, "cluster 0", 4])
    assert gathered(classes) == {1: (1,), 2: (2,), 3: (0, 3, 4)}
    assert classes[3].name == "cluster 3"
    for wrong in ([1], [1, 1], []):
        with pytest.raises(InputError, match="two or more different"):
            edit.merge(classes, wrong)


def test_drop_move_and_restore():
    classes = edit.merge(Classes.of_clusters(4), [1, 2])
    dropped = edit.drop(classes, [2, 3])
    assert gathered(dropped) == {0: (0,), 1: (1,)}
    assert gathered(edit.restore(dropped, [2, 3], 4)) == {0: (0,), 1: (1,), 2: (2,), 3: (3,)}
    assert gathered(edit.move(dropped, [1, 3], 0)) == {0: (0, 1, 3)}
    assert gathered(edit.move(dropped, [0], 0)) == gathered(dropped)
    with pytest.raises(InputError, match="nothing to drop"):
        edit.drop(dropped, [3])
    with pytest.raises(InputError, match="nothing to restore"):
        edit.restore(dropped, [1], 4)
    with pytest.raises(InputError, match=r"0\.\.3"):
        edit.restore(dropped, [4], 4)


def test_restored_clusters_step_over_255():
    classes = edit.drop(Classes.of_clusters(300), [255])
    assert edit.restore(classes, [255], 300).of_cluster[255] == 256


@given(st.lists(st.tuples(st.sampled_from(["merge", "drop", "restore", "move"]), st.integers(0, 9), st.integers(0, 9))))
def test_edits_never_lose_or_double_a_cluster(edits):
    """Whatever is done: each cluster is in one class or dropped, and all can be restored."""
    classes, dropped = Classes.of_clusters(10), set()
    for kind, a, b in edits:
        try:
            if kind == "merge":
                classes = edit.merge(classes, [a, b])
            elif kind == "drop":
                classes = edit.drop(classes, [a])
                dropped |= {a}
            elif kind == "restore":
                classes = edit.restore(classes, [a], 10)
                dropped -= {a}
            else:
                classes = edit.move(classes, [a], b)
                dropped -= {a}
        except InputError:
            continue
        assert set(classes.of_cluster) == set(range(10)) - dropped
        assert sum(len(entry.clusters) for entry in classes) == 10 - len(dropped)
    assert set(edit.restore(classes, sorted(dropped), 10).of_cluster) == set(range(10))


def test_split_finds_the_parts():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 1, (60, 5)), rng.normal(9, 1, (40, 5))]).astype(np.float32)
    features[7] = np.nan
    result = edit.split(features, seed=1, parts=2)
    assert result.parts.dtype == np.int32
    assert result.parts[7] == -1
    assert set(np.delete(result.parts[:60], 7).tolist()) == {0}
    assert set(result.parts[60:].tolist()) == {1}
    assert result.centres.shape == (2, 5)
    again = edit.split(features, seed=1, parts=2)
    assert again.centres.tobytes() == result.centres.tobytes()
    with pytest.raises(InputError, match="all alike"):
        edit.split(np.ones((4, 2), np.float32))
    with pytest.raises(SettingsError, match="at least 2"):
        edit.split(features, parts=1)


def test_with_split_gives_the_parts_classes():
    classes = edit.name(edit.merge(Classes.of_clusters(4), [1, 2]), 1, "roof")
    result = edit.with_split(classes, 1, [1, 4, 5])
    assert gathered(result) == {0: (0,), 1: (1, 2), 3: (3,), 4: (4,), 5: (5,)}
    assert (result[4].name, result[5].name) == ("roof / 2", "roof / 3")
    assert gathered(edit.with_split(classes, 1, [6, 7])) == {0: (0,), 1: (2, 6), 3: (3,), 7: (7,)}
    for wrong in ([1], [1, 1], [1, 3]):
        with pytest.raises(InputError, match="two or more new ids"):
            edit.with_split(classes, 1, wrong)
    with pytest.raises(InputError, match="restore it"):
        edit.with_split(classes, 9, [9, 10])
