"""Image encoders of the SAM family: time, memory and agreement, against the official package and transformers.

    python benchmarks/sam_encoder.py                       ViT-B, Hiera-tiny, EdgeTAM: some minutes
    python benchmarks/sam_encoder.py --only sam3           a case by name: vit_b hiera_tiny hiera_large edgetam sam3
    python benchmarks/sam_encoder.py --runs 5 --json FILE
    OMP_NUM_THREADS=2 python benchmarks/sam_encoder.py     the threads of both sides; without it, torch's own choice

Every side is a process of its own with the same random weights, and they encode one image in turn, a then b then c then a...
Medians; seconds by the wall clock and of the processor (the latter says more on a busy machine, and with one thread is the
work itself). Memory is a process's peak over what it held when its model stood. Differences are to transformers' float32,
over its spread. Random weights: nothing is said of masks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Case -> transformers' name and its configuration, side of the input.
_REPVIT = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "num_classes": 2,
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}
_HIERA_LARGE = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 144,
    "num_attention_heads": 2,
    "blocks_per_stage": [2, 6, 36, 4],
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "window_size_per_stage": [8, 4, 16, 8],
    "global_attention_blocks": [23, 33, 43],
}
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit_b": ("Sam", {}, 1024),
    "hiera_tiny": ("Sam2", {}, 1024),
    "hiera_large": (
        "Sam2",
        {"vision_config": {"backbone_config": _HIERA_LARGE, "backbone_channel_list": [1152, 576, 288, 144]}},
        1024,
    ),
    "edgetam": ("EdgeTam", {"vision_config": {"backbone_config": _REPVIT}}, 1024),
    "sam3": ("Sam3Tracker", {}, 1008),
}
SIDES = ("transformers", "official", "fp32", "bf16")


@dataclass(frozen=True)
class Side:
    """What was measured of one side: medians of `runs` in seconds, memory in MiB, difference over the spread."""

    case: str
    side: str
    wall: float
    cpu: float
    runs: int
    memory: float
    rms: float | None
    largest: float | None

    def __str__(self) -> str:
        text = f"{self.case:<12}{self.side:<13}{self.wall:8.2f} s wall {self.cpu:8.2f} s cpu {self.memory:8.0f} MiB"
        return text if self.rms is None else f"{text}   difference {self.rms:.1e} rms, {self.largest:.1e} at most"


def measure(case: str, runs: int = 3) -> list[Side]:
    """All sides of a case, in turn."""
    sides = [side for side in SIDES if side != "official" or case == "vit_b"]
    with tempfile.TemporaryDirectory() as folder:
        children = {side: _start(case, side, Path(folder) / f"{side}.npy") for side in sides}
        times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for run in range(runs + 1):  # the first warms up
            for side in sides:
                taken = _ask(children[side], "run")
                times[side] += [(taken[0], taken[1])] if run else []
        memory = {side: _ask(children[side], "end")[0] for side in sides}
        for child in children.values():
            child.wait()
        maps = {side: np.load(Path(folder) / f"{side}.npy") for side in sides}
    rows = []
    for side in sides:
        wall, cpu = (statistics.median(part) for part in zip(*times[side], strict=True))
        apart = np.abs(maps[side] - maps["transformers"]) / maps["transformers"].std() if side in ("fp32", "bf16") else None
        rms, largest = (None, None) if apart is None else (float(np.sqrt((apart**2).mean())), float(apart.max()))
        rows.append(Side(case, side, wall, cpu, runs, memory[side], rms, largest))
    return rows


def _start(case: str, side: str, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--child", case, side, str(out)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _ask(child, "ready")
    return child


def _ask(child: subprocess.Popen[str], word: str) -> list[float]:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(word + "\n")
    child.stdin.flush()
    for line in child.stdout:
        if line.startswith("answer "):
            return json.loads(line.removeprefix("answer "))
    raise RuntimeError(f"The process that should answer {word!r} ended with exit code {child.wait()}; its error is above.")


def encoder(case: str, side: str) -> tuple[Callable[[Any], Any], int]:
    """A function (1, 3, S, S) -> the image embedding (d, h, w), with weights that depend on the case only; and S."""
    import torch
    import transformers

    torch.manual_seed(0)
    name, settings, size = CASES[case]
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings)).eval()
    with torch.no_grad():
        for key, value in model.vision_encoder.named_parameters():
            if "rel_pos" in key or "pos_embed" in key:
                value.normal_(0, 0.1)
    if side == "official":
        from segment_anything import sam_model_registry

        official = sam_model_registry[case]().eval().image_encoder
        return lambda pixels: official(pixels)[0], size
    if side == "transformers":
        if case == "vit_b":
            return lambda pixels: model.vision_encoder(pixels).last_hidden_state[0], size
        # Scale 1 of the neck, to which the embeddings that follow belong in every family.
        return lambda pixels: model.get_image_features(pixels).fpn_hidden_states[2], size
    from terralabel.nets.sam.encoders import make_encoder

    encode = make_encoder(model, precision=side)
    return lambda pixels: encode(pixels)[0].image, size


def child(case: str, side: str, out: Path) -> None:
    """One side, told by lines on standard input what to do."""
    import torch

    with torch.inference_mode():
        encode, size = encoder(case, side)
        pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        held = _peak()
        for line in sys.stdin:
            answer: list[float] = []
            if line == "run\n":
                wall, cpu = time.perf_counter(), time.process_time()
                image = encode(pixels)
                answer = [time.perf_counter() - wall, time.process_time() - cpu]
            elif line == "end\n":
                if image.shape[1] == 1:  # transformers' pyramids: (h w, 1, d)
                    image = image[:, 0].T.reshape(image.shape[2], round(len(image) ** 0.5), -1)
                np.save(out, image.contiguous().numpy())
                answer = [_peak() - held]
            print("answer", json.dumps(answer), flush=True)
            if line == "end\n":
                return


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> list[Side]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=["vit_b", "hiera_tiny", "edgetam"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        case, side, out = options.child
        child(case, side, Path(out))
        return []
    print(
        f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}, load {os.getloadavg()[0]:.1f}"
    )
    rows: list[Side] = []
    for case in options.only:
        measured = measure(case, options.runs)
        print(*measured, sep="\n", flush=True)
        rows += measured
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    return rows


if __name__ == "__main__":
    main()
