"""Networks that make masks: what `--masks` means when it names weights, and how a run shares the machine among its workers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from terralabel import registry
from terralabel.nets.nano.runtime import who_computes
from terralabel.nets.weights import CATALOGUE, find
from terralabel.recipes.plan import NETWORK_SHARD_TILES
from terralabel.recipes.settings import LabelSettings
from terralabel.runs.folder import RunFolder

__all__ = [
    "as_recorded",
    "inexact_modes",
    "memory_of_worker",
    "on_device",
    "release_networks",
    "settle",
    "shard_tiles",
    "tiles_at_once",
    "weights_of",
    "worker_count",
]

_WEIGHTS = (".bin", ".ckpt", ".npz", ".pt", ".pth", ".safetensors")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: How names of promptable models begin.
_CHECKPOINTS = ("edgetam", "sam2", "sam3", "sam_")
#: What a worker holds beside the weights, bytes: Python with its libraries, and what encoding and decoding one tile need
#: (the largest seen, ViT-H at 1024 px; docs/sam.md).
_IDLE, _WORK, _WORK_ON_GPU = 600_000_000, 2_000_000_000, 6_000_000_000
#: Tiles that a GPU encodes in one pass where the settings do not say.
_TILES_ON_GPU = 4


def weights_of(masks: str) -> str | None:
    """The weights that a value of `--masks` names; None where it names a backend.

    Weights are a name of the catalogue, a file, a folder of transformers, or a hub name with one slash in it, each with or
    without ``sam:`` before it. Whether they are there, and what they are, is found out by who loads them.
    """
    name = masks.removeprefix("everything:")
    if name.startswith("sam:"):
        return name.removeprefix("sam:")
    if name in registry.names("masks") or ":" in name:
        return None
    known = name.startswith(_CHECKPOINTS) or name.endswith(_WEIGHTS) or _HUB.fullmatch(name)
    return name if known or Path(name).expanduser().exists() else None


# ---------------------------------------------------------------------------------------------------------------- auto


def settle(settings: LabelSettings, out: Path) -> tuple[LabelSettings, str]:
    """The settings with `--masks auto` decided, and one line that says why ("" where nothing was to decide).

    A run that is there keeps what it was made with, whatever weights have come since.
    """
    if settings.masks != "auto":
        return settings, ""
    folder = RunFolder(out)
    if folder.exists:
        return replace(settings, masks=str(folder.manifest()["settings"].get("masks", "auto"))), ""
    here = _in_cache()
    if not here:
        return _embedded(settings)
    chosen = here[0] if on_device(settings) != "cpu" else min(here, key=lambda name: find(name).stat().st_size)  # type: ignore[union-attr]
    return replace(settings, masks=chosen), f"masks: {chosen} (its weights are in the cache; --masks tree needs no network)"


def _embedded(settings: LabelSettings) -> tuple[LabelSettings, str]:
    """What ships with the package: `nano` where something is installed that computes it, else `tree`."""
    if who_computes(settings.device):
        return replace(settings, masks="nano"), (
            "masks: nano (comes with the package; --masks tree needs no network, `terralabel models list` shows what else can be used)"
        )
    return replace(settings, masks="tree"), (
        "masks: tree (no network needed; pip install 'terralabel[nano]' for better ones, `terralabel models list` shows all)"
    )


def as_recorded(settings: LabelSettings, out: Path, made_by: str) -> LabelSettings:
    """The settings by which a run that is there knows itself: weights are told by what they hold, not by where they lie.

    `made_by`: name and version (with the weights' sha256) of the mask generator that these settings make.
    """
    folder = RunFolder(out)
    if weights_of(settings.masks) is None or not folder.exists:
        return settings
    manifest = folder.manifest()
    before = str(manifest["settings"].get("masks", "auto"))
    same = weights_of(before) is not None and manifest.get("backends", {}).get("masks") == made_by
    return replace(settings, masks=before) if same else settings


def _in_cache() -> list[str]:
    """Promptable models whose weights are in the cache, the best for everything-mode first: SAM 1 by size, then the others."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        return []
    order = ("sam_vit_h", "sam_vit_l", "sam_vit_b")
    names = [model.name for model in CATALOGUE if model.name.startswith(_CHECKPOINTS) and find(model.name) is not None]
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), names.index(name)))


def on_device(settings: LabelSettings) -> str:
    """Where networks will run: "cpu", "cuda", "cuda:1", "mps"."""
    from terralabel.nets.backbones import choose_device

    return choose_device(settings.device)


# ------------------------------------------------------------------------------------------------------------- workers


def worker_count(settings: LabelSettings) -> int:
    """Processes to start for `label`; 0 for none.

    Without a network, one per core. A network on the CPU is held by every worker, so there are as many as the free memory
    holds copies, each with `threads` threads, and no more than the cores have room for. On a GPU two share it (one
    computes while the other reads and writes) where its memory holds two networks.
    """
    source = weights_of(settings.masks)
    if settings.workers >= 0 or source is None:
        return settings.worker_count
    size = weights_size(source)
    if on_device(settings) != "cpu":
        return 2 if _free_on_gpu(settings) >= 2 * (size + _WORK_ON_GPU) else 1
    cores = settings.worker_count
    return max(1, min(cores // settings.threads, free_memory() // memory_of_worker(settings)))


def inexact_modes(settings: LabelSettings) -> str:
    """One line on the modes in use that make other masks than the exact one, "" where there are none."""
    chosen = {"grid": settings.grid != "full", "precision": settings.precision != "fp32"}
    if weights_of(settings.masks) is None:
        chosen = {"grid": chosen["grid"] and settings.masks.startswith("everything:")}
    named = [f"{mode} {getattr(settings, mode)}" for mode, used in chosen.items() if used]
    return f"{', '.join(named)}: faster, not the same masks as the exact mode (docs/sam.md)" if named else ""


def release_networks() -> None:
    """Let go of networks that were loaded here to see what they are."""
    from terralabel.masks.sam import release

    release()


def tiles_at_once(settings: LabelSettings) -> int:
    """Tiles that are encoded in one pass: what the settings say, else some on a GPU and one everywhere else."""
    if settings.tiles_per_batch:
        return settings.tiles_per_batch
    return 1 if weights_of(settings.masks) is None or on_device(settings) == "cpu" else _TILES_ON_GPU


def shard_tiles(settings: LabelSettings, out: Path) -> int:
    """Tiles of a shard where a network makes the masks; 0: as many as on a CPU. A run that is there keeps its own.

    On a GPU two passes of the encoder, so that tiles are read during the first; it changes how work is cut, not what comes out.
    """
    folder = RunFolder(out)
    if folder.exists:
        return int(folder.manifest().get("backends", {}).get("shard_tiles", 0))
    if weights_of(settings.masks) is None or on_device(settings) == "cpu":
        return 0
    return max(2 * tiles_at_once(settings), NETWORK_SHARD_TILES)


def memory_of_worker(settings: LabelSettings) -> int:
    """Bytes that a worker with a network takes at most, about."""
    source = weights_of(settings.masks)
    return _IDLE + _WORK + (weights_size(source) * 5 // 4 if source else 0)


def weights_size(source: str) -> int:
    """Bytes of the weights on disk; 1 GB for those of the hub, which may not be here yet."""
    path = find(source) if any(source in (model.name, model.file) for model in CATALOGUE) else Path(source).expanduser()
    if path is None or not path.exists():
        return 1_000_000_000
    return sum(p.stat().st_size for p in path.glob("*.safetensors")) if path.is_dir() else path.stat().st_size


def free_memory() -> int:
    """Bytes that processes can still take: the machine's, or the container's where it has less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        rows = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        free = min(free, limit - int(rows["anon"]))  # what files hold of the rest is given back when needed
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        pass
    return max(free, 0)


def _free_on_gpu(settings: LabelSettings) -> int:
    import torch

    device = on_device(settings)
    return int(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else 0
