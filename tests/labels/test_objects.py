"""Tiled against untiled: same objects, same labels, whatever the tiles."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terralabel.core.masks import Masks
from terralabel.core.objects import Objects
from terralabel.errors import ContractError
from terralabel.labels.objects import ObjectLabels, assemble, feature_of_objects, last_tiles, object_areas
from terralabel.labels.paint import paint_core
from terralabel.labels.stitch import Pieces, own, piece_spans

SCENES = [(1, 1), (3, 5000), (700, 450), (517, 389)]


@pytest.fixture(scope="module")
def untiled(painted):
    out = {}
    for size in SCENES:
        ids = painted.levels(*size)
        out[size] = (ids, painted.stitch(ids, 10**6, 64))
    return out


@pytest.mark.parametrize("size", SCENES)
@pytest.mark.parametrize("tile_size", [128, 192, 256, 384, 512])
def test_tiled_equals_untiled(painted, untiled, size, tile_size):
    ids, one = untiled[size]
    many = painted.stitch(ids, tile_size, 64)
    expected, got = painted.shapes(one), painted.shapes(many)
    assert sorted(got.values()) == sorted(expected.values())  # so the counts agree, and no object has two ids
    # the same label raster, once objects are named by their geometry
    of_shape = {shape: k for k, shape in enumerate(sorted(set(expected.values())))}
    pictures = []
    for scene, shapes in ((one, expected), (many, got)):
        values = np.full(len(scene.areas), -3)
        values[list(shapes)] = [of_shape[shape] for shape in shapes.values()]
        pictures.append(painted.raster(scene, values))
    assert pictures[0].min() >= 0
    assert np.array_equal(*pictures)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.integers(1, 110), st.integers(24, 70), st.integers(0, 20), st.integers(0, 999))
def test_pieces_cover_each_level_once(painted, width, height, tile_size, overlap, seed):
    for level in painted.levels(width, height, seed):
        scene = painted.stitch([level], tile_size, overlap)
        covered = np.zeros(level.shape, dtype=int)
        for plan, masks, pieces in zip(scene.plans, scene.masks, scene.pieces, strict=True):
            spans = piece_spans(plan, masks, pieces)
            for x, first, stop in zip(spans.column, spans.first, spans.stop, strict=True):
                covered[first:stop, x] += 1
        assert np.array_equal(covered, level > 0)
        assert scene.areas.sum() == covered.sum()


@settings(max_examples=10, deadline=None)
@given(st.integers(60, 150), st.integers(60, 110), st.integers(0, 999))
def test_the_order_of_tiles_does_not_matter(painted, width, height, seed):
    ids = painted.levels(width, height, seed)
    scene = painted.stitch(ids, 40, 16)
    again = painted.stitch(ids, 40, 16, order=np.random.default_rng(seed))
    assert np.array_equal(scene.objects, again.objects)
    values = np.arange(len(scene.areas))
    assert np.array_equal(painted.raster(scene, values), painted.raster(again, values))


def test_masks_of_a_real_generator_are_joined_across_seams(painted):
    from terralabel.core.tile import Tile
    from terralabel.imagery.painter import paint_scene
    from terralabel.masks.tree import TreeMasks

    pixels, tree = paint_scene(448, 320, 3)[0], TreeMasks()

    def see(window):
        return tree.generate(tree.encode(Tile.from_array(np.ascontiguousarray(pixels[window.slices()]))))

    ids = [np.zeros(pixels.shape[:2], dtype=np.int32)]
    one, many = (painted.stitch(ids, size, 96, see=see) for size in (10_000, 256))
    counts = [int((scene.areas > 0).sum()) for scene in (one, many)]
    assert len(many.plans) == 6 and sum(map(len, many.masks)) > 2 * counts[0]
    assert abs(counts[1] - counts[0]) <= 0.04 * counts[0]  # a generator sees other things through other windows
    assert (painted.raster(many, np.arange(len(many.areas))) >= 0).all()


def test_streams_agree_with_each_other_and_with_doing_it_at_once(painted, untiled):
    ids, _ = untiled[(517, 389)]
    scene = painted.stitch(ids, 128, 32)
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(len(m), 5)).astype(np.float32) for m in scene.masks]
    batches = list(assemble("scene", zip(scene.plans, scene.masks, scene.pieces, strict=True), scene.last, first_id=0))
    means = list(feature_of_objects(zip(features, scene.pieces, strict=True), scene.last))
    assert [b.id.tolist() for b in batches] == [number.tolist() for number, _ in means]
    assert len(batches) > 3
    total, weight = np.zeros((len(scene.last), 5)), np.zeros(len(scene.last))
    for feature, pieces in zip(features, scene.pieces, strict=True):
        np.add.at(total, pieces.object, feature[pieces.mask].astype(float) * pieces.area[:, None])
        np.add.at(weight, pieces.object, pieces.area)
    for batch, (number, mean) in zip(batches, means, strict=True):
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean, total[number] / weight[number][:, None], rtol=1e-6, atol=1e-7)
        assert np.array_equal(batch.area, scene.areas[batch.id])
        assert all(batch.crop(i).sum() == batch.area[i] for i in range(len(batch)))


def test_labels_and_best_piece_reach_the_object(painted, untiled):
    ids, _ = untiled[(517, 389)]
    scene = painted.stitch(ids, 256, 64)
    rng = np.random.default_rng(2)
    masks = [_with_scores(m, rng) for m in scene.masks]
    n = len(scene.last)
    labels = ObjectLabels(np.arange(n, dtype=np.int32), (np.arange(n, dtype=np.int32) % 7), rng.random(n, dtype=np.float32))
    best = np.zeros(n, dtype=np.float32)
    for m, pieces in zip(masks, scene.pieces, strict=True):
        np.maximum.at(best, pieces.object, m.predicted_iou[pieces.mask])
    for batch in assemble("scene", zip(scene.plans, masks, scene.pieces, strict=True), scene.last, labels, first_id=100):
        number = batch.id - 100
        assert isinstance(batch, Objects) and set(batch.status) == {"auto"} and batch.scene == "scene"
        assert np.array_equal(batch.cluster_id, number) and np.array_equal(batch.class_id, number % 7)
        assert np.array_equal(batch.score, labels.score[number]) and np.array_equal(batch.predicted_iou, best[number])


def test_a_guest_keeps_its_whole_extent_and_shows_next_door(painted):
    ids = [np.zeros((40, 90), dtype=np.int32)]
    ids[0][10:20, 36:53] = 1  # over the seam of tiles 60 wide, overlapping by 30: cores meet at column 45
    scene = only = painted.stitch(ids, 60, 30)
    assert [len(p) for p in scene.pieces] == [1, 1] and scene.areas.tolist() == [170]
    left = own(only.plans[0], only.masks[0], np.zeros(1, np.int32), np.ones(1, bool))
    right = own(only.plans[1], Masks.empty((40, 60)), np.zeros(0, np.int32), np.zeros(0, bool))
    assert left.whole.tolist() == [True] and left.area.tolist() == [170]
    tiles = [(only.plans[0], only.masks[0], left), (only.plans[1], Masks.empty((40, 60)), right)]
    picture = np.concatenate([paint_core(p, tiles, np.array([0]), np.array([170])) for p in only.plans], 1)
    assert np.array_equal(picture == 0, ids[0] == 1) and set(np.unique(picture)) == {0, 255}
    (batch,) = assemble("scene", tiles, last_tiles(np.array([1, 0]), np.zeros(1, np.int32)))
    assert batch.bbox.tolist() == [[36, 10, 17, 10]] and batch.area.tolist() == [170] and batch.id.tolist() == [1]


def test_a_scene_cut_short_is_refused(painted, untiled):
    ids, _ = untiled[(517, 389)]
    scene = painted.stitch(ids, 256, 64)
    with pytest.raises(ContractError, match="give all tiles"):
        list(assemble("scene", list(zip(scene.plans, scene.masks, scene.pieces, strict=True))[:-1], scene.last))
    with pytest.raises(ContractError, match="give all tiles"):
        list(feature_of_objects([(np.zeros((len(scene.masks[0]), 2), np.float32), scene.pieces[0])], scene.last))
    with pytest.raises(ContractError, match="add up to 3"):
        last_tiles(np.array([1, 2]), np.zeros(4, np.int32))


def test_no_masks_no_objects(painted):
    scene = painted.stitch([np.zeros((50, 90), dtype=np.int32)], 40, 10)
    assert painted.shapes(scene) == {} and (painted.raster(scene, np.zeros(0, int)) == -1).all()
    assert object_areas([], 0).tolist() == [] and isinstance(scene.pieces[0], Pieces)


def _with_scores(masks, rng):
    return replace(masks, predicted_iou=rng.random(len(masks), dtype=np.float32))
