"""Networks that find objects as boxes: detectors of transformers and torchvision, from weights on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.errors import SettingsError, WeightsError
from terralabel.nets.backbones import choose_device, package
from terralabel.nets.checkpoints import check, compare_keys, read_state
from terralabel.nets.released import load_released, released_folder

__all__ = ["Detections", "Detector", "load_detector"]

#: The key whose rows are the classes, with the background.
_CLASSES = "roi_heads.box_predictor.cls_score.weight"
#: torchvision's numbering of COCO has this many classes.
_COCO = 91
_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


@dataclass(frozen=True)
class Detections:
    """What was found in a picture: `xyxy` (n, 4) float32 pixels, `score` (n,) float32 in [0, 1], `label` (n,) int64."""

    xyxy: np.ndarray
    score: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Detector:
    """A loaded detector: `detect` takes a picture (H, W, 3) uint8 RGB; `classes` are the names of its labels."""

    name: str
    classes: Mapping[int, str]
    detect: Callable[[np.ndarray], Detections]


def load_detector(argument: str, device: str = "auto") -> Detector:
    """A folder or hub name of transformers (DETR, YOLOS, RT-DETR...), or ``torchvision:fasterrcnn_resnet50_fpn:FILE``.

    Only safetensors, or torch files without code in them; never remote code. `WeightsError` when the weights are of another
    network, damaged or not there; `SettingsError` for a name that is none.
    """
    if argument.startswith("torchvision:"):
        return _torchvision(argument.removeprefix("torchvision:"), choose_device(device))
    return _transformers(argument, choose_device(device))


def _transformers(argument: str, device: str) -> Detector:
    torch, transformers = package("torch"), package("transformers")
    folder = released_folder(argument, _FILES, "--detector FOLDER")
    net, processor, _ = load_released(
        transformers.AutoModelForObjectDetection, transformers.AutoImageProcessor, folder, "detector"
    )
    net = net.to(device)

    def detect(picture: np.ndarray) -> Detections:
        with torch.inference_mode():
            given = processor(images=picture, return_tensors="pt").to(device)
            answer = processor.post_process_object_detection(net(**given), threshold=0.0, target_sizes=[picture.shape[:2]])[0]
        return _found(answer["boxes"], answer["scores"], answer["labels"])

    return Detector(argument, {int(k): str(v) for k, v in net.config.id2label.items()}, detect)


def _torchvision(argument: str, device: str) -> Detector:
    name, _, file = argument.partition(":")
    torch, detection = package("torch"), package("torchvision").models.detection
    builders = sorted(n for n in vars(detection) if n.startswith("fasterrcnn_"))
    if name not in builders or not file:
        raise SettingsError(f"torchvision:{argument}: expected torchvision:MODEL:FILE with one of {', '.join(builders)}.")
    path = Path(file).expanduser()
    state = read_state(path, check(path))
    if _CLASSES not in state:
        raise WeightsError(f"{path}: no {_CLASSES} in it; expected weights of {name}.")
    count = int(state[_CLASSES].shape[0])
    net = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=count)
    compare_keys(state, net.state_dict(), str(path))
    net.load_state_dict({key: state[key] for key in net.state_dict()})
    net = net.eval().to(device)

    def detect(picture: np.ndarray) -> Detections:
        with torch.inference_mode():
            shown = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).to(device).float() / 255
            answer = net([shown])[0]
        return _found(answer["boxes"], answer["scores"], answer["labels"])

    return Detector(f"torchvision:{name}", _names(detection, count), detect)


def _names(detection: Any, count: int) -> dict[int, str]:
    """COCO's names for weights with COCO's number of classes, else numbers; 0 is the background."""
    if count == _COCO:
        told = detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        return {k: str(name) for k, name in enumerate(told) if name not in ("__background__", "N/A")}
    return {k: f"class {k}" for k in range(1, count)}


def _found(boxes: Any, scores: Any, labels: Any) -> Detections:
    return Detections(
        boxes.detach().cpu().numpy().astype(np.float32).reshape(-1, 4),
        scores.detach().cpu().numpy().astype(np.float32),
        labels.detach().cpu().numpy().astype(np.int64),
    )
