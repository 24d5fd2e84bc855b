"""Folders as transformers' `save_pretrained` writes them: what config.json says, which files hold the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from terralabel.errors import WeightsError
from terralabel.nets.backbones import package
from terralabel.nets.pickles import printable

__all__ = ["CLASSES", "PARTS", "read_config", "weight_files"]

#: Family -> (configuration, model) of transformers.
CLASSES = {
    "sam": ("SamConfig", "SamModel"),
    "sam_hq": ("SamHQConfig", "SamHQModel"),
    "sam2": ("Sam2Config", "Sam2Model"),
    "sam2.1": ("Sam2Config", "Sam2Model"),
    "edgetam": ("EdgeTamConfig", "EdgeTamModel"),
    "sam3": ("Sam3TrackerConfig", "Sam3TrackerModel"),
}
#: The parts of a configuration.
PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
#: model_type in config.json -> family; the video models hold the image models.
_MODEL_TYPES = {
    "sam": "sam",
    "sam_hq": "sam_hq",
    "sam2": "sam2.1",
    "sam2_video": "sam2.1",
    "edgetam": "edgetam",
    "edgetam_video": "edgetam",
    "sam3_tracker": "sam3",
    "sam3_tracker_video": "sam3",
    "sam3_video": "sam3",
}
_BACKBONES = {"sam2_hiera_det_model", "sam3_vit_model", "timm_wrapper"}


def read_config(folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """(family, the three parts of its configuration, complete) from config.json."""
    file, expected = folder / "config.json", "expected what `save_pretrained` writes"
    if not file.is_file():
        inside = sorted(path.name for path in folder.iterdir() if path.suffix in (".pt", ".pth", ".safetensors"))
        advice = f"; give the file itself: {printable(folder / inside[0])}" if inside else ""
        raise WeightsError(f"{folder}: no config.json in this folder; {expected}{advice}.")
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        kind = str(stated["model_type"])
        held = stated.get("tracker_config") or stated
        parts = {part: dict(held.get(part) or {}) for part in PARTS}
        backbone = str(parts["vision_config"].get("backbone_config", {}).get("model_type", "sam2_hiera_det_model"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file}: damaged ({printable(error)[:100]}); {expected}.") from error
    if kind not in _MODEL_TYPES or backbone not in _BACKBONES:
        other = kind if kind not in _MODEL_TYPES else backbone
        raise WeightsError(f"{file}: model_type is {printable(other)!r}; expected one of {', '.join(_MODEL_TYPES)}.")
    try:
        config = getattr(package("transformers"), CLASSES[_MODEL_TYPES[kind]][0])(**parts)
    except Exception as error:  # transformers checks values with errors of its own
        raise WeightsError(f"{file}: damaged ({printable(error)[:100]}); {expected}.") from error
    return _MODEL_TYPES[kind], {part: getattr(config, part).to_dict() for part in PARTS}


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, every one that the index names, in order of their names."""
    found = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    named = {file.name for file in found}
    for index in [*folder.glob("model*.index.json"), *folder.glob("pytorch_model*.index.json")]:
        try:
            named |= {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(f"{index}: damaged ({printable(error)[:100]}); fetch it again.") from error
    missing = sorted(name for name in named if not (folder / Path(name).name).is_file())
    if missing or not named:
        lost = printable(", ".join(missing[:3])) or "model.safetensors"
        raise WeightsError(f"{folder}: {lost} is missing from this folder; expected what `save_pretrained` writes.")
    return [folder / Path(name).name for name in sorted(named)]
