"""Tiny checkpoints in the official formats, the authors' classes around them, and answers that look like objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terralabel.core.tile import Tile


class Landscape:
    """What a trained network might answer: for any point the nearest object of three sizes, some sharp and some blurred.

    Random weights answer with noise of which nothing passes the filters; so tests put this in place of the decoder's
    output on both sides, the official and ours: a function of the point in pixels of the network's input.
    """

    def __init__(self, side: int, mask_size: int, counts: tuple[int, int, int] = (70, 30, 6), seed: int = 0) -> None:
        self.side = side
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0:mask_size, 0:mask_size] * (side / mask_size)
        self.seeds = [rng.random((count, 2)) * side for count in counts]
        self.logits = []
        for seeds, radius in zip(self.seeds, (0.06, 0.12, 0.3), strict=True):
            self.logits.append(np.stack([self._surface(x, y, seed, radius * side, rng) for seed in seeds]))
        self.quality = [rng.uniform(low, 0.99, count) for low, count in zip((0.84, 0.86, 0.7), counts, strict=True)]

    def _surface(self, x: np.ndarray, y: np.ndarray, seed: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
        """(m, m) float32 logits of one object with a wavy outline, now and then with a small hole and an island."""
        radius *= rng.uniform(0.6, 1.4)
        angle = np.arctan2(y - seed[1], x - seed[0])
        distance = np.hypot(x - seed[0], y - seed[1]) * (1 + 0.2 * np.sin(rng.integers(2, 6) * angle + rng.random()))
        surface = (radius - distance) / self.side * rng.choice([150.0, 600.0, 2000.0])
        if rng.random() < 0.4:
            hole, island = rng.random((2, 2)) * radius / 2, rng.random(2) * self.side
            spot = self.side / 50
            surface = np.where(np.hypot(*(np.stack([x, y], -1) - seed - hole[0]).transpose(2, 0, 1)) < spot, -6, surface)
            surface = np.where(np.hypot(*(np.stack([x, y], -1) - island).transpose(2, 0, 1)) < spot, 6, surface)
        return np.clip(surface, -20, 20).astype(np.float32)

    def of(self, xy: np.ndarray) -> tuple[Any, Any]:
        """((n, 3, m, m) logits, (n, 3) predicted IoU) float32 tensors of (n, 2) points."""
        import torch

        xy = np.floor((np.asarray(xy, dtype=np.float64) + 1.3e-4) * 1000) / 1000  # float32 and float64 points agree
        noise = np.sin(xy @ np.array([12.9898, 78.233]))
        own = [np.linalg.norm(xy[:, None] - seeds, axis=2).argmin(1) for seeds in self.seeds]
        logits = np.stack([surfaces[i] for surfaces, i in zip(self.logits, own, strict=True)], 1)
        logits = logits + (0.3 * noise)[:, None, None, None].astype(np.float32)
        iou = np.stack([quality[i] for quality, i in zip(self.quality, own, strict=True)], 1) + 0.02 * noise[:, None]
        return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(iou.astype(np.float32))


@pytest.fixture
def painted() -> Callable[..., Tile]:
    """A tile of blocks with noise, always the same for the same size."""

    def make(height: int, width: int, seed: int = 0) -> Tile:
        rng = np.random.default_rng(seed)
        colours = rng.integers(20, 236, (5, 7, 3))
        row, column = np.arange(height) * 5 // height, np.arange(width) * 7 // width
        return Tile.from_array((colours[row][:, column] + rng.integers(-9, 10, (height, width, 3))).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny random-weight checkpoint of a family in its authors' format."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("weights")

    def make(family: str) -> Path:
        from terralabel.nets.sam.families import tiny
        from terralabel.nets.sam.loading import build, write_official

        path = folder / f"{family}.pth"
        if not path.exists():
            write_official(build(tiny(family)), tiny(family), path)
        return path

    return make


@pytest.fixture(scope="session")
def official_sam() -> Callable[[Path], Any]:
    """segment-anything's own `Sam` around a tiny checkpoint."""
    modeling = pytest.importorskip("segment_anything.modeling")
    import torch

    def make(path: Path) -> Any:
        from terralabel.nets.sam.families import tiny

        config = tiny("sam").config
        vision, decoder = config["vision_config"], config["mask_decoder_config"]
        d, grid = decoder["hidden_size"], vision["image_size"] // vision["patch_size"]
        sam = modeling.Sam(
            modeling.ImageEncoderViT(
                img_size=vision["image_size"],
                embed_dim=vision["hidden_size"],
                depth=vision["num_hidden_layers"],
                num_heads=vision["num_attention_heads"],
                mlp_ratio=vision["mlp_dim"] / vision["hidden_size"],
                out_chans=d,
                norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
                use_rel_pos=True,
                window_size=vision["window_size"],
                global_attn_indexes=vision["global_attn_indexes"],
            ),
            modeling.PromptEncoder(d, (grid, grid), (vision["image_size"], vision["image_size"]), mask_in_chans=16),
            modeling.MaskDecoder(
                transformer_dim=d,
                transformer=modeling.TwoWayTransformer(2, d, 8, decoder["mlp_dim"]),
                iou_head_depth=decoder["iou_head_depth"],
                iou_head_hidden_dim=decoder["iou_head_hidden_dim"],
            ),
        )
        sam.load_state_dict(torch.load(path, weights_only=True))
        return sam.eval().requires_grad_(False)

    return make


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a `Landscape` in place of the decoder's output: of an official `Sam`, and of every network of ours."""

    def feed(landscape: Landscape, official: Any = None) -> None:
        import torch

        from terralabel.nets.sam.network import Passing, SamNetwork

        def ours(self: Any, e: Any, points: torch.Tensor, *, pred_iou_thresh: float, batch: int) -> Iterator[Passing]:
            for start in range(0, len(points), batch):
                logits, iou = (answer.flatten(0, 1) for answer in landscape.of(points[start : start + batch].numpy()))
                good = (iou > pred_iou_thresh).nonzero()[:, 0]
                yield Passing(good + start * self.alternatives, iou[good], logits[good])

        monkeypatch.setattr(SamNetwork, "decode_passing", ours)
        if official is None:
            return
        asked: dict[str, np.ndarray] = {}
        encode = official.prompt_encoder.forward

        def remember(points: Any, boxes: Any, masks: Any) -> Any:
            asked["xy"] = points[0][:, 0].numpy()
            return encode(points=points, boxes=boxes, masks=masks)

        monkeypatch.setattr(official.prompt_encoder, "forward", remember)
        monkeypatch.setattr(official.mask_decoder, "forward", lambda **given: landscape.of(asked["xy"]))

    return feed


@pytest.fixture
def landscape() -> type[Landscape]:
    """The class, to make one in a test."""
    return Landscape


@pytest.fixture
def assert_same_masks() -> Callable[..., None]:
    """Every official record has one of ours with IoU >= .99, counts agree within 1 %, and so do scores and boxes."""

    def check(official: list[dict[str, Any]], masks: Any) -> None:
        assert abs(len(masks) - len(official)) <= 0.01 * len(official)
        ours = [masks.array(i) for i in range(len(masks))]
        identical = 0
        for record in official:
            theirs = record["segmentation"]
            iou = [(mask & theirs).sum() / max((mask | theirs).sum(), 1) for mask in ours]
            best = int(np.argmax(iou))
            assert iou[best] >= 0.99
            identical += bool((ours[best] == theirs).all())
            assert abs(masks.stability_score[best] - record["stability_score"]) < 1e-3
            x, y, w, h = masks.bbox[best]
            assert np.abs(np.array([x, y, w - 1, h - 1]) - record["bbox"]).max() <= 1  # SAM's boxes end on the last pixel
            crop = record["crop_box"]
            assert masks.crop_box[best].tolist() == crop
        assert identical >= 0.9 * len(official)  # points are float64 there, float32 here: a last bit at an outline

    return check
