"""Every size of the SAM family on one image: time, memory, agreement, against the official package or transformers.

    python benchmarks/sam.py --models                      all of them; goes on where it stopped
    python benchmarks/sam.py --models edgetam sam2.1_tiny  some

Random weights in the official format, 1024 x 1024 noise, a few points, one thread; seconds of the processor, so that a busy machine
matters less. Each side is a process of its own and loads the same file; peak memory is the whole process's. The reference is
segment-anything for SAM and transformers for the others. Masks are three per point; a random network's are noise, the hardest to agree on.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MODELS", "measure", "table"]

_HERE = Path(__file__).resolve()


@dataclass(frozen=True)
class Case:
    """A model: its family, and the vision configuration of transformers that makes its size."""

    family: str
    vision: dict[str, Any]


def _vit(width: int, depth: int, heads: int, last: tuple[int, ...]) -> dict[str, Any]:
    return {
        "hidden_size": width, "mlp_dim": 4 * width, "num_hidden_layers": depth, "num_attention_heads": heads,
        "global_attn_indexes": list(last),
    }  # fmt: skip


def _hiera(width: int, blocks: tuple[int, ...], heads: int, windows: tuple[int, ...], last: tuple[int, ...]) -> dict[str, Any]:
    widths = [width * 2**k for k in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": width, "num_attention_heads": heads,
        "blocks_per_stage": list(blocks), "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [heads * 2**k for k in range(4)], "window_size_per_stage": list(windows),
        "global_attention_blocks": list(last),
    }  # fmt: skip
    return {"backbone_config": backbone, "backbone_channel_list": widths[::-1]}


_REPVIT = {
    "model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2,
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}  # fmt: skip
MODELS = {
    "sam_vit_b": Case("sam", _vit(768, 12, 12, (2, 5, 8, 11))),
    "sam_vit_l": Case("sam", _vit(1024, 24, 16, (5, 11, 17, 23))),
    "sam_hq_vit_b": Case("sam_hq", _vit(768, 12, 12, (2, 5, 8, 11))),
    "sam2.1_tiny": Case("sam2.1", _hiera(96, (1, 2, 7, 2), 1, (8, 4, 14, 7), (5, 7, 9))),
    "sam2.1_small": Case("sam2.1", _hiera(96, (1, 2, 11, 2), 1, (8, 4, 14, 7), (7, 10, 13))),
    "sam2.1_base_plus": Case("sam2.1", _hiera(112, (2, 3, 16, 3), 2, (8, 4, 14, 7), (12, 16, 20))),
    "sam2.1_large": Case("sam2.1", _hiera(144, (2, 6, 36, 4), 2, (8, 4, 16, 8), (23, 33, 43))),
    "edgetam": Case("edgetam", {"backbone_config": _REPVIT}),
}
#: transformers 5.23 wires SAM-HQ's mask otherwise than the released code (`terralabel.nets.sam.hq`): timed, not compared.
_NOT_COMPARED = ("sam_hq",)


# ----------------------------------------------------------------------------------------------------------- one side


def write(model: str, path: Path) -> None:
    """Random weights in the official format."""
    from terralabel.nets.sam import loading
    from terralabel.nets.sam.families import Checkpoint

    case = MODELS[model]
    config = {"vision_config": case.vision, "prompt_encoder_config": {"image_size": 1024}, "mask_decoder_config": {}}
    checkpoint = Checkpoint(case.family, model, "official", config)
    loading.write_official(loading.build(checkpoint), checkpoint, path)


def ours(model: str, path: Path, pixels: Any, points: Any) -> dict[str, Any]:
    """Load, encode, decode by TerraLabel."""
    import torch

    from terralabel.nets.sam.loading import load
    from terralabel.nets.sam.network import make_network

    network = make_network(load(path))
    network.encode(pixels)
    began = time.process_time()
    (embedding,) = network.encode(pixels)
    middle = time.process_time()
    found = list(network.decode_passing(embedding, points, pred_iou_thresh=-1e9, batch=64))
    ended = time.process_time()
    logits = torch.cat([part.logits for part in found])
    return {"encoder": middle - began, "prompt": (ended - middle) / len(points), "logits": logits}


def reference(model: str, path: Path, pixels: Any, points: Any) -> dict[str, Any]:
    """The same by the official package or transformers."""
    import torch

    with torch.inference_mode():
        return _official(model, path, pixels, points) if MODELS[model].family == "sam" else _transformers(path, pixels, points)


def _official(model: str, path: Path, pixels: Any, points: Any) -> dict[str, Any]:
    import torch
    from segment_anything import sam_model_registry

    sam = sam_model_registry[model.removeprefix("sam_")](checkpoint=str(path)).eval()
    began = time.process_time()
    image = sam.image_encoder(pixels)
    middle = time.process_time()
    sparse, dense = sam.prompt_encoder(points=(points[:, None], torch.ones(len(points), 1)), boxes=None, masks=None)
    logits, _ = sam.mask_decoder(
        image_embeddings=image, image_pe=sam.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense, multimask_output=True,
    )  # fmt: skip
    ended = time.process_time()
    return {"encoder": middle - began, "prompt": (ended - middle) / len(points), "logits": logits.flatten(0, 1)}


def _transformers(path: Path, pixels: Any, points: Any) -> dict[str, Any]:
    import torch

    from terralabel.nets.sam.loading import load

    network = load(path).model
    began = time.process_time()
    embeddings = network.get_image_embeddings(pixels)
    middle = time.process_time()
    if isinstance(embeddings, tuple) and len(embeddings) == 2 and isinstance(embeddings[1], (list, tuple)):
        embeddings, extra = embeddings  # SAM-HQ
        given = {"image_embeddings": embeddings, "intermediate_embeddings": extra}
    else:
        given = {"image_embeddings": embeddings}
    labels = torch.ones(1, len(points), 1, dtype=torch.int64)
    answer = network(**given, input_points=points[None, :, None], input_labels=labels, multimask_output=True)
    ended = time.process_time()
    return {"encoder": middle - began, "prompt": (ended - middle) / len(points), "logits": answer.pred_masks[0].flatten(0, 1)}


def child(side: str, model: str, path: Path, per_side: int, out: Path) -> None:
    """One side in this process: its figures as JSON on stdout, its masks as packed bits in `out`."""
    import torch

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 1024, 1024, generator=generator)
    steps = (torch.arange(per_side) + 0.5) * 1024 / per_side
    points = torch.cartesian_prod(steps, steps)
    found = {"ours": ours, "reference": reference}[side](model, path, pixels, points)
    np.save(out, np.packbits((found.pop("logits") > 0).flatten(1).numpy(), axis=1))
    print(json.dumps({**found, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


# ------------------------------------------------------------------------------------------------------------- all


def measure(work: Path, models: list[str], per_side: int) -> dict[str, Any]:
    """Both sides of the models that have not been measured yet; every result is kept as soon as it is there."""
    kept = work / "models.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    work.mkdir(parents=True, exist_ok=True)
    for model in models:
        if model in results:
            continue
        path = work / f"{model}.pth"
        _run(["write", model, path])
        sides = {side: json.loads(_run([side, model, path, per_side, work / f"{side}.npy"])) for side in ("reference", "ours")}
        result = {**sides, "size": path.stat().st_size, "points": per_side**2}
        if MODELS[model].family not in _NOT_COMPARED:
            result["agreement"] = _agreement(*(np.load(work / f"{side}.npy") for side in ("reference", "ours")))
        path.unlink()
        results[model] = result
        kept.write_text(json.dumps(results, indent=1))
        print(_row(model, result), flush=True)
    return results


def _run(words: list[Any]) -> str:
    command = [sys.executable, str(_HERE), *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words[:2]))} failed:\n{done.stderr[-3000:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


def _agreement(reference: np.ndarray, ours: np.ndarray) -> dict[str, float]:
    """Of masks as packed bits, row by row: mean and least IoU, and the share of equal pixels."""
    common, either = (np.bitwise_count(part).sum(1, dtype=np.int64) for part in (reference & ours, reference | ours))
    iou = np.where(either > 0, common / np.maximum(either, 1), 1.0)
    apart = np.bitwise_count(reference ^ ours).sum(dtype=np.int64)
    return {"mean": float(iou.mean()), "least": float(iou.min()), "pixels": 1 - float(apart) / (8 * reference.size)}


def table(work: Path) -> list[str]:
    """What has been measured, as rows of Markdown."""
    results = json.loads((work / "models.json").read_text())
    rows = [
        "| model | weights | encoder | reference | a prompt | reference | ratio at 1024 points | peak memory | reference | masks | IoU with the reference's |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    return rows + [_row(model, results[model]) for model in MODELS if model in results]


def _row(model: str, result: dict[str, Any]) -> str:
    mine, theirs = result["ours"], result["reference"]
    whole = [side["encoder"] + 1024 * side["prompt"] for side in (theirs, mine)]
    near = result.get("agreement")
    told = f"mean {near['mean']:.5f}, least {near['least']:.4f}" if near else "not compared"
    return (
        f"| {model} | {result['size'] / 1e6:.0f} MB | {mine['encoder']:.2f} s | {theirs['encoder']:.2f} s | "
        f"{1e3 * mine['prompt']:.1f} ms | {1e3 * theirs['prompt']:.0f} ms | {whole[0] / whole[1]:.1f}x | "
        f"{mine['peak_gib']:.2f} GiB | {theirs['peak_gib']:.2f} GiB | {3 * result['points']} | {told} |"
    )


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
