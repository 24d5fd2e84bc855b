from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from terralabel.core.grid import Window, plan_tiles
from terralabel.errors import InputError, SettingsError, TerraLabelError
from terralabel.imagery import raster as raster_module
from terralabel.imagery import rows as rows_module
from terralabel.imagery.raster import open_raster
from terralabel.imagery.sources import find_sources

Write = Callable[..., Path]


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def everything(path: Path, **settings: object) -> tuple[np.ndarray, np.ndarray]:
    with open_raster(path, **settings) as raster:
        return raster.read(Window(0, 0, min(raster.width, 200_000), min(raster.height, 4096)))


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_dtypes_and_band_counts_come_as_stored(tmp_path: Path, write_tif: Write, dtype: str, bands: int) -> None:
    array = noise(bands, 9, 11, dtype=dtype)
    pixels, valid = everything(write_tif(tmp_path / "a.tif", array, photometric="minisblack"))
    assert pixels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(pixels, np.moveaxis(array, 0, -1))
    assert valid.all()


@pytest.mark.parametrize(("stored", "read"), [("int8", "int16"), ("int64", "float64"), ("uint64", "float64")])
def test_rare_integers_widen(tmp_path: Path, write_tif: Write, stored: str, read: str) -> None:
    array = noise(5, 6).astype(stored)
    pixels, _ = everything(write_tif(tmp_path / "a.tif", array))
    assert pixels.dtype == np.dtype(read)
    np.testing.assert_array_equal(pixels[..., 0], array)


@pytest.mark.parametrize("stored", ["complex64", "complex128", "complex_int16"])
def test_complex_becomes_amplitude(tmp_path: Path, write_tif: Write, stored: str) -> None:
    array = (noise(6, 7) + 1j * noise(6, 7, seed=1)).astype("complex64")
    pixels, _ = everything(write_tif(tmp_path / "a.tif", array, dtype=stored), sensor="sar")
    assert pixels.dtype.kind == "f"
    np.testing.assert_allclose(pixels[..., 0], np.abs(array), rtol=1e-6)


def test_rgb_is_picked_by_name_in_its_order_and_alpha_is_validity(tmp_path: Path, write_tif: Write) -> None:
    array = noise(5, 8, 8)
    array[4] = 0
    array[4, 2:, :] = 255
    path = write_tif(tmp_path / "a.tif", array)
    with quiet(), rasterio.open(path, "r+") as dataset:
        interp = rasterio.enums.ColorInterp
        dataset.colorinterp = [interp.blue, interp.green, interp.red, interp.undefined, interp.alpha]
    with open_raster(path) as raster:
        assert (raster.bands, raster.count, raster.colors) == ((3, 2, 1), 3, ("red", "green", "blue"))
    pixels, valid = everything(path)
    np.testing.assert_array_equal(pixels, np.moveaxis(array[[2, 1, 0]], 0, -1))
    np.testing.assert_array_equal(valid, array[4] > 0)
    sar, _ = everything(path, sensor="sar")
    assert sar.shape[2] == 4  # all but alpha, never the first three by accident


def test_bands_are_chosen_in_order(tmp_path: Path, write_tif: Write) -> None:
    array = noise(20, 4, 5)
    path = write_tif(tmp_path / "a.tif", array, photometric="minisblack")
    pixels, _ = everything(path, bands=[17, 3])
    np.testing.assert_array_equal(pixels, np.moveaxis(array[[16, 2]], 0, -1))
    with pytest.raises(InputError, match="--bands") as error:
        open_raster(path)
    assert error.value.status == "too-many-bands"
    for bands in ([0], [21], [], list(range(1, 18))):
        with pytest.raises(SettingsError, match="bands 1 to 20"):
            open_raster(path, bands=bands)


def test_200_bands(tmp_path: Path, write_tif: Write) -> None:
    path = write_tif(tmp_path / "a.tif", noise(200, 4, 5), photometric="minisblack")
    assert everything(path, bands=[200])[0].shape == (4, 5, 1)
    with pytest.raises(InputError, match="200 bands"):
        open_raster(path)


def test_nodata_counts_only_where_every_channel_has_it(tmp_path: Path, write_tif: Write) -> None:
    array = noise(3, 6, 6)
    array[:, 0] = 9
    array[0, 1] = 9
    _, valid = everything(write_tif(tmp_path / "a.tif", array, nodata=9))
    expected = ~(array == 9).all(axis=0)
    np.testing.assert_array_equal(valid, expected)
    assert not valid[0].any()


def test_nan_and_infinity_are_invalid(tmp_path: Path, write_tif: Write) -> None:
    array = noise(2, 6, 6, dtype="float32")
    array[0, 0, 0], array[1, 1, 1], array[0, 2, 2], array[1, 3, 3] = np.nan, np.inf, -np.inf, -9999
    array[0, 3, 3] = -9999
    _, valid = everything(write_tif(tmp_path / "a.tif", array, nodata=-9999))
    assert sorted(zip(*np.nonzero(~valid), strict=True)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("text", ["-9999", "1e40", "nan", "7.5", "256"])
def test_nodata_outside_the_dtype_is_ignored(tmp_path: Path, text: str) -> None:
    tags = ImageFileDirectory_v2()
    tags[42113] = text
    Image.fromarray(noise(5, 6)).save(tmp_path / "a.tif", tiffinfo=tags)
    pixels, valid = everything(tmp_path / "a.tif")
    assert valid.all()
    np.testing.assert_array_equal(pixels[..., 0], noise(5, 6))


def test_internal_mask_and_mask_file(tmp_path: Path, write_tif: Write) -> None:
    mask = np.zeros((6, 7), np.uint8)
    mask[2:, 3:] = 255
    _, valid = everything(write_tif(tmp_path / "inside.tif", noise(3, 6, 7), mask=mask))
    np.testing.assert_array_equal(valid, mask > 0)
    path = write_tif(tmp_path / "beside.tif", noise(3, 6, 7))
    write_tif(tmp_path / "beside.tif.msk", mask)
    np.testing.assert_array_equal(everything(path)[1], mask > 0)
    write_tif(tmp_path / "beside.tif.msk", mask[:-1])
    with pytest.raises(InputError, match="remove"):
        open_raster(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_palette_becomes_its_colours(tmp_path: Path, suffix: str) -> None:
    palette = Image.fromarray(noise(8, 9, 3)).quantize(16)
    palette.save(tmp_path / f"a.{suffix}")
    pixels, valid = everything(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(pixels, np.asarray(palette.convert("RGB")))
    assert valid.all()


def test_transparent_palette_entry_is_invalid(tmp_path: Path) -> None:
    palette = Image.fromarray(noise(8, 9, 3)).quantize(4)
    palette.save(tmp_path / "a.png", transparency=2)
    _, valid = everything(tmp_path / "a.png")
    np.testing.assert_array_equal(valid, np.asarray(palette) != 2)


def test_one_bit_images_are_black_and_white(tmp_path: Path, write_tif: Write) -> None:
    bits = noise(8, 9) > 100
    Image.fromarray(bits).save(tmp_path / "a.png")
    write_tif(tmp_path / "a.tif", bits.astype(np.uint8), nbits=1)
    for name in ("a.png", "a.tif"):
        pixels, _ = everything(tmp_path / name)
        np.testing.assert_array_equal(pixels[..., 0], np.where(bits, 255, 0))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb(tmp_path: Path, suffix: str) -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 0], inks[..., 1] = 200, 50
    Image.fromarray(inks, "CMYK").save(tmp_path / f"a.{suffix}")
    pixels, _ = everything(tmp_path / f"a.{suffix}")
    assert pixels.shape == (16, 16, 3)
    np.testing.assert_allclose(pixels[8, 8].astype(int), [55, 205, 255], atol=3)


@pytest.mark.parametrize(("name", "driver"), [("JPEG", "JPEG"), ("JPEG2000", "JP2OpenJPEG"), ("PNG", "PNG"), ("BMP", "BMP")])
def test_formats_are_known_by_their_bytes(tmp_path: Path, name: str, driver: str) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)
    array = np.stack([smooth, smooth + 60, 200 - smooth], -1)
    Image.fromarray(array).save(tmp_path / "a.tif", format=name)
    pixels, _ = everything(tmp_path / "a.tif")
    assert np.abs(pixels.astype(int) - array).max() < (30 if name == "JPEG" else 1)
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.driver == driver


def encoded(suffix: str) -> bytes:
    ramp = np.add.outer(np.arange(300) % 251, np.arange(400) % 241).astype(np.uint8)
    array = np.stack([ramp, ramp // 2, 255 - ramp], -1) + np.random.default_rng(0).integers(0, 5, (300, 400, 3)).astype(
        np.uint8
    )
    buffer = io.BytesIO()
    settings = {"compression": "tiff_deflate"} if suffix == "deflate.tif" else {}
    format_name = {"jpg": "JPEG", "jp2": "JPEG2000", "tif": "TIFF", "deflate.tif": "TIFF"}.get(suffix, suffix)
    Image.fromarray(array).save(buffer, format_name, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["tif", "deflate.tif", "png", "jpg", "jp2", "bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files_are_told(tmp_path: Path, suffix: str, share: float) -> None:
    whole = encoded(suffix)
    (tmp_path / "whole").write_bytes(whole)
    everything(tmp_path / "whole")  # the control
    (tmp_path / "cut").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError) as error:
        everything(tmp_path / "cut")
    assert error.value.status == "truncated"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["tif", "deflate.tif", "png", "jpg", "jp2", "bmp"])
def test_flipped_bits_never_leak_a_foreign_error(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(suffix)
    rng = np.random.default_rng(7)
    for trial in range(24):
        damaged = bytearray(whole)
        for at in rng.integers(4, min(len(whole), 400) if trial % 2 else len(whole), 3):
            damaged[at] ^= 1 << rng.integers(0, 8)
        (tmp_path / "damaged").write_bytes(bytes(damaged))
        try:
            everything(tmp_path / "damaged")
        except TerraLabelError as error:
            assert "\n" not in str(error)
            assert getattr(error, "status", "") in {
                "truncated", "corrupt", "unsupported", "not-a-raster", "block-too-large", "too-large", "too-many-bands", "gcp-only"
            }  # fmt: skip
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", "empty", "0 bytes"),
        (b"just text", "not-a-raster", "text"),
        (b"\0" * 600, "not-a-raster", "zeros"),
        (b"PK\x03\x04....", "not-a-raster", "zip"),
        (b"PAR1....", "not-a-raster", "Parquet"),
        (b'{"type": 1}', "not-a-raster", "JSON"),
        (b"<VRTDataset rasterXSize='9'/>", "not-a-raster", "VRT"),
        (b"<html>", "not-a-raster", "HTML"),
        (b"II*\0\x08\0\0\0", "truncated", "cut short"),
        (b"\x89PNG\r\n\x1a\n", "truncated", "cut short"),
    ],
)
def test_what_is_no_image_says_what_it_is(tmp_path: Path, content: bytes, status: str, says: str) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        open_raster(tmp_path / "a.tif")
    assert error.value.status == status


def test_vrt_reads_only_on_request(tmp_path: Path, write_tif: Write) -> None:
    write_tif(tmp_path / "secret.tif", noise(4, 5))
    (tmp_path / "v.tif").write_text(
        "<VRTDataset rasterXSize='5' rasterYSize='4'><VRTRasterBand dataType='Byte' band='1'><SimpleSource>"
        "<SourceFilename relativeToVRT='1'>secret.tif</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(InputError):
        open_raster(tmp_path / "v.tif")
    np.testing.assert_array_equal(everything(tmp_path / "v.tif", follow_vrt=True)[0][..., 0], noise(4, 5))


def test_vanished_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        open_raster(tmp_path / "gone.tif")
    assert error.value.status == "vanished"


def test_file_that_vanishes_or_shrinks_while_open(tmp_path: Path, write_tif: Write) -> None:
    path = write_tif(tmp_path / "a.tif", noise(3, 600, 700), compress="deflate")
    with open_raster(path) as raster:
        path.unlink()
        assert raster.read(Window(0, 590, 700, 10))[0].shape == (10, 700, 3)  # the system keeps what is open
    path = write_tif(tmp_path / "b.tif", noise(3, 600, 700), compress="deflate")
    with open_raster(path) as raster:
        with path.open("r+b") as handle:
            handle.truncate(5000)
        with pytest.raises(InputError) as error:
            raster.read(Window(0, 590, 700, 10))
        assert error.value.status == "truncated"


def test_threads_with_a_raster_each(tmp_path: Path, write_tif: Write) -> None:
    arrays = [noise(3, 200, 300, seed=seed) for seed in range(4)]
    paths = [write_tif(tmp_path / f"{i}.tif", array, compress="lzw") for i, array in enumerate(arrays)]
    hooks = sys.unraisablehook, sys.excepthook

    def read(index: int) -> bool:
        array = arrays[index % 4]
        with open_raster(paths[index % 4]) as raster:
            return all(
                (raster.read(Window(0, y, 300, 50))[0] == np.moveaxis(array[:, y : y + 50], 0, -1)).all() for y in (0, 50, 150)
            )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(80)))
    assert (sys.unraisablehook, sys.excepthook) == hooks


@pytest.mark.parametrize(
    "transform",
    [
        Affine(0.5, 0, 500000, 0, -0.5, 4100000),
        Affine(0.5, 0, 500000, 0, 0.5, 4100000),  # south-up
        Affine.rotation(30) * Affine.scale(2, -2),
        Affine.identity() * Affine.translation(179.9, 10),
    ],
)
def test_georeference_is_carried_through(tmp_path: Path, write_tif: Write, transform: Affine) -> None:
    path = write_tif(tmp_path / "a.tif", noise(4, 5), transform=transform, crs="EPSG:32633")
    with open_raster(path) as raster:
        np.testing.assert_allclose(raster.georeference.transform, tuple(transform)[:6], rtol=1e-12, atol=1e-9)
        assert rasterio.crs.CRS.from_wkt(raster.georeference.crs) == rasterio.crs.CRS.from_epsg(32633)


def test_no_crs_is_never_invented(tmp_path: Path, write_tif: Write) -> None:
    with open_raster(write_tif(tmp_path / "a.tif", noise(4, 5))) as raster:
        assert not raster.georeference.is_placed
    path = write_tif(tmp_path / "b.tif", noise(4, 5), crs="+proj=laea +lat_0=11 +lon_0=22 +datum=WGS84")
    with open_raster(path) as raster:
        assert "11" in (raster.georeference.crs or "")


def test_world_file_and_prj_place_a_picture(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 5)).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n101\n499\n")
    (tmp_path / "a.prj").write_text(rasterio.crs.CRS.from_epsg(32633).to_wkt())
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.georeference.transform == (2, 0, 100, 0, -2, 500)
        assert rasterio.crs.CRS.from_wkt(raster.georeference.crs).to_epsg() == 32633
    (tmp_path / "a.prj").write_text("nonsense")
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.georeference.crs is None
    (tmp_path / "a.pgw").write_text("no numbers here")
    with open_raster(tmp_path / "a.png") as raster:
        assert not raster.georeference.is_placed


def test_aux_xml_places_a_picture_and_entities_are_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 5)).save(tmp_path / "a.png")
    wkt = rasterio.crs.CRS.from_epsg(32633).to_wkt()
    described = f"<PAMDataset><SRS>{wkt}</SRS><GeoTransform> 100, 2, 0, 500, 0, -2</GeoTransform></PAMDataset>"
    (tmp_path / "a.png.aux.xml").write_text(described)
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.georeference.transform == (2, 0, 100, 0, -2, 500)
        assert rasterio.crs.CRS.from_wkt(raster.georeference.crs).to_epsg() == 32633
    bomb = '<!DOCTYPE x [<!ENTITY a "1">]>' + described
    for content in (bomb, "<PAMDataset>", "<other/>", described.replace("500", "nan"), "<VRTDataset/>"):
        (tmp_path / "a.png.aux.xml").write_text(content)
        with open_raster(tmp_path / "a.png") as raster:
            assert not raster.georeference.is_placed


def test_world_file_keeps_the_crs_inside(tmp_path: Path, write_tif: Write) -> None:
    path = write_tif(tmp_path / "a.tif", noise(4, 5), crs="EPSG:32633")
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n101\n499\n")
    with open_raster(path) as raster:
        assert raster.georeference.transform == (2, 0, 100, 0, -2, 500)
        assert rasterio.crs.CRS.from_wkt(raster.georeference.crs).to_epsg() == 32633


@pytest.mark.parametrize("kind", ["gcp", "rpc"])
def test_gcp_and_rpc_only_are_refused_with_the_way_out(tmp_path: Path, write_tif: Write, kind: str) -> None:
    path = write_tif(tmp_path / "a.tif", noise(4, 5))
    with quiet(), rasterio.open(path, "r+") as dataset:
        if kind == "gcp":
            points = [GroundControlPoint(row, col, col * 2.0, row * 3.0 + col) for row, col in ((0, 0), (0, 4), (3, 0), (3, 4))]
            dataset.gcps = points, rasterio.crs.CRS.from_epsg(32633)
        else:
            offsets = [f"{axis}_{kind}" for axis in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT") for kind in ("OFF", "SCALE")]
            names = ["ERR_BIAS", "ERR_RAND", *offsets]
            coefficients = {
                f"{name}_COEFF": " ".join(["1"] + ["0"] * 19) for name in ("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN")
            }
            dataset.update_tags(ns="RPC", **dict.fromkeys(names, "1"), **coefficients)
    with pytest.raises(InputError, match="gdalwarp") as error:
        open_raster(path)
    assert error.value.status == "gcp-only"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 3), (3000, 2), (2, 3000), (1500, 700)])
@pytest.mark.parametrize("tiled", [False, True])
def test_windows_equal_the_whole_and_cover_it(tmp_path: Path, write_tif: Write, width: int, height: int, tiled: bool) -> None:
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "lzw"} if tiled else {"compress": "deflate"}
    array = noise(3, height, width, dtype="uint16")
    array[:, height // 2] = 0
    path = write_tif(tmp_path / "a.tif", array, nodata=0, **blocks)
    seen = np.zeros((height, width), int)
    with open_raster(path) as raster:
        plans = plan_tiles("a", width, height, 256, 64)
        order = np.random.default_rng(1).permutation(len(plans))
        for plan in [*plans, *(plans[i] for i in order)]:
            pixels, valid = raster.read(plan.window)
            rows, columns = plan.window.slices()
            np.testing.assert_array_equal(pixels, np.moveaxis(array[:, rows, columns], 0, -1))
            np.testing.assert_array_equal(valid, array[0, rows, columns] > 0)
            seen[plan.core.slices()] += 1
    assert (seen == 2).all()


def test_row_wise_png_by_random_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_PIECE_BYTES", 40_000)
    array = noise(300, 1200, 3)
    Image.fromarray(array).save(tmp_path / "a.png")
    rng = np.random.default_rng(5)
    with open_raster(tmp_path / "a.png") as raster:
        assert raster.row_wise
        for _ in range(60):
            y, x = int(rng.integers(0, 299)), int(rng.integers(0, 1199))
            window = Window(x, y, int(rng.integers(1, 1200 - x + 1)), int(rng.integers(1, 300 - y + 1)))
            np.testing.assert_array_equal(raster.read(window)[0], array[window.slices()])


def test_full_temporary_disk_only_costs_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = noise(40, 1200, 3)
    Image.fromarray(array).save(tmp_path / "a.png")

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            return 0

    monkeypatch.setattr(rows_module.tempfile, "TemporaryFile", lambda **_: Full())
    with open_raster(tmp_path / "a.png") as raster:
        for y in (0, 10):
            np.testing.assert_array_equal(raster.read(Window(3, y, 50, 20))[0], array[y : y + 20, 3:53])


@pytest.mark.parametrize("window", [Window(-1, 0, 2, 2), Window(0, 0, 6, 2), Window(4, 3, 2, 2), Window(0, 0, 0, 0)])
def test_window_outside_is_refused(tmp_path: Path, write_tif: Write, window: Window) -> None:
    with open_raster(write_tif(tmp_path / "a.tif", noise(4, 5))) as raster, pytest.raises(InputError, match="not inside"):
        raster.read(window)


def test_200_000_pixels_square_sparse_works_by_windows(tmp_path: Path) -> None:
    profile = {"width": 200_000, "height": 200_000, "count": 1, "dtype": "uint8", "tiled": True, "compress": "deflate"}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", BIGTIFF="YES", SPARSE_OK="TRUE", blockxsize=1024, blockysize=1024,
        transform=Affine(1, 0, 9, 0, -1, 9), **profile
    ) as dataset:  # fmt: skip
        dataset.write(noise(1, 10, 10), window=rasterio.windows.Window(199_990, 199_990, 10, 10))
    with open_raster(tmp_path / "a.tif") as raster:
        pixels, _ = raster.read(Window(199_900, 199_900, 100, 100))
        np.testing.assert_array_equal(pixels[90:, 90:, 0], noise(1, 10, 10)[0])
        assert not pixels[:90].any()


def test_huge_blocks_are_refused_before_decoding(tmp_path: Path, write_tif: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tif(
        tmp_path / "a.tif", np.zeros((3, 512, 2000), np.uint8), blockysize=512, interleave="pixel", compress="deflate"
    )
    monkeypatch.setattr(raster_module, "MAX_BLOCK_BYTES", 3 * 512 * 2000)
    open_raster(path).close()
    monkeypatch.setattr(raster_module, "MAX_BLOCK_BYTES", 3 * 512 * 2000 - 1)
    with pytest.raises(InputError, match="TILED=YES") as error:
        open_raster(path)
    assert error.value.status == "block-too-large"


@pytest.mark.parametrize(
    "name", ["a b?c#d.tif", "zip!x.tif", "q'\"u.tif", "new\nline.tif", "-dash.tif", "GTIFF_DIR:9:x.tif", "%41.tif"]
)
def test_gdal_takes_no_name_for_more_than_a_name(
    tmp_path: Path, write_tif: Write, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tif(tmp_path / "plain", noise(4, 5)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(everything(Path(name))[0][..., 0], noise(4, 5))


def test_messages_that_are_no_utf8_stay_inside(tmp_path: Path, capfd: pytest.CaptureFixture[str], write_tif: Write) -> None:
    path = write_tif(tmp_path / "a.tif", noise(4, 5))
    with quiet(), rasterio.open(path, "r+") as dataset:
        dataset.update_tags(KEY="value")
    whole = path.read_bytes()
    assert b'<Item name="KEY">' in whole
    path.write_bytes(whole.replace(b'<Item name="KEY">', b'<Item \xc2ame "KEY">'))
    np.testing.assert_array_equal(everything(path)[0][..., 0], noise(4, 5))
    assert capfd.readouterr() == ("", "")


def test_nothing_is_logged_or_written(tmp_path: Path, write_tif: Write, unchanged, caplog: pytest.LogCaptureFixture) -> None:
    write_tif(tmp_path / "a.tif", noise(3, 40, 50))
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><Metadata/></PAMDataset>")
    unchanged(tmp_path)
    with caplog.at_level(logging.WARNING):
        everything(tmp_path / "a.tif")
    assert not caplog.records


@pytest.mark.data
def test_every_real_file_is_read_or_refused_with_a_reason(data_dir: Path, unchanged) -> None:
    unchanged(data_dir / "geo-io")
    sources = find_sources([data_dir / "geo-io"])
    read, refused = [], {}
    for file in sources.files:
        try:
            pixels, valid = everything(file.path)
            assert pixels.shape[:2] == valid.shape
            read.append(file.path.name)
        except InputError as error:
            refused[file.path.name] = error.status
    assert refused == {"corrupt.tif": "truncated"}
    assert len(read) > 40
    assert {skipped.status for skipped in sources.skipped} == {"not-a-raster"}  # the VRT files


@pytest.mark.data
def test_real_ground_control_and_rpc_are_refused(data_dir: Path) -> None:
    for name in ("RGB.byte.gcp.vrt", "RGB.byte.rpc.vrt", "white-gemini-iv.vrt", "compdcs.vrt"):
        with pytest.raises(InputError) as error:
            open_raster(data_dir / "geo-io/rasterio" / name, follow_vrt=True)
        assert error.value.status == "gcp-only"


@pytest.mark.data
def test_real_validity(data_dir: Path) -> None:
    folder = data_dir / "geo-io/rasterio"
    shares = {name: round(float(everything(folder / name)[1].mean()), 3) for name in (
        "RGB.byte.tif", "RGB2.byte.tif", "RGBA.byte.tif", "all-nodata.tif", "float_nan.tif", "shade.tif"
    )}  # fmt: skip
    assert shares == {
        "RGB.byte.tif": 0.675,  # nodata 0
        "RGB2.byte.tif": 0.674,  # .msk beside it
        "RGBA.byte.tif": 0.675,  # alpha
        "all-nodata.tif": 0.0,
        "float_nan.tif": 0.833,
        "shade.tif": 0.119,
    }
