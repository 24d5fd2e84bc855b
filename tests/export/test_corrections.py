import json

import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.errors import ContractError, RunError
from terralabel.export.corrections import (
    FIRST_ID,
    Correction,
    Corrections,
    apply_to_objects,
    apply_to_raster,
    corrected_batches,
    load_corrections,
    save_corrections,
)
from terralabel.export.segments import compress
from terralabel.export.shapes import Shape


def shape_of(mask):
    from terralabel.core import rle

    return Shape.of_runs(rle.encode(mask).astype(np.int64), Window(0, 0, mask.shape[1], mask.shape[0]))


def square(x, y, w, h, size=(60, 80)):
    mask = np.zeros(size, dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask


def test_shapes_are_tight_and_come_back():
    mask = np.hypot(*np.mgrid[-30:30, -40:40]) < 12
    shape = shape_of(mask)
    assert (shape.box, shape.area) == (Window(29, 19, 23, 23), mask.sum())
    assert np.array_equal(shape.crop(shape.box), mask[19:42, 29:52])


@pytest.mark.parametrize("strip", [16_000_000, 100])
def test_overlap_and_difference_in_strips(monkeypatch, strip):
    monkeypatch.setattr("terralabel.export.shapes._STRIP_PIXELS", strip)
    rng = np.random.default_rng(0)
    a, b, c = rng.random((3, 60, 80)) < 0.3
    one, two, three = shape_of(a), shape_of(b), shape_of(c)
    assert one.overlap(two) == (a & b).sum()
    assert one.minus([two, three]) == shape_of(a & ~b & ~c)
    assert one.covered([two, three]) == (a & (b | c)).sum()
    assert one.minus([one]) is None


def test_raster_gets_the_shown_part_and_later_wins():
    whole, top = square(10, 10, 20, 20), square(15, 15, 4, 4)
    corrections = Corrections(
        (
            Correction("a", 3, shape_of(whole), shape_of(whole & ~top)),
            Correction("a", IGNORE, shape_of(square(28, 10, 10, 2)), kind="deleted"),
        )
    )
    before = np.zeros((60, 80), dtype=np.uint8)
    expected = np.where(whole & ~top, 3, 0).astype(np.uint8)
    expected[10:12, 28:38] = 255
    after = apply_to_raster(before, Window(0, 0, 80, 60), corrections)
    assert np.array_equal(after, expected)
    assert before.max() == 0
    part = Window(13, 7, 30, 21)
    assert np.array_equal(apply_to_raster(before[part.slices()], part, corrections), expected[part.slices()])


def test_a_block_too_narrow_for_a_class_is_refused():
    corrections = Corrections((Correction("a", 300, shape_of(square(0, 0, 5, 5))),))
    with pytest.raises(ContractError, match="300"):
        apply_to_raster(np.zeros((60, 80), dtype=np.uint8), Window(0, 0, 80, 60), corrections)


def test_the_same_object_is_replaced_and_what_lies_on_it_stays(painter):
    field, tree, half, other = square(10, 10, 30, 30), square(20, 20, 5, 5), square(10, 10, 30, 16), square(50, 10, 10, 10)
    objects = painter.objects("a", [field, tree, half, other], [0, 3, 0, 0])
    corrections = Corrections((Correction("a", 3, shape_of(field), shape_of(field & ~tree), "class"),))
    assert apply_to_objects(objects, corrections).id.tolist() == [2, 4]
    assert apply_to_objects(objects, Corrections()) is objects
    elsewhere = Corrections((Correction("b", 3, shape_of(field)),))
    assert apply_to_objects(objects, elsewhere) is objects


def test_corrected_objects_come_last_with_ids_that_stay(painter):
    objects = painter.objects("a", [square(0, 0, 10, 10), square(40, 40, 10, 10)], [0, 0])
    first = Correction("a", 3, shape_of(square(0, 0, 10, 9)), kind="drawn")
    gone = Correction("a", IGNORE, shape_of(square(40, 40, 10, 10)), kind="deleted")
    batches = list(corrected_batches("a", [objects], Corrections((Correction("b", 3, first.whole), first, gone))))
    assert [len(b) for b in batches] == [0, 1]
    made = batches[1]
    assert (made.id.tolist(), made.class_id.tolist(), made.status) == ([FIRST_ID + 1], [3], ("corrected",))
    assert np.array_equal(made.crop(0), np.ones((9, 10), dtype=bool))
    # an object found by another segmentation at the same place is replaced all the same
    shifted = painter.objects("a", [square(1, 0, 10, 10)], [0])
    assert sum(len(b) for b in corrected_batches("a", [shifted], Corrections((first,)))) == 1


def test_a_later_correction_takes_the_place_of_an_earlier_one():
    early = Correction("a", 3, shape_of(square(0, 0, 10, 10)))
    late = Correction("a", 0, shape_of(square(0, 0, 10, 9)))
    (made,) = corrected_batches("a", [], Corrections((early, late)))
    assert made.id.tolist() == [FIRST_ID + 1]
    gone = Correction("a", IGNORE, late.whole, kind="deleted")
    assert list(corrected_batches("a", [], Corrections((early, late, gone)))) == []


def test_saved_and_loaded(tmp_path):
    shape = shape_of(square(3, 4, 5, 6))
    corrections = Corrections(
        (
            Correction("é\n", 3, shape, shape_of(square(3, 4, 5, 2)), "class", "Ada", "2026-01-01T00:00:00+00:00", "a.gpkg"),
            Correction("b", IGNORE, shape, None, "deleted"),
        )
    )
    save_corrections(tmp_path / "c.jsonl", corrections)
    assert load_corrections(tmp_path / "c.jsonl") == corrections
    assert load_corrections(tmp_path / "absent.jsonl") == Corrections()
    assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]


@pytest.mark.parametrize(
    "change",
    [
        {"class_id": -1},
        {"class_id": 70_000},
        {"kind": "magic"},
        {"whole": {"box": [0, 0, 5, 6], "counts": compress(np.array([29]), np.array([0, 1]))[0]}},
        {"whole": {"box": [-1, 0, 5, 6], "counts": compress(np.array([30]), np.array([0, 1]))[0]}},
        {"whole": {"box": [0, 0, 5, 6], "counts": ""}},
        {"whole": None},
    ],
)
def test_a_damaged_line_is_named(tmp_path, change):
    save_corrections(tmp_path / "c.jsonl", Corrections((Correction("a", 3, shape_of(square(3, 4, 5, 6))),) * 2))
    lines = (tmp_path / "c.jsonl").read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **change})
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    with pytest.raises(RunError, match="line 2"):
        load_corrections(tmp_path / "c.jsonl")


def test_classes_that_were_merged():
    corrections = Corrections((Correction("a", 3, shape_of(square(3, 4, 5, 6))),))
    assert corrections.renumbered({3: 7}).items[0].class_id == 7
    assert (corrections + corrections).of("a").items == corrections.items * 2
