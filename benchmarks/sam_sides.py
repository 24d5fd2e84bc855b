"""One side of a comparison in `sam.py`, in a process of its own so that its peak memory is its own.

    python benchmarks/sam_sides.py SIDE --work DIR [--quick]

Prints one line of JSON: seconds, peak memory, counts. What is compared lies in DIR: the weights (random, in the official
format), the images, and afterwards each side's masks as packed bits.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sam_feed import Answers, fed, feed_official

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # cv2 knows no GeoTIFF tags and says so
THREADS = 2
CLUSTERS = 16


def prepare(work: Path, quick: bool, images: int) -> None:
    """Write the random checkpoint in the official format, and painted scenes."""
    from terralabel.imagery.painter import write_demo
    from terralabel.nets.sam import loading
    from terralabel.nets.sam.families import identify, tiny

    if not weights(work).is_file():
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        if quick:
            checkpoint = tiny("sam")
        else:
            from segment_anything import sam_model_registry

            shapes = {key: tuple(value.shape) for key, value in sam_model_registry["vit_b"]().state_dict().items()}
            checkpoint = identify(shapes)
        loading.write_official(loading.build(checkpoint), checkpoint, weights(work))
    if not (work / "scenes" / "images").is_dir():
        write_demo(work / "scenes", seed=1, scenes=images, size=side_of(quick))


def points_of(quick: bool) -> int:
    """Points per side of the grid."""
    return 8 if quick else 32


def weights(work: Path) -> Path:
    """The checkpoint that all sides load."""
    return work / "sam_random.pth"


def side_of(quick: bool) -> int:
    """Side of the images, and of the network's input, in pixels."""
    return 128 if quick else 1024


def pictures(work: Path) -> list[Path]:
    """The images, in the order of their names."""
    return sorted((work / "scenes" / "images").iterdir())


def first_picture(work: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    return np.ascontiguousarray(cv2.imread(str(pictures(work)[0]))[..., ::-1])


def official(work: Path, quick: bool) -> Any:
    """The official package's model with the checkpoint."""
    from segment_anything import sam_model_registry

    if not quick:
        return sam_model_registry["vit_b"](checkpoint=str(weights(work))).eval()
    return _tiny_official(weights(work))


def _tiny_official(path: Path) -> Any:
    """The same for the tiny checkpoint of quick runs, put together from the package's modules."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    encoder = ImageEncoderViT(
        img_size=128, patch_size=16, embed_dim=32, depth=4, num_heads=2, mlp_ratio=4, norm_layer=norm, qkv_bias=True,
        use_rel_pos=True, global_attn_indexes=[1, 3], window_size=3, out_chans=32,
    )  # fmt: skip
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=8)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=32)
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_chans=16)
    sam = Sam(encoder, prompts, decoder, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    sam.load_state_dict(torch.load(path, weights_only=True))
    return sam.eval()


# ---------------------------------------------------------------------------------------------------- everything-mode


def everything_official(work: Path, quick: bool, batch: int) -> dict[str, Any]:
    """The official generator at its defaults but for `points_per_batch`."""
    from segment_anything import SamAutomaticMaskGenerator

    sam = official(work, quick)
    feed_official(sam, answers(quick))
    generator = SamAutomaticMaskGenerator(sam, points_of(quick), points_per_batch=batch)
    image = first_picture(work)
    with torch.inference_mode():
        sam.image_encoder(torch.zeros(1, 3, side_of(quick), side_of(quick)))  # as ours: what is made once is not timed
        began = time.perf_counter()
        records = generator.generate(image)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, **_saved(work, "official", [r["segmentation"] for r in records])}


def everything_ours(work: Path, quick: bool, name: str, **settings: Any) -> dict[str, Any]:
    """Ours on the same image; counts of what passes each filter too."""
    from terralabel.core.tile import Tile
    from terralabel.recipes.backends import make_generator
    from terralabel.recipes.settings import LabelSettings

    torch.set_num_threads(THREADS)
    settings |= {"masks": str(weights(work)), "device": "cpu", "threads": THREADS, "points_per_side": points_of(quick)}
    generator = make_generator(LabelSettings(**settings))
    drawn = answers(quick)
    image = first_picture(work)
    tile = Tile.from_array(image, key="bench")
    with fed(drawn):
        warm = make_generator(LabelSettings(**{**settings, "points_per_side": 2}))
        warm.generate(warm.encode(Tile.from_array(image[::8, ::8].copy(), key="warm")))  # compiles what is compiled
        generator.encode(tile)
        began = time.perf_counter()
        encoded = generator.encode(tile)
        middle = time.perf_counter()
        masks = generator.generate(encoded)
        seconds = time.perf_counter() - began
    found = _saved(work, name, [masks.array(i) for i in range(len(masks))])
    return {"seconds": seconds, "encoder": middle - began, **found, "past": _past(drawn, generator)}


def bf16_agreement(work: Path, quick: bool) -> dict[str, Any]:
    """How near bf16 is to fp32 where nothing is fed: the random network's own masks, noise-like and so the hardest there are.

    Of an 8 x 8 grid's masks in their small logits: IoU of what lies above 0, and difference of the predicted IoU.
    """
    from terralabel.core.tile import Tile
    from terralabel.masks.everything import point_grid
    from terralabel.nets.sam import loading
    from terralabel.nets.sam.network import make_network

    points = torch.from_numpy((point_grid(8) * side_of(quick)).astype(np.float32))[:, None]
    labels = torch.ones(len(points), 1, dtype=torch.int64)
    tile, found = Tile.from_array(first_picture(work), key="bench"), {}
    began = time.perf_counter()
    for precision in ("fp32", "bf16"):
        net = make_network(loading.load(weights(work)), precision=precision)
        pixels = torch.from_numpy(((tile.pixels / 255 - net.mean) / net.std).astype(np.float32)).permute(2, 0, 1)[None]
        found[precision] = net.decode(net.encode(pixels)[0], points=points, labels=labels, multimask=True)
    masks = {precision: (logits > 0).flatten(0, 1).flatten(1) for precision, (logits, _) in found.items()}
    common = (masks["fp32"] & masks["bf16"]).sum(1)
    iou = common / (masks["fp32"] | masks["bf16"]).sum(1).clamp(min=1)
    iou = iou[masks["fp32"].any(1)]
    apart = (found["fp32"][1] - found["bf16"][1]).abs().max()
    figures = {"mean_iou": float(iou.mean()), "worst_iou": float(iou.min()), "predicted_iou_apart": float(apart)}
    return {"seconds": time.perf_counter() - began, "masks": len(iou), **figures}


def _past(drawn: Answers, generator: Any) -> dict[str, float]:
    """Share of the full grid's candidates past predicted IoU, and past stability too."""
    from terralabel.masks.everything import point_grid

    points = generator.points_per_side
    xy = (point_grid(points) * drawn.side).astype(np.float32)
    iou = np.concatenate([drawn.of(xy[i : i + 32])[1].numpy() for i in range(0, len(xy), 32)])
    found = {"predicted_iou": float((iou > generator.pred_iou_thresh).mean())}
    stable = 0
    for start in range(0, len(xy), 32):
        logits, passed = drawn.of(xy[start : start + 32])
        kept = torch.nn.functional.interpolate(logits, (drawn.side, drawn.side), mode="bilinear")[
            passed > generator.pred_iou_thresh
        ]
        area = [(kept > at).sum((1, 2)) for at in (1.0, -1.0)]
        stable += int((area[0] / area[1].clamp(min=1) >= generator.stability_score_thresh).sum())
    return {**found, "stability": stable / iou.size}


def answers(quick: bool) -> Answers:
    """What both sides are fed with."""
    side = side_of(quick)
    return Answers(side, side // 4)


def _saved(work: Path, name: str, masks: list[np.ndarray]) -> dict[str, Any]:
    stacked = np.stack(masks) if masks else np.zeros((0, 1, 1), bool)
    np.savez_compressed(work / f"masks-{name}.npz", bits=np.packbits(stacked.reshape(len(stacked), -1), axis=1))
    return {"masks": len(masks)}


# ----------------------------------------------------------------------------------------------------- post-processing


def _batches(drawn: Answers, points: int, size: int = 64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All answers of the grid, made beforehand: only what follows is timed."""
    from terralabel.masks.everything import point_grid

    xy = (point_grid(points) * drawn.side).astype(np.float32)
    return [drawn.of(xy[i : i + size]) for i in range(0, len(xy), size)]


def post_official(work: Path, quick: bool) -> dict[str, Any]:
    """What the official generator does after the decoder, for 3072 candidates."""
    from segment_anything import SamAutomaticMaskGenerator

    sam = official(work, quick)
    ready = _batches(answers(quick), points_of(quick))
    side = side_of(quick)
    embedding = torch.zeros(1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    sam.image_encoder.forward = lambda x: embedding
    queue = iter(ready)
    sam.mask_decoder.forward = lambda **given: next(queue)
    generator = SamAutomaticMaskGenerator(sam, points_of(quick))
    began = time.perf_counter()
    with torch.inference_mode():
        records = generator.generate(np.zeros((side, side, 3), np.uint8))
    return {"seconds": time.perf_counter() - began, **_saved(work, "post-official", [r["segmentation"] for r in records])}


def post_ours(work: Path, quick: bool) -> dict[str, Any]:
    """The same of ours: the selection by predicted IoU, everything after it, and masks of full size for the survivors."""
    from terralabel.core.tile import Tile
    from terralabel.nets.sam.network import Passing
    from terralabel.recipes.backends import make_generator
    from terralabel.recipes.settings import LabelSettings

    torch.set_num_threads(THREADS)
    settings = LabelSettings(masks=str(weights(work)), device="cpu", threads=THREADS, points_per_side=points_of(quick))
    generator = make_generator(settings)
    ready = _batches(answers(quick), points_of(quick))
    tile = Tile.from_array(np.zeros((side_of(quick), side_of(quick), 3), np.uint8), key="bench")
    encoded = generator.encode(tile)

    def passing(self: Any, e: Any, points: Any, *, pred_iou_thresh: float, batch: int) -> Any:
        for at, (logits, iou) in enumerate(ready):
            keep = (iou > pred_iou_thresh).flatten().nonzero()[:, 0]
            yield Passing(keep + at * 64 * 3, iou.flatten()[keep], logits.flatten(0, 1)[keep])

    network = _network_class()
    network.decode_passing = passing
    generator.generate(encoded)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        masks = generator.generate(encoded)
        arrays = [masks.array(i) for i in range(len(masks))]
        seconds.append(time.perf_counter() - began)
    return {"seconds": float(np.median(seconds)), "repeats": 5, **_saved(work, "post-ours", arrays)}


def _network_class() -> Any:
    from terralabel.nets.sam.network import SamNetwork

    return SamNetwork


# ----------------------------------------------------------------------------------------------------------- whole run


def alps(work: Path, quick: bool) -> dict[str, Any]:
    """The released steps as `docs/sam.md` describes them: a file per mask, a second encoder pass over BGR without padding or
    normalisation, features enlarged to full size, a vector per file, one pass of k-means, and labels painted pixel by pixel."""
    from segment_anything import SamAutomaticMaskGenerator
    from sklearn.cluster import MiniBatchKMeans

    sam = official(work, quick)
    feed_official(sam, answers(quick))
    generator = SamAutomaticMaskGenerator(sam, points_of(quick))
    out = work / "alps"
    shutil.rmtree(out, ignore_errors=True)
    clock: dict[str, float] = {}
    began = time.perf_counter()
    for picture in pictures(work):
        _clocked(clock, "masks", lambda p=picture: _mask_files(generator, p, out / p.stem))
    for picture in pictures(work):
        _clocked(clock, "features", lambda p=picture: _vector_files(sam, p, out / p.stem, side_of(quick)))
    vectors = sorted(out.rglob("*.npy"))
    means = MiniBatchKMeans(min(CLUSTERS, len(vectors)), batch_size=512, n_init=1, random_state=0)
    first = time.perf_counter()
    for start in range(0, len(vectors), 512):
        means.partial_fit(np.stack([np.load(path) for path in vectors[start : start + 512]]))
    clock["clusters"] = time.perf_counter() - first
    for picture in pictures(work):
        _clocked(clock, "painting", lambda p=picture: _painted(means, out / p.stem, out / f"{p.stem}.png"))
    return {"seconds": time.perf_counter() - began, "masks": len(vectors), "stages": clock}


def _clocked(clock: dict[str, float], name: str, work: Callable[[], None]) -> None:
    began = time.perf_counter()
    work()
    clock[name] = clock.get(name, 0.0) + time.perf_counter() - began


def _mask_files(generator: Any, picture: Path, out: Path) -> None:
    out.mkdir(parents=True)
    image = np.ascontiguousarray(cv2.imread(str(picture))[..., ::-1])
    with torch.inference_mode():
        for i, record in enumerate(generator.generate(image)):
            if record["area"] <= 0.3 * image.shape[0] * image.shape[1]:
                cv2.imwrite(str(out / f"{i}.png"), record["segmentation"].astype(np.uint8) * 255)


def _vector_files(sam: Any, picture: Path, out: Path, side: int) -> None:
    image = cv2.imread(str(picture)).astype(np.float32) / 255
    with torch.inference_mode():
        features = sam.image_encoder(torch.from_numpy(cv2.resize(image, (side, side))).permute(2, 0, 1)[None])
        large = torch.nn.functional.interpolate(features, image.shape[:2], mode="bilinear")[0]
        for file in sorted(out.glob("*.png")):
            product = large * torch.from_numpy(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 0)
            mean = product.sum((1, 2)) / product.ne(0).sum((1, 2)).clamp(min=1)
            np.save(file.with_suffix(".npy"), mean.numpy())


def _painted(means: Any, folder: Path, out: Path) -> None:
    label: np.ndarray | None = None
    for file in sorted(folder.glob("*.png")):
        mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 0
        pasted = mask * int(means.predict(np.load(file.with_suffix(".npy"))[None])[0])
        label = np.zeros(mask.shape, np.int64) if label is None else label
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                if pasted[y, x] != 0:
                    label[y, x] = pasted[y, x]
    if label is not None:
        cv2.imwrite(str(out), label.astype(np.uint8))


def label(work: Path, quick: bool, **settings: Any) -> dict[str, Any]:
    """`terralabel.label` from images to label rasters, everything in this process with as many threads as the other side."""
    import terralabel

    shutil.rmtree(work / "run", ignore_errors=True)
    with fed(answers(quick)):
        began = time.perf_counter()
        run = terralabel.label(
            work / "scenes" / "images", work / "run", masks=str(weights(work)), clusters=str(CLUSTERS), workers=0,
            threads=THREADS, device="cpu", points_per_side=points_of(quick), **settings,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    stages = run.folder.history()[-1]["stages"]
    return {"seconds": seconds, "masks": sum(t.masks for s in run.scenes for t in run.tiles(s.key)), "stages": stages}


SIDES: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "official": lambda work, quick: everything_official(work, quick, 64),
    "tuned": lambda work, quick: everything_official(work, quick, 1),
    "fp32": lambda work, quick: everything_ours(work, quick, "fp32"),
    "bf16": lambda work, quick: everything_ours(work, quick, "bf16", precision="bf16"),
    "adaptive": lambda work, quick: everything_ours(work, quick, "adaptive", grid="adaptive"),
    "adaptive-bf16": lambda work, quick: everything_ours(work, quick, "adaptive-bf16", grid="adaptive", precision="bf16"),
    "bf16-agreement": bf16_agreement,
    "post-official": post_official,
    "post-ours": post_ours,
    "alps": alps,
    "label": label,
    "label-bf16": lambda work, quick: label(work, quick, precision="bf16"),
}


def main() -> None:
    """Measure one side."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=sorted(SIDES))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    found = SIDES[options.side](options.work, options.quick)
    found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(found))


if __name__ == "__main__":
    main()
