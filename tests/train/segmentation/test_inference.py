"""Windows over scenes of any size: every pixel once, overlaps blended, memory bounded."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from terralabel.train.segmentation.inference import Mapper, window_weight  # noqa: E402


class Brightness(nn.Module):
    """Class 1 where the first band is bright: says of each pixel what only that pixel shows."""

    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def normalise(self, pixels):
        return pixels.float() / 255

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        bright = (x[:, :1] - 0.5) * 20
        return torch.cat([-bright, bright, torch.full_like(bright, -30.0)], dim=1)


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * width)
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    valid = rng.random((height, width)) > 0.1
    return pixels, valid


def mapped(mapper: Mapper, pixels: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Whole-scene (K, H, W) probabilities, validity, and the widest part."""
    height, width = valid.shape
    found = np.full((3, height, width), np.nan, np.float32)
    seen = np.zeros((height, width), bool)
    widest = 0
    for part in mapper.blended(lambda w: (pixels[w.slices()], valid[w.slices()]), width, height):
        at = part.window.slices()
        assert np.isnan(found[(slice(None), *at)]).all(), "a pixel came twice"
        found[(slice(None), *at)], seen[at] = part.probabilities, part.valid
        widest = max(widest, part.window.width)
    assert not np.isnan(found).any()
    return found, seen, widest


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1, 1), (3, 700), (130, 75), (200, 333)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_pixel_once_with_its_own_class(height: int, width: int, batch_size: int) -> None:
    pixels, valid = scene(height, width)
    mapper = Mapper(Brightness(), torch.device("cpu"), tile_size=64, overlap=16, batch_size=batch_size)
    found, seen, _ = mapped(mapper, pixels, valid)
    assert (seen == valid).all()
    assert np.allclose(found.sum(axis=0)[valid], 1, atol=1e-5)
    assert not found[:, ~valid].any()
    clear = valid & (np.abs(pixels[..., 0].astype(int) - 127) > 3)
    assert (found.argmax(axis=0) == (pixels[..., 0] > 127))[clear].all()


def test_bands_change_nothing() -> None:
    pixels, valid = scene(150, 1400)
    whole = Mapper(Brightness(), torch.device("cpu"), tile_size=64, overlap=16)
    banded = Mapper(Brightness(), torch.device("cpu"), tile_size=64, overlap=16, room=4 * 3 * 64 * 512)
    a, _, wide = mapped(whole, pixels, valid)
    b, _, narrow = mapped(banded, pixels, valid)
    assert wide == 1400
    assert narrow == 512
    assert (a == b).all()


def test_windows_without_a_valid_pixel_are_not_computed() -> None:
    pixels, valid = scene(64, 256)
    valid[:, 64:] = False
    network = Brightness()
    mapped(Mapper(network, torch.device("cpu"), tile_size=64, overlap=0), pixels, valid)
    assert len(network.seen) == 1


class Side(nn.Module):
    """Says class 0 left of the window's middle, 1 right of it: windows disagree wherever they overlap."""

    classes = 3

    def normalise(self, pixels):
        return pixels.float()

    def forward(self, x):
        ramp = torch.linspace(-4, 4, x.shape[3]).expand(x.shape[0], 1, *x.shape[2:])
        return torch.cat([-ramp, ramp, ramp * 0 - 9], dim=1)


def test_overlaps_have_no_seam() -> None:
    pixels = np.zeros((64, 160, 3), np.uint8)
    valid = np.ones((64, 160), bool)
    blended, _, _ = mapped(Mapper(Side(), torch.device("cpu"), tile_size=64, overlap=32), pixels, valid)
    hard, _, _ = mapped(Mapper(Side(), torch.device("cpu"), tile_size=64, overlap=0), pixels, valid)
    assert np.abs(np.diff(hard[1], axis=1)).max() > 0.9
    assert np.abs(np.diff(blended[1], axis=1)).max() < 0.2


def test_weights_fall_to_the_edges_and_never_to_nothing() -> None:
    weight = window_weight(12, 20, 4)
    assert weight.shape == (12, 20)
    assert weight.min() > 0
    assert weight[6, 10] == 1
    assert (np.diff(weight[6, :4]) > 0).all()
    assert (window_weight(5, 5, 0) == 1).all()


def test_probabilities_of_a_batch() -> None:

    mapper = Mapper(Brightness(), torch.device("cpu"), tile_size=64, overlap=0)
    found = mapper.probabilities(np.full((2, 5, 7, 3), 255, np.uint8))
    assert found.shape == (2, 3, 5, 7)
    assert (found[:, 1] > 0.99).all()


def test_memory_does_not_grow_with_the_scene() -> None:
    def peak(height: int) -> int:
        mapper = Mapper(Brightness(), torch.device("cpu"), tile_size=128, overlap=32)
        read = lambda w: (np.zeros((w.height, w.width, 3), np.uint8), np.ones((w.height, w.width), bool))  # noqa: E731
        tracemalloc.start()
        for part in mapper.blended(read, 700, height):
            assert part.window.width == 700
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(3000) < 1.2 * peak(400)
