"""The prompt decoder alone: the official package's against ours, at the size of SAM's checkpoints, with the same random weights.

    python benchmarks/sam_decoder.py [--prompts 64] [--rounds 3] [--threads 2] [--cpu]

One foreground point per prompt, three masks each, on a 64 x 64 embedding. Sides take turns, so that a machine that is busy for
a while slows all of them. `past .5`: of half of the prompts no mask passes the predicted IoU; of SAM's everything-mode on real
images more fail. Times are of random weights: they say nothing about masks, and what is compared is the same to 1e-4.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from terralabel.nets.sam.embedding import Embedding
from terralabel.nets.sam.families import tiny
from terralabel.nets.sam.loading import build
from terralabel.nets.sam.network import SamNetwork, make_network
from terralabel.nets.sam.official import to_official

__all__ = ["Bench", "Times", "compare", "prepare", "table"]

#: What every ratio refers to: the released default of the official everything-mode.
REFERENCE = "official, 64 at once"


@dataclass(frozen=True)
class Bench:
    """An embedding, prompts on it and the networks that answer them: all of one set of weights."""

    embedding: Embedding
    points: torch.Tensor
    official: tuple[Any, Any]
    fp32: SamNetwork
    bf16: SamNetwork
    half: float  # a predicted IoU that half of the prompts do not reach


@dataclass(frozen=True)
class Times:
    """Seconds of every round of one side."""

    name: str
    seconds: list[float]


def prepare(prompts: int, seed: int = 0) -> Bench:
    """Random weights at released size behind an encoder of a few channels, which is not asked."""
    generator = torch.Generator().manual_seed(seed)
    small = tiny("sam")
    config = {part: dict(values) for part, values in small.config.items()}
    config["prompt_encoder_config"] |= {"hidden_size": 256, "image_size": 1024}
    config["mask_decoder_config"] |= {"hidden_size": 256, "mlp_dim": 2048, "iou_head_hidden_dim": 256}
    config["vision_config"] |= {"num_pos_feats": 128}
    checkpoint = replace(small, config=config)
    model = build(checkpoint, seed)
    fp32, bf16 = (
        make_network(SimpleNamespace(model=model, checkpoint=checkpoint), precision=precision) for precision in ("fp32", "bf16")
    )
    embedding = Embedding(torch.randn(256, 64, 64, generator=generator))
    points = torch.rand(prompts, 2, generator=generator) * 1024
    iou = torch.cat([x.iou for x in fp32.decode_passing(embedding, points, pred_iou_thresh=-1e9, batch=64)])
    half = float(iou.view(-1, 3).amax(1).median())
    return Bench(embedding, points, _official(to_official(model.state_dict(), checkpoint)), fp32, bf16, half)


def _official(state: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    prompt = PromptEncoder(embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer)
    for name, module in (("prompt_encoder", prompt), ("mask_decoder", decoder)):
        module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")})
        module.eval()
    return prompt, decoder


@torch.inference_mode()
def official(bench: Bench, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All masks as `SamAutomaticMaskGenerator` asks for them; those of the last batch."""
    prompt, decoder = bench.official
    masks = iou = torch.empty(0)
    for points in bench.points.split(batch):
        sparse, dense = prompt(points=(points[:, None], torch.ones(len(points), 1)), boxes=None, masks=None)
        masks, iou = decoder(
            image_embeddings=bench.embedding.image[None],
            image_pe=prompt.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    return masks, iou


def ours(bench: Bench, network: SamNetwork, thresh: float) -> torch.Tensor:
    """The masks of the last batch that pass."""
    logits = torch.empty(0)
    for passing in network.decode_passing(bench.embedding, bench.points, pred_iou_thresh=thresh, batch=64):
        logits = passing.logits
    return logits


def sides(bench: Bench) -> dict[str, Callable[[], Any]]:
    """What takes turns."""
    return {
        REFERENCE: lambda: official(bench, 64),
        "official, 1 at once": lambda: official(bench, 1),
        "ours, fp32": lambda: ours(bench, bench.fp32, -1e9),
        "ours, fp32, past .5": lambda: ours(bench, bench.fp32, bench.half),
        "ours, bf16": lambda: ours(bench, bench.bf16, -1e9),
        "ours, bf16, past .5": lambda: ours(bench, bench.bf16, bench.half),
    }


def compare(bench: Bench, rounds: int = 3, clock: Callable[[], float] = time.perf_counter) -> list[Times]:
    """Every side once per round, in turns, after one that does not count."""
    made = {name: Times(name, []) for name in sides(bench)}
    for i in range(rounds + 1):
        for name, side in sides(bench).items():
            start = clock()
            side()
            if i:
                made[name].seconds.append(clock() - start)
    return list(made.values())


def agreement(bench: Bench) -> str:
    """The largest difference to the official logits, as a share of their spread; and of bf16's masks the IoU with fp32's."""
    few = replace(bench, points=bench.points[:16])
    wanted = official(few, 64)[0]
    exact, near = (ours(few, network, -1e9).view_as(wanted) for network in (few.fp32, few.bf16))
    ious = ((exact > 0) & (near > 0)).sum((2, 3)) / ((exact > 0) | (near > 0)).sum((2, 3)).clamp(min=1)
    off = float((exact - wanted).abs().max() / wanted.std())
    return f"fp32: logits within {off:.1e} of the official ones' spread; bf16: mask IoU with fp32 {float(ious.mean()):.4f} on average"


def table(times: list[Times], prompts: int) -> str:
    """Median and best per side, and the median of the rounds' ratios to the reference."""
    reference = next(side.seconds for side in times if side.name == REFERENCE)
    lines = [f"{'':24}{'median':>10}{'best':>10}{'ms a prompt':>14}{'ratio':>8}"]
    for side in times:
        ratio = median(a / b for a, b in zip(reference, side.seconds, strict=True))
        ms, best = 1e3 * median(side.seconds), 1e3 * min(side.seconds)
        lines.append(f"{side.name:24}{ms:7.0f} ms{best:7.0f} ms{ms / prompts:14.2f}{ratio:8.2f}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu", action="store_true", help="processor time, not wall time: where others use the machine")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    bench = prepare(given.prompts)
    huge = os.environ.get("THP_MEM_ALLOC_ENABLE", "0")
    print(f"{given.prompts} prompts, {given.threads} threads, torch {torch.__version__}, THP_MEM_ALLOC_ENABLE={huge}")
    print(agreement(bench))
    clock = time.process_time if given.cpu else time.perf_counter
    print(table(compare(bench, given.rounds, clock), given.prompts))


if __name__ == "__main__":
    main()
