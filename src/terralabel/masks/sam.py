"""The Segment Anything family as a `Promptable`: SAM, SAM-HQ, SAM 2 and 2.1, EdgeTAM, and SAM 3 by its points.

    sam:FILE         an official .pth or .pt file, or safetensors
    sam:FOLDER       a folder of transformers
    sam:NAME         a name of `terralabel models list`; such a name alone will do
    sam:OWNER/NAME   a name on the hub

The tile is resized as the official code does it, looked at once, and asked for masks; its feature map serves `pooled`
features from the same pass. `candidates` is the way of `masks.everything`: predicted IoU before masks are upscaled,
stability and boxes from the small logits, pixels for survivors only.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from terralabel.contracts import Encoded, Prediction
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError, MissingExtraError, SettingsError, WeightsError
from terralabel.masks.lowres import Frame, LowResMasks, measure
from terralabel.masks.sam_input import network_input, prompt_tensors
from terralabel.nets.weights import CATALOGUE, cache_folder

if TYPE_CHECKING:
    from torch import Tensor

    from terralabel.nets.sam.embedding import Embedding
    from terralabel.nets.sam.network import SamNetwork

__all__ = ["Sam", "SamCandidates", "make_sam", "release", "stamp"]


@dataclass(frozen=True)
class SamCandidates:
    """Masks of a grid of points that passed predicted IoU and stability, not yet cut out: `contracts.Candidates`."""

    size: tuple[int, int]
    predicted_iou: np.ndarray
    stability_score: np.ndarray
    area: np.ndarray
    bbox: np.ndarray
    point_coords: np.ndarray
    counts: dict[str, int]
    kept: LowResMasks | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.predicted_iou)

    def masks(self, index: np.ndarray) -> Masks:
        """The masks at `index` (k,), in that order, predicted IoU clipped to [0, 1]."""
        if self.kept is None or not len(index):
            return Masks.empty(self.size)
        return Masks.from_codes(
            self.kept.codes(index),
            self.size,
            predicted_iou=np.clip(self.predicted_iou[index], 0, 1),
            stability_score=np.nan_to_num(self.stability_score[index]),
            point_coords=self.point_coords[index],
        )


@dataclass(frozen=True)
class _Seen:
    """What is remembered of a tile; lives in the process that encoded it."""

    embedding: Embedding
    frame: Frame


@dataclass(frozen=True)
class Sam:
    """A network of the Segment Anything family behind `Promptable`.

    source     file, folder, name of `terralabel models list`, or name on the hub
    device     "auto", "cpu", "cuda", "cuda:1"
    precision  "fp32", or "bf16": faster, and not the same masks to the last pixel
    stability_score_offset   shift of the cut-off that `predict` measures stability with
    compile    the encoder through torch.compile, for GPUs: minutes at the start, then faster, with other last bits
    threads    on the CPU; 0: as many as torch has been told to use. Another number may change the last bits
    network    one that is loaded already, for this process only (then `source` is but its name); otherwise it is
               loaded at the first use, once per process, so that a `Sam` is small to pickle

    Raises `WeightsError` when the weights do not load or answer with numbers that are none, `MissingExtraError` without
    torch, `SettingsError` for bands it cannot take.
    """

    source: str
    device: str = "auto"
    precision: str = "fp32"
    stability_score_offset: float = 1.0
    threads: int = 0
    compile: bool = False
    network: SamNetwork | None = field(default=None, repr=False)
    makes_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "bf16"):
            raise SettingsError(f"precision is {self.precision!r}; give 'fp32' or 'bf16'.")
        if self.threads < 0:
            raise SettingsError(f"threads is {self.threads}; give 1 or more, or 0 to leave it to torch.")

    @property
    def name(self) -> str:
        """The model without the place of a file: results belong to the weights (`version`), wherever they lie."""
        path = Path(self.source)
        return f"sam:{path.name if _exists(path) else self.source}"

    @property
    def version(self) -> str:
        """Changes with the weights and the settings that a mask depends on. Loads the network."""
        compiled = "-compiled" if self.compile else ""
        return f"2-{self._loaded[1][:16]}-{self.precision}-{self.stability_score_offset:g}{compiled}"

    @property
    def batch_used(self) -> int:
        """Prompts that the network took at once for the last tile, after halving where memory ran out."""
        return int(self._loaded[0].batch_used)

    @property
    def tiles_at_once(self) -> int:
        """Tiles that the encoder takes in one pass at most, after halving where memory ran out; 1 on a CPU."""
        return int(self._loaded[0].images_at_once)

    @property
    def _loaded(self) -> tuple[SamNetwork, str]:
        if self.network is not None:
            return self.network, "given"
        found = stamp(self.source)
        if self.__dict__.setdefault("_met", found) != found:  # sent along to workers
            raise WeightsError(f"{self.source}: the weights were replaced or removed while in use; start again.")
        return _load(self.source, self.device, self.precision, self.compile, found)

    def encode(self, tile: Tile) -> Encoded:
        """The image encoder's view of the tile, with its feature map."""
        return self.encode_batch([tile])[0]

    def encode_batch(self, tiles: Sequence[Tile]) -> list[Encoded]:
        """As `encode`, several tiles in one pass (one by one on a CPU); they may differ in size."""
        import torch

        net = self._loaded[0]
        frames = [_frame(net, tile.size) for tile in tiles]
        with self._machine():
            pixels = torch.stack([network_input(net, tile, frame) for tile, frame in zip(tiles, frames, strict=True)])
            embeddings = net.encode(pixels)
        return [_encoded(net, *each) for each in zip(tiles, embeddings, frames, strict=True)]

    def predict(
        self,
        encoded: Encoded,
        *,
        points: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: Masks | None = None,
        multimask: bool = True,
    ) -> Prediction:
        """Masks for `b` prompts; frames and shapes as in `contracts.Promptable`."""
        import torch

        seen, net = _seen(encoded), self._loaded[0]
        prompts = prompt_tensors(seen.frame, points, point_labels, boxes, masks)
        with self._machine():
            logits, iou = net.decode(seen.embedding, **prompts, multimask=multimask)
            measures = measure(
                logits.flatten(0, 1), seen.frame, offset=self.stability_score_offset, threads=torch.get_num_threads()
            )
            kept = LowResMasks.keep(logits.flatten(0, 1), seen.frame, measures.bbox)
            codes = kept.codes(np.arange(len(kept.bbox)))
        scores = iou.flatten().float().cpu().numpy()
        _check_scores(scores)
        columns = {"predicted_iou": np.clip(scores, 0, 1), "stability_score": np.nan_to_num(measures.stability_score)}
        answer = Masks.from_codes(codes, encoded.tile.size, **columns).within(encoded.tile.valid)
        return Prediction(answer, logits.shape[1])

    def candidates(
        self,
        encoded: Encoded,
        points: np.ndarray,
        *,
        pred_iou_thresh: float,
        stability_score_thresh: float,
        stability_score_offset: float = 1.0,
        points_per_batch: int = 64,
    ) -> SamCandidates:
        """The masks of single foreground points (n, 2) float32 xy that pass both thresholds; see `contracts.Candidates`.

        Thresholds of 0 or less let all pass, as in segment-anything. Pixels that are not valid are not looked for.
        """
        seen, net = _seen(encoded), self._loaded[0]
        lowest = pred_iou_thresh if pred_iou_thresh > 0 else -np.inf
        frame, found, columns = seen.frame, [], []
        counts = {"prompted": len(points) * net.alternatives, "predicted_iou": 0, "stability_score": 0}
        import torch

        with self._machine():
            asked = torch.from_numpy(frame.to_input(points))
            for passing in net.decode_passing(seen.embedding, asked, pred_iou_thresh=lowest, batch=points_per_batch):
                counts["predicted_iou"] += len(passing.index)
                measures = measure(passing.logits, frame, offset=stability_score_offset, threads=torch.get_num_threads())
                stability = measures.stability_score
                good = np.flatnonzero((stability >= stability_score_thresh) | (stability_score_thresh <= 0))
                counts["stability_score"] += len(good)
                if len(good):
                    rows = torch.from_numpy(good).to(passing.logits.device)
                    found.append(LowResMasks.keep(passing.logits[rows], frame, measures.bbox[good]))
                    prompt = passing.index[rows].cpu().numpy() // net.alternatives
                    columns.append((passing.iou[rows].cpu().numpy(), stability[good], measures.area[good], points[prompt]))
        if not counts["predicted_iou"] and len(points):
            self._check_answer(seen, asked[:1])
        if not found:
            return _nothing(frame.size, counts)
        kept = LowResMasks.join(found)
        iou, stability, area, coords = (np.concatenate(column) for column in zip(*columns, strict=True))
        return SamCandidates(frame.size, iou, stability, area, kept.bbox, coords.astype(np.float32), counts, kept)

    def _check_answer(self, seen: _Seen, point: Tensor) -> None:
        """Tell a damaged network, whose NaN passes no threshold, from a tile where nothing is sure."""
        import torch

        with self._machine():
            _, iou = self._loaded[0].decode(seen.embedding, points=point[None], labels=torch.ones(1, 1).long(), multimask=True)
        _check_scores(iou.cpu().numpy())

    @contextmanager
    def _machine(self) -> Iterator[None]:
        """No gradients; the chosen number of threads, where one was chosen."""
        import torch

        before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


def make_sam(
    argument: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    stability_score_offset: float = 1.0,
    threads: int = 0,
    compile: bool = False,
) -> Sam:
    """What ``sam:ARGUMENT`` stands for."""
    return Sam(argument, device, precision, stability_score_offset, threads, compile)


def stamp(source: str) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time (ns) of the last change of the files that `source` names; empty for what is not here.

    Where it is another than before, the network under that name may be another.
    """
    path = Path(source).expanduser()
    if not _exists(path):
        path = next((cache_folder() / model.file for model in CATALOGUE if source in (model.name, model.file)), path)
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    except (OSError, ValueError):  # what else is wrong with it is said by who loads it
        return ()


def _exists(path: Path) -> bool:
    """Whether it is there; not where its name is one that no file system takes."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def release() -> None:
    """Let go of the networks that this process has loaded; one that is needed again is loaded again."""
    _load.cache_clear()
    gc.collect()  # modules refer to themselves in circles


@lru_cache(maxsize=2)
def _load(
    source: str, device: str, precision: str, compile: bool, files: tuple[tuple[str, int, int], ...]
) -> tuple[SamNetwork, str]:
    """The network and the digest of its weights; once per process, and anew where its `files` (see `stamp`) are others."""
    try:
        from terralabel.nets.backbones import choose_device
        from terralabel.nets.sam import loading, network
    except ImportError as error:
        raise MissingExtraError(f"SAM needs the package {error.name!r}: pip install 'terralabel[torch]'.") from error
    loaded = loading.load(source)
    if files and stamp(source) != files:
        raise WeightsError(f"{source}: the weights were replaced while they were read; start again.")
    return network.make_network(loaded, device=choose_device(device), precision=precision, compile=compile), loaded.sha256


def _frame(net: SamNetwork, size: tuple[int, int]) -> Frame:
    return Frame.of(size, mask_size=net.mask_size, image_size=net.image_size, pads=net.pads)


def _encoded(net: SamNetwork, tile: Tile, embedding: Embedding, frame: Frame) -> Encoded:
    """What is remembered; a padded tile spans the first part of the feature map only."""
    values = net.feature_map(embedding)
    if not np.isfinite(values).all():
        raise WeightsError("The image encoder answers with NaN or infinity: the checkpoint is damaged.")
    height, width = frame.input_size
    covers = (height / frame.image_size * values.shape[0], width / frame.image_size * values.shape[1])
    return Encoded(tile, _Seen(embedding, frame), values, covers)


def _seen(encoded: Encoded) -> _Seen:
    if not isinstance(encoded.state, _Seen):
        raise ContractError(f"sam: expected an Encoded made by Sam.encode, got the state {type(encoded.state).__name__}.")
    return encoded.state


def _check_scores(iou: np.ndarray) -> None:
    if not np.isfinite(iou).all():
        raise WeightsError(
            "The network's predicted IoU is NaN or infinite: the checkpoint is damaged or not meant for this network; "
            "check it with `terralabel models check FILE`."
        )


def _nothing(size: tuple[int, int], counts: dict[str, int]) -> SamCandidates:
    none = np.zeros(0, dtype=np.float32)
    return SamCandidates(
        size, none, none, np.zeros(0, np.int64), np.zeros((0, 4), np.int32), np.zeros((0, 2), np.float32), counts
    )
