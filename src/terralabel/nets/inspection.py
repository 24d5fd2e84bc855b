"""What a weights file or a folder is, and whether it is whole, as text for people."""

from __future__ import annotations

from pathlib import Path

from terralabel.errors import MissingExtraError, WeightsError
from terralabel.nets.checkpoints import WeightsReport, check
from terralabel.nets.pickles import printable
from terralabel.nets.sam.families import Checkpoint, identify, own_keys, why_not
from terralabel.nets.sam.keys import dropped

__all__ = ["inspect"]


def inspect(path: Path | str) -> str:
    """Say what `path` holds. Raises `WeightsError` for what cannot be used, and names the first keys that do not fit.

    A folder is one that transformers has saved. Whether a SAM is whole is told by its network, which needs torch.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _inspect_folder(path)
    report = check(path)
    checkpoint = identify(report.shapes)
    if checkpoint is None and (part := why_not(report.shapes)):
        raise WeightsError(f"{path}: {part}: not whole; fetch it again.")
    return str(report) if checkpoint is None else f"{report}\n{_whole(report, checkpoint)}"


def _whole(report: WeightsReport, checkpoint: Checkpoint) -> str:
    try:
        from terralabel.nets.sam.loading import check_fit

        check_fit(report.shapes, checkpoint, str(report.path))
    except (ImportError, MissingExtraError):
        return "whole or not: only torch and transformers can tell: pip install 'terralabel[torch]'"
    side = checkpoint.image_size
    whole = f"whole: every key of the network is there; images of {side} x {side} pixels"
    unused = [key for key in own_keys(report.shapes) if dropped(checkpoint.family, checkpoint.layout, key)]
    if not unused:
        return whole
    parts = list(dict.fromkeys(key.split(".")[0] for key in unused))
    return (
        f"{whole}\nnot used for images: {len(unused)} tensors of {printable(', '.join(parts[:8]))}{', ...' * (len(parts) > 8)}"
    )


def _inspect_folder(folder: Path) -> str:
    from terralabel.nets.sam.loading import load

    loaded = load(folder)
    numbers = sum(value.numel() for value in loaded.model.state_dict().values())
    side = loaded.checkpoint.image_size
    return "\n".join(
        [
            f"{folder}: a folder of transformers, {numbers / 1e6:.2f} M numbers",
            f"digest {loaded.sha256}",
            f"architecture: {loaded.checkpoint}",
            f"whole: every key of the network is there; images of {side} x {side} pixels",
        ]
    )
