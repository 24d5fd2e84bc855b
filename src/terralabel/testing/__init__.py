"""Checks for whoever writes a backend, and a tiny one to write tests with.

    from terralabel.testing import check_promptable
    check_promptable(MyBackend())           # returns nothing, or raises AssertionError saying what the contract asks

The checks run the backend on small tiles: ordinary ones, one band, invalid pixels, one pixel, one colour. They ask what
`terralabel.contracts` says and no more: shapes, dtypes, ranges, the same answer twice and after pickling.
"""

from __future__ import annotations

import pickle  # only to copy the backend under test, as sending it to a worker does
from collections.abc import Iterator
from typing import Any

import numpy as np

from terralabel.contracts import Encoded
from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import TerraLabelError
from terralabel.testing.flood import FloodPromptable
from terralabel.testing.tiles import sample_prompts, sample_tiles

__all__ = [
    "FloodPromptable",
    "check_clusterer",
    "check_feature_extractor",
    "check_mask_generator",
    "check_promptable",
    "sample_prompts",
    "sample_tiles",
]


def _ask(holds: object, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _copy(backend: Any) -> Any:
    """The backend as a worker process gets it."""
    return pickle.loads(pickle.dumps(backend))  # noqa: S301 - what was pickled in this very line


def _check_identity(backend: Any) -> None:
    for attribute in ("name", "version"):
        value = getattr(backend, attribute, None)
        _ask(
            isinstance(value, str) and value,
            f"{type(backend).__name__}.{attribute} is {value!r}; expected a string that is not empty.",
        )
        _ask(getattr(_copy(backend), attribute) == value, f"{backend.name}: {attribute} changes when it is pickled.")


def _check_encoded(encoded: Any, tile: Tile, name: str) -> None:
    _ask(isinstance(encoded, Encoded), f"{name}.encode gives {type(encoded).__name__}; expected Encoded.")
    _ask(encoded.tile is tile, f"{name}.encode: Encoded.tile is another tile.")
    if encoded.feature_map is None:
        return
    shape, dtype, covers = encoded.feature_map.shape, encoded.feature_map.dtype, encoded.covers
    _ask(len(shape) == 3 and dtype == np.float32, f"{name}: feature_map is {shape} {dtype}; expected (h, w, d) float32.")
    _ask(np.isfinite(encoded.feature_map).all(), f"{name}: feature_map of {tile.key} is not finite.")
    _ask(
        covers is not None and 0 < covers[0] <= shape[0] and 0 < covers[1] <= shape[1],
        f"{name}: covers is {covers}; expected (rows, columns) within {shape[:2]}.",
    )


def _check_masks(masks: Any, tile: Tile, name: str) -> None:
    _ask(isinstance(masks, Masks), f"{name} gives {type(masks).__name__}; expected Masks.")
    _ask(masks.size == tile.size, f"{name}: masks of {tile.key} are {masks.size}; expected the tile's {tile.size}.")
    rle.validate(masks.runs, masks.offsets, masks.size)
    _ask(np.array_equal(masks.area, rle.areas(masks.runs, masks.offsets)), f"{name}: area is not the number of pixels.")
    _ask(
        np.array_equal(masks.bbox, rle.boxes(masks.runs, masks.offsets, masks.size)), f"{name}: bbox is not the tight xywh box."
    )
    for column in ("predicted_iou", "stability_score"):
        values = getattr(masks, column)
        _ask(((values >= 0) & (values <= 1)).all(), f"{name}: {column} of {tile.key} leaves [0, 1].")
    inside = (masks.point_coords >= 0) & (masks.point_coords <= tile.size[::-1])
    _ask(inside.all(), f"{name}: point_coords of {tile.key} lie outside the tile.")


def _same(one: Masks, other: Masks) -> bool:
    columns = ("runs", "offsets", "predicted_iou", "stability_score")
    return all(np.array_equal(getattr(one, c), getattr(other, c)) for c in columns)


def _agree(one: Masks, other: Masks, exact: bool) -> bool:
    """Equal bytes; or, where a network's sums depend on the batch, 98 % of IoU for each mask."""
    if exact or len(one) != len(other):
        return _same(one, other)
    pairs = ((a, b) for a, b in zip(one, other, strict=True) if a.any() or b.any())
    return all((a & b).sum() >= 0.98 * (a | b).sum() for a, b in pairs)


def check_mask_generator(backend: Any) -> None:
    """Assert the contract of `MaskGenerator`; also: no mask is empty or holds an invalid pixel, no valid pixel, no mask."""
    _check_identity(backend)
    for tile in _tiles():
        encoded = backend.encode(tile)
        _check_encoded(encoded, tile, backend.name)
        masks = backend.generate(encoded)
        _check_masks(masks, tile, backend.name)
        _ask((masks.area > 0).all(), f"{backend.name}: a mask of {tile.key} is empty.")
        _ask(not masks.sums(~tile.valid[..., None]).any(), f"{backend.name}: a mask of {tile.key} holds invalid pixels.")
        _ask(_same(masks, backend.generate(encoded)), f"{backend.name}: asked twice, the masks of {tile.key} differ.")
        other = _copy(backend)
        _ask(_same(masks, other.generate(other.encode(tile))), f"{backend.name}: pickled, the masks of {tile.key} differ.")


def check_promptable(backend: Any, *, exact: bool = True) -> None:
    """Assert the contract of `Promptable`: points, boxes, rough masks, together, in batches and one by one.

    `exact=False` is for networks whose sums depend on the batch: prompts alone may then differ by 2 % of IoU.
    """
    _check_identity(backend)
    for tile in _tiles():
        if not tile.valid.any():
            continue
        encoded = backend.encode(tile)
        _check_encoded(encoded, tile, backend.name)
        for kind, prompts in sample_prompts(tile).items():
            for multimask in (True, False):
                _check_prompts(backend, encoded, kind, prompts, multimask, exact)


def _check_prompts(backend: Any, encoded: Encoded, kind: str, prompts: dict[str, Any], multimask: bool, exact: bool) -> None:
    where, count = f"{backend.name}, {kind} on {encoded.tile.key}", len(next(iter(prompts.values())))
    answer = backend.predict(encoded, **prompts, multimask=multimask)
    _check_masks(answer.masks, encoded.tile, where)
    k = answer.alternatives
    _ask(k >= 1 and (multimask or k == 1), f"{where}: {k} alternatives with multimask={multimask}.")
    _ask(len(answer.masks) == count * k, f"{where}: {len(answer.masks)} masks for {count} prompts of {k} alternatives.")
    again = _copy(backend).predict(encoded, **prompts, multimask=multimask)
    _ask(_same(answer.masks, again.masks), f"{where}: asked twice, the answer differs.")
    for b in range(count):
        alone = backend.predict(encoded, **_one(prompts, b), multimask=multimask)
        part = answer.masks.select(np.arange(b * k, (b + 1) * k))
        _ask(_agree(part, alone.masks, exact), f"{where}: prompt {b} alone is answered otherwise than in a batch.")


def _one(prompts: dict[str, Any], b: int) -> dict[str, Any]:
    return {
        key: value.select(np.array([b])) if isinstance(value, Masks) else value[b : b + 1] for key, value in prompts.items()
    }


def check_feature_extractor(backend: Any, *, bands: tuple[int, ...] = (3, 1)) -> None:
    """Assert the contract of `FeatureExtractor` on tiles of so many bands.

    An extractor that needs a feature map is given that of `FloodPromptable`.
    """
    _check_identity(backend)
    _ask(
        isinstance(backend.needs_encoded, bool), f"{backend.name}.needs_encoded is {backend.needs_encoded!r}; expected a bool."
    )
    for count in bands:
        widths = set()
        for tile in sample_tiles(count):
            if not tile.valid.any():
                continue
            encoded = FloodPromptable().encode(tile) if backend.needs_encoded else None
            masks = _blocks(tile)
            vectors = backend.extract(tile, masks, encoded)
            _check_vectors(vectors, len(masks), f"{backend.name} on {tile.key} with {count} bands")
            widths.add(vectors.shape[1])
            again = _copy(backend).extract(tile, masks, encoded)
            _ask(np.array_equal(vectors, again), f"{backend.name}: asked twice, the vectors of {tile.key} differ.")
            turned = backend.extract(tile, masks.select(np.arange(len(masks))[::-1]), encoded)[::-1]
            close = np.allclose(vectors, turned, rtol=1e-4, atol=1e-4)
            _ask(close, f"{backend.name}: rows do not follow the masks when their order is reversed ({tile.key}).")
            none = backend.extract(tile, Masks.empty(tile.size), encoded)
            _ask(none.shape[0] == 0 and none.ndim == 2, f"{backend.name}: no masks give {none.shape}; expected (0, d).")
        _ask(
            len(widths) == 1,
            f"{backend.name}: vectors have {sorted(widths)} numbers on tiles of {count} bands; expected one width.",
        )


def _check_vectors(vectors: Any, n: int, where: str) -> None:
    _ask(isinstance(vectors, np.ndarray) and vectors.ndim == 2, f"{where}: expected an (n, d) array.")
    _ask(
        len(vectors) == n and vectors.dtype == np.float32,
        f"{where}: {vectors.shape} {vectors.dtype}; expected ({n}, d) float32.",
    )
    _ask(np.isfinite(vectors).all(), f"{where}: vectors are not finite.")


def _blocks(tile: Tile) -> Masks:
    """The tile's valid pixels in up to sixteen blocks, all of them together, and a single one."""
    height, width = tile.size
    index = np.arange(height)[:, None] * 4 // height * 4 + np.arange(width) * 4 // width
    single = np.zeros(tile.size, dtype=bool)
    single.flat[np.flatnonzero(tile.valid)[-1]] = True
    masks = [(index == k) & tile.valid for k in range(16)]
    return Masks.from_arrays([mask for mask in masks if mask.any()] + [tile.valid, single], tile.size)


def check_clusterer(backend: Any) -> None:
    """Assert the contract of `Clusterer` on a not yet fitted one: three clear groups, then what goes wrong in the field."""
    _check_identity(backend)
    groups, truth = _groups(0)
    fitted = _fit(_copy(backend), groups)
    state = {key: np.asarray(value) for key, value in fitted.state().items()}
    centres = state.get("centres")
    _ask(
        centres is not None and centres.ndim == 2 and centres.dtype == np.float32,
        f"{backend.name}.state() needs centres (k, d) float32.",
    )
    ids, sure = _predicted(fitted, groups, len(state["centres"]))
    for group in range(3):
        common = np.bincount(ids[truth == group]).max() / (truth == group).sum()
        _ask(
            common > 0.3 and not set(ids[truth == group]) & set(ids[truth != group]), f"{backend.name}: clear groups are mixed."
        )
    again = _fit(_copy(backend), groups).state()
    _ask(
        all(np.array_equal(again[key], state[key], equal_nan=True) for key in state),
        f"{backend.name}: fitted twice, the state differs.",
    )
    for other, how in ((type(backend).from_state(state), "from its state"), (_copy(fitted), "pickled")):
        answer = other.predict(groups)
        _ask(
            np.array_equal(answer[0], ids) and np.array_equal(answer[1], sure), f"{backend.name}: {how}, it predicts otherwise."
        )
    single = fitted.predict(groups[:1])[0]
    _ask(single[0] == ids[0], f"{backend.name}: one vector alone goes to another cluster than among others.")
    _check_hard_cases(backend)


def _check_hard_cases(backend: Any) -> None:
    """Few vectors, equal vectors, none: a defined result, or an error of ours that says why."""
    one = np.arange(4, dtype=np.float32)[None]
    odd = np.concatenate([_groups(1)[0], np.full((1, 4), np.nan, dtype=np.float32)])
    for vectors, what in (
        (one, "one vector"),
        (np.repeat(one, 50, 0), "equal vectors"),
        (one[:0], "no vectors"),
        (odd, "a NaN vector"),
    ):
        try:
            fitted = _fit(_copy(backend), vectors)
            _predicted(fitted, vectors, len(fitted.state()["centres"]))
        except TerraLabelError as error:
            _ask("\n" not in str(error), f"{backend.name} with {what}: the error has more than one line.")


def _groups(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 600)
    return (rng.normal(size=(600, 4)) * 0.1 + truth[:, None] * 10).astype(np.float32), truth


def _fit(backend: Any, vectors: np.ndarray) -> Any:
    fitted = backend.fit(lambda: iter([vectors[i : i + 128] for i in range(0, len(vectors), 128)]))
    _ask(fitted is backend, f"{backend.name}.fit: expected to return itself.")
    return fitted


def _predicted(fitted: Any, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids, sure = fitted.predict(vectors)
    n, name = len(vectors), fitted.name
    _ask(ids.shape == (n,) and ids.dtype == np.int32, f"{name}: ids are {ids.shape} {ids.dtype}; expected ({n},) int32.")
    _ask(
        sure.shape == (n,) and sure.dtype == np.float32,
        f"{name}: certainty is {sure.shape} {sure.dtype}; expected ({n},) float32.",
    )
    _ask(((sure >= 0) & (sure <= 1)).all(), f"{name}: certainty leaves [0, 1].")
    finite = np.isfinite(vectors).all(axis=1)
    _ask((ids[finite] < max(k, 1)).all() and (ids >= -1).all(), f"{name}: ids leave 0..{k - 1}.")
    return ids, sure


def _tiles() -> Iterator[Tile]:
    yield from sample_tiles(3)
    yield from sample_tiles(1)[:2]
