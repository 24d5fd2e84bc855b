from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from terralabel.core.grid import Window
from terralabel.errors import InputError, RunError
from terralabel.imagery.radiometry import Fit, Radiometry, fit_radiometry

Write = Callable[..., Path]
RNG = np.random.default_rng(11)


def test_stretch_is_the_documented_formula() -> None:
    radiometry = Radiometry("stretch", (100.0, -50.0), (300.0, 50.0), "integer")
    pixels = np.array([[[100, -50], [300, 50], [200, 0], [99, -51], [301, 51], [150, 25]]], np.int16)
    expected = [[[0, 0], [255, 255], [128, 128], [0, 0], [255, 255], [64, 191]]]
    np.testing.assert_array_equal(radiometry.apply(pixels, np.ones((1, 6), bool)), expected)


def test_invalid_pixels_become_zero() -> None:
    radiometry = Radiometry("stretch", (0.0,), (255.0,), "uint8")
    out = radiometry.apply(np.full((2, 2, 1), 77, np.uint8), np.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(out[..., 0], [[77, 0], [0, 77]])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("kind", ["stretch", "decibel"])
def test_extremes_clip_and_never_wrap(dtype: str, kind: str) -> None:
    info = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    values = [info.min, 0, 1, 10, 100, 1000, info.max]
    if dtype.startswith("float"):
        values += [np.nan, np.inf, -np.inf]
    pixels = np.array(values, dtype).reshape(1, -1, 1)
    radiometry = Radiometry(kind, (1.0,), (50.0,), "float" if dtype.startswith("float") else "integer")
    out = radiometry.apply(pixels, np.ones(pixels.shape[:2], bool))[0, :, 0]
    assert (np.diff(out[:7].astype(int)) >= 0).all()  # rising input, rising output
    assert (out[0], out[6]) == (0, 255)
    if dtype.startswith("float"):
        np.testing.assert_array_equal(out[7:], [0, 255, 0])


def test_tables_equal_the_formula_for_every_16_bit_value() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    valid = np.ones((256, 256), bool)
    for kind in ("stretch", "decibel"):
        table = Radiometry(kind, (3.0,), (80.0,), "integer").apply(values, valid)
        wide = Radiometry(kind, (3.0,), (80.0,), "integer").apply(values.astype(np.uint32), valid)
        np.testing.assert_array_equal(table, wide)
        signed = Radiometry(kind, (3.0,), (80.0,), "integer").apply((values // 2).astype(np.int16), valid)
        np.testing.assert_array_equal(signed, Radiometry(kind, (3.0,), (80.0,), "integer").apply(values // 2, valid))


@settings(deadline=None)
@given(
    low=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4),
    width=st.floats(1e-3, 1e6),
    kind=st.sampled_from(["stretch", "decibel"]),
    bands=st.none() | st.lists(st.integers(1, 200), min_size=1, max_size=4),
)
def test_json_gives_it_back_bit_for_bit(low: list[float], width: float, kind: str, bands: list[int] | None) -> None:
    chosen = None if bands is None else tuple(bands)
    radiometry = Radiometry(kind, tuple(low), tuple(v + width for v in low), "float", True, chosen, "sar")
    assert Radiometry.from_json(radiometry.to_json()) == radiometry
    assert pickle.loads(pickle.dumps(radiometry)) == radiometry


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 2}', Radiometry("stretch", (0.0,), (1.0,), "uint8").to_json().replace("1.0", "0.0"),
     Radiometry("stretch", (0.0,), (1.0,), "uint8").to_json().replace('"grey"', '"gray"')],
)  # fmt: skip
def test_damaged_json_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="radiometry is damaged"):
        Radiometry.from_json(text)


def test_percentiles_of_valid_pixels_only(tmp_path: Path, write_tif: Write) -> None:
    array = RNG.integers(1000, 2001, (2, 300, 400)).astype(np.uint16)
    array[1] += 500
    array[:, :, :200] = 65535
    path = write_tif(tmp_path / "a.tif", array, nodata=65535)
    radiometry = fit_radiometry([path]).radiometry
    assert (radiometry.kind, radiometry.family, radiometry.count) == ("stretch", "integer", 2)
    np.testing.assert_allclose(radiometry.low, np.percentile(array[:, :, 200:], 0.5, axis=(1, 2)), atol=1)
    np.testing.assert_allclose(radiometry.high, np.percentile(array[:, :, 200:], 99.5, axis=(1, 2)), atol=1)


def test_same_data_set_same_fit_whatever_the_order(tmp_path: Path, write_tif: Write) -> None:
    paths = [write_tif(tmp_path / f"{i}.tif", RNG.integers(0, 4000, (3, 600, 700)).astype(np.uint16)) for i in range(4)]
    first = fit_radiometry(paths, windows=6, seed=3)
    assert fit_radiometry(paths[::-1], windows=6, seed=3) == first
    assert fit_radiometry(paths, windows=6, seed=4) != first


def test_a_sample_is_near_the_whole(tmp_path: Path, write_tif: Write) -> None:
    gradient = np.add.outer(np.linspace(0, 3000, 2000), np.linspace(0, 3000, 2500)).astype(np.uint16)
    path = write_tif(tmp_path / "a.tif", gradient)
    radiometry = fit_radiometry([path], windows=24).radiometry
    exact = np.percentile(gradient, (0.5, 99.5))
    np.testing.assert_allclose([radiometry.low[0], radiometry.high[0]], exact, atol=0.1 * (exact[1] - exact[0]))


def test_same_pixels_same_result_in_another_extent(tmp_path: Path, write_tif: Write) -> None:
    scene = RNG.normal(500, 100, (1, 300, 300)).astype(np.float32)
    whole, part = write_tif(tmp_path / "whole.tif", scene), write_tif(tmp_path / "part.tif", scene[:, 100:200, 50:150])
    radiometry = fit_radiometry([whole]).radiometry
    with radiometry.open(whole) as a, radiometry.open(part) as b:
        np.testing.assert_array_equal(
            radiometry.apply(*a.read(Window(50, 100, 100, 100))), radiometry.apply(*b.read(Window(0, 0, 100, 100)))
        )


def test_8_bit_imagery_that_uses_its_range_is_taken_as_it_is(tmp_path: Path) -> None:
    full = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(full).save(tmp_path / "full.png")
    radiometry = fit_radiometry([tmp_path / "full.png"]).radiometry
    np.testing.assert_array_equal(radiometry.apply(full, np.ones((64, 64), bool)), full)
    Image.fromarray(full // 4).save(tmp_path / "dark.png")
    assert max(fit_radiometry([tmp_path / "dark.png"]).radiometry.high) < 64


def test_constant_and_empty_images_are_fine(tmp_path: Path, write_tif: Write) -> None:
    constant = write_tif(tmp_path / "constant.tif", np.full((1, 20, 20), 5, np.uint16))
    radiometry = fit_radiometry([constant]).radiometry
    assert radiometry.low[0] < radiometry.high[0]
    empty = write_tif(tmp_path / "empty.tif", np.zeros((1, 20, 20), np.float32), nodata=0)
    radiometry = fit_radiometry([empty], sensor="sar").radiometry
    assert radiometry.low[0] < radiometry.high[0]
    nan = write_tif(tmp_path / "nan.tif", np.full((2, 20, 20), np.nan, np.float32))
    assert fit_radiometry([nan]).radiometry.count == 2


def test_mostly_empty_scene_is_still_sampled(tmp_path: Path, write_tif: Write) -> None:
    array = np.zeros((1, 2048, 2048), np.uint16)
    array[0, 300:500, 300:1500] = RNG.integers(2000, 3000, (200, 1200))
    radiometry = fit_radiometry([write_tif(tmp_path / "a.tif", array, nodata=0)], windows=16).radiometry
    assert 1990 < radiometry.low[0] < 2100
    assert 2900 < radiometry.high[0] < 3000


def test_amplitude_goes_to_decibels(tmp_path: Path, write_tif: Write) -> None:
    amplitude = (10 ** RNG.uniform(0, 2, (1, 200, 200))).astype(np.float32)  # 0 to 40 dB
    radiometry = fit_radiometry([write_tif(tmp_path / "a.tif", amplitude)], sensor="sar").radiometry
    assert radiometry.kind == "decibel"
    np.testing.assert_allclose([radiometry.low[0], radiometry.high[0]], [0.2, 39.8], atol=0.1)
    middle = radiometry.apply(np.full((1, 1, 1), 10, np.float32), np.ones((1, 1), bool))
    assert abs(int(middle[0, 0, 0]) - 128) <= 1
    assert radiometry.apply(np.zeros((1, 1, 1), np.float32), np.ones((1, 1), bool))[0, 0, 0] == 0


def test_decibel_floats_and_8_bit_sar_are_not_logged_again(tmp_path: Path, write_tif: Write) -> None:
    decibel = RNG.normal(-12, 5, (2, 100, 100)).astype(np.float32)
    decibel[0, :10] = np.nan
    assert fit_radiometry([write_tif(tmp_path / "db.tif", decibel)], sensor="sar").radiometry.kind == "stretch"
    chip = RNG.integers(0, 256, (1, 50, 50)).astype(np.uint8)
    assert fit_radiometry([write_tif(tmp_path / "chip.tif", chip)], sensor="sar").radiometry.kind == "stretch"


def test_amplitudes_among_decibels_are_told(tmp_path: Path, write_tif: Write) -> None:
    paths = [write_tif(tmp_path / f"{i}.tif", RNG.normal(-12, 3, (1, 50, 50)).astype(np.float32)) for i in range(3)]
    odd = write_tif(tmp_path / "odd.tif", RNG.uniform(1, 99, (1, 50, 50)).astype(np.float32))
    fit = fit_radiometry([odd, *paths], sensor="sar")
    assert [(skipped.path, skipped.status) for skipped in fit.unfit] == [(odd, "mixed")]
    assert fit.radiometry == fit_radiometry(paths, sensor="sar").radiometry


def test_grey_sar_saved_as_rgb_is_one_channel(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (3, 40, 40)).astype(np.uint8)
    Image.fromarray(np.stack([grey[0]] * 3, -1)).save(tmp_path / "rgb.png")
    Image.fromarray(grey[1]).save(tmp_path / "l.png")
    Image.fromarray(np.moveaxis(grey, 0, -1)).save(tmp_path / "colour.png")
    fit = fit_radiometry(list(tmp_path.glob("*.png")), sensor="sar")
    assert (fit.radiometry.count, fit.radiometry.grey) == (1, True)
    assert [skipped.path.name for skipped in fit.unfit] == ["colour.png"]
    valid = np.ones((40, 40), bool)
    out = fit.radiometry.apply(np.stack([grey[0]] * 3, -1), valid)
    np.testing.assert_array_equal(out[..., 0], grey[0])
    np.testing.assert_array_equal(fit.radiometry.apply(grey[1][..., None], valid)[..., 0], grey[1])
    with pytest.raises(InputError) as error:
        fit.radiometry.apply(np.moveaxis(grey, 0, -1), valid)
    assert error.value.status == "mixed"


def test_grey_pictures_among_rgb_ones_are_rgb(tmp_path: Path) -> None:
    colour, grey = RNG.integers(0, 256, (40, 40, 3)).astype(np.uint8), RNG.integers(0, 256, (40, 40)).astype(np.uint8)
    for name, picture in (("a", grey), ("b", colour), ("c", colour)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    Image.new("P", (40, 40), 0).save(tmp_path / "blank.png")
    fit = fit_radiometry(list(tmp_path.glob("*.png")))
    assert (fit.radiometry.count, fit.unfit) == (3, ())
    with fit.radiometry.open(tmp_path / "a.png") as raster:
        out = fit.radiometry.apply(*raster.read(Window(0, 0, 40, 40)))
    np.testing.assert_array_equal(out, np.stack([grey] * 3, -1))


def test_images_unlike_the_majority_are_named(tmp_path: Path, write_tif: Write) -> None:
    same = [write_tif(tmp_path / f"{i}.tif", RNG.integers(0, 255, (3, 20, 20)).astype(np.uint8)) for i in range(3)]
    write_tif(tmp_path / "two.tif", RNG.integers(0, 255, (2, 20, 20)).astype(np.uint8))
    write_tif(tmp_path / "deep.tif", RNG.integers(0, 255, (3, 20, 20)).astype(np.uint16))
    (tmp_path / "broken.tif").write_bytes(same[0].read_bytes()[:100])
    fit = fit_radiometry([*tmp_path.glob("*.tif")])
    assert {s.path.name: s.status for s in fit.unfit} == {"two.tif": "mixed", "deep.tif": "mixed", "broken.tif": "truncated"}
    assert isinstance(fit, Fit)
    assert all("\n" not in skipped.reason for skipped in fit.unfit)
    for pixels in (np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint16)):
        with pytest.raises(InputError) as error:
            fit.radiometry.apply(pixels, np.ones((2, 2), bool))
        assert error.value.status == "mixed"


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("text")
    with pytest.raises(InputError, match="None of 1 images"):
        fit_radiometry([tmp_path / "a.tif"])
    with pytest.raises(InputError, match="None of 0 images"):
        fit_radiometry([])


def test_bands_are_kept(tmp_path: Path, write_tif: Write) -> None:
    array = RNG.integers(0, 255, (5, 20, 20)).astype(np.uint8)
    path = write_tif(tmp_path / "a.tif", array)
    radiometry = fit_radiometry([path], bands=[5, 2]).radiometry
    assert radiometry.bands == (5, 2)
    with radiometry.open(path) as raster:
        np.testing.assert_array_equal(raster.read(Window(0, 0, 20, 20))[0], np.moveaxis(array[[4, 1]], 0, -1))


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "sensor", "kind", "count"),
    [
        ("sar-water/images", "sar", "decibel", 1),
        ("sar-oil/images", "sar", "stretch", 1),
        ("sar-aquaculture/images", "sar", "stretch", 1),
        ("lakes/images", "optical", "stretch", 3),
        ("landslide/images", "optical", "stretch", 3),
    ],
)
def test_real_sets_fit_whole(data_dir: Path, folder: str, sensor: str, kind: str, count: int) -> None:
    fit = fit_radiometry(sorted((data_dir / folder).iterdir()), sensor=sensor)
    assert (fit.radiometry.kind, fit.radiometry.count, fit.unfit) == (kind, count, ())


@pytest.mark.data
def test_real_sentinel_chip(data_dir: Path) -> None:
    radar = fit_radiometry([data_dir / "sen1floods11/Spain_7370579_S1Hand.tif"], sensor="sar").radiometry
    assert (radar.kind, radar.count) == ("stretch", 2)  # in dB already, with NaN
    assert -40 < radar.low[0] < radar.high[0] < 20
    optical = fit_radiometry([data_dir / "sen1floods11/Spain_7370579_S2Hand.tif"]).radiometry
    assert (optical.kind, optical.count) == ("stretch", 13)
