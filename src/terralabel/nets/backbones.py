"""Encoders of other libraries behind one face: an image in, feature maps out.

Weights come from a file, from a folder, or from the hub by name; always safetensors, npz or a checked torch file, never
a pickle that runs. Offline (`weights.is_offline`), what is not on the machine is named with the place to put it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terralabel.errors import MissingExtraError, SettingsError, WeightsError
from terralabel.nets.checkpoints import compare_keys, read_state
from terralabel.nets.hub import hub_file, hub_folder
from terralabel.nets.weights import find

__all__ = ["Backbone", "load_hf", "load_mobilenet", "load_timm", "package", "quiet"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Endings before a network's own keys in checkpoints of whole models.
_PREFIXES = (
    "",
    "module.",
    "model.",
    "backbone.",
    "encoder.",
    "image_encoder.",
    "module.backbone.",
    "model.backbone.",
    "student.",
)
#: transformers' model types that take any size whose sides are multiples of their patch or stride.
_ANY_SIZE = {
    "bit",
    "convnext",
    "convnextv2",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_convnext",
    "dinov3_vit",
    "resnet",
    "regnet",
}


@dataclass(frozen=True)
class Backbone:
    """A loaded encoder, in evaluation mode on its device.

    maps       (b, 3, h, w) float32 tensor, normalised -> list of (b, d, h', w') tensors, one per tap
    mean, std  the network's own, for RGB in [0, 1]
    multiple   sides must be multiples of this many pixels
    window     the one side length it was trained for, or None when it takes any multiple
    digest     of all its weights
    """

    maps: Callable[[Any], list[Any]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multiple: int
    window: int | None
    device: str
    digest: str


def package(name: str) -> Any:
    """An optional package; `MissingExtraError` with the way out where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"This encoder needs the package {error.name or name!r}: pip install 'terralabel[torch]'."
        ) from error


def choose_device(device: str) -> str:
    """ "auto" is the first GPU when there is one, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if package("torch").cuda.is_available() else "cpu"


def _digest(net: Any) -> str:
    """sha256 of all weights, by key, in order of keys."""
    torch, total = package("torch"), hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        total.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _ready(net: Any, maps: Callable[[Any], list[Any]], device: str, **facts: Any) -> Backbone:
    digest = _digest(net)
    net.eval().requires_grad_(False).to(device)
    return Backbone(maps, device=device, digest=digest, **facts)


def load_mobilenet(argument: str, device: str = "auto") -> Backbone:
    """MobileNetV2 from a file of folded weights; from the cache when `argument` is empty."""
    device = choose_device(device)
    mobilenet = package("terralabel.nets.mobilenet")
    path = Path(argument).expanduser() if argument else find("mobilenet_v2")
    if path is None:
        raise WeightsError(
            "mobilenet_v2: no weights in the cache; `terralabel models pull mobilenet_v2 --file PATH` or mobilenet_v2:PATH."
        )
    net = mobilenet.load_mobilenet_v2(path)
    return _ready(net, net, device, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), multiple=32, window=None)


def load_timm(argument: str, device: str = "auto") -> Backbone:
    """``MODEL`` with its weights from the hub, or ``MODEL@FILE``; every model of timm that gives intermediate maps.

    Networks of several strides give each from 4 on; vision transformers their last layer.
    """
    device, timm = choose_device(device), package("timm")
    name, _, file = argument.partition("@")
    try:
        net = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:
        near = timm.list_models(f"*{name[:6]}*")[:3]
        raise SettingsError(f"timm:{name}: {error}. {'Near: ' + ', '.join(near) if near else ''}".strip()) from error
    if not hasattr(net, "forward_intermediates"):
        raise SettingsError(f"timm:{name} gives no intermediate maps; choose another model.")
    path = Path(file).expanduser() if file else _timm_file(name, net.pretrained_cfg)
    _load_timm_state(net, read_state(path), f"{path} as timm:{name}")
    config, info = net.pretrained_cfg, list(net.feature_info)
    strides = [layer["reduction"] for layer in info]
    taps = [i for i, stride in enumerate(strides) if stride >= 4] if len(set(strides)) > 1 else [len(strides) - 1]
    extra = {"norm": True} if len(set(strides)) == 1 else {}

    def maps(x: Any) -> list[Any]:
        return list(net.forward_intermediates(x, indices=taps, intermediates_only=True, output_fmt="NCHW", **extra))

    window = config["input_size"][-1] if config.get("fixed_input_size") else None
    facts = {"mean": tuple(config["mean"]), "std": tuple(config["std"]), "multiple": max(strides), "window": window}
    return _ready(net, maps, device, **facts)


def _timm_file(name: str, config: Mapping[str, Any]) -> Path:
    repository = config.get("hf_hub_id")
    if not repository:
        raise WeightsError(
            f"timm:{name} has no weights on the hub; give a file: timm:{name}@FILE (known address: {config.get('url')})."
        )
    if repository.endswith("/"):
        repository += f"{config.get('architecture', name)}.{config['tag']}" if config.get("tag") else name
    return hub_file(repository, "model.safetensors", f"timm:{name}@FILE")


def _load_timm_state(net: Any, state: dict[str, Any], what: str) -> None:
    """Load `state` into a timm network, whatever prefix its keys have; `WeightsError` unless every key is there."""
    wanted = net.state_dict()
    options = []
    for prefix in _PREFIXES:
        options.append({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    translate = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    best = max(options, key=lambda option: len(option.keys() & wanted.keys()))
    if translate is not None and best.keys() & wanted.keys() != wanted.keys():
        best = max([best, translate(dict(best), net)], key=lambda option: len(option.keys() & wanted.keys()))
    compare_keys(best, wanted, what)
    net.load_state_dict({key: best[key] for key in wanted})


def load_hf(argument: str, device: str = "auto") -> Backbone:
    """A folder or a hub name of transformers: backbones (DINOv2, DINOv3, Swin, ConvNeXt, ResNet...), else any vision model.

    Networks of several strides give each; vision transformers their last layer. Only safetensors, never remote code.
    """
    device, transformers = choose_device(device), package("transformers")
    folder = _hf_folder(argument)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(str(folder), **options)
    depths = getattr(config, "depths", None)
    mapping = importlib.import_module("transformers.models.auto.modeling_auto").MODEL_FOR_BACKBONE_MAPPING_NAMES
    is_backbone = config.model_type in mapping  # its class by name: AutoBackbone would ask the hub whether the folder exists
    if is_backbone:
        options["out_indices"] = tuple(range(1, len(depths) + 1)) if depths else (-1,)
    factory = getattr(transformers, mapping[config.model_type]) if is_backbone else transformers.AutoModel
    with quiet(transformers.logging):
        net, info = factory.from_pretrained(str(folder), use_safetensors=True, output_loading_info=True, **options)
    _check_loaded(net, info, argument)
    patch = getattr(config, "patch_size", None)
    multiple = patch if isinstance(patch, int) and not depths else 32
    window = None if config.model_type in _ANY_SIZE else getattr(config, "image_size", None)
    facts = {"multiple": multiple, "window": window if isinstance(window, int) else None, **_hf_normalisation(folder)}
    maps = (lambda x: list(net(pixel_values=x).feature_maps)) if is_backbone else (lambda x: [_token_map(net, x, multiple)])
    return _ready(net, maps, device, **facts)


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Without transformers' report on heads that are not used; what matters is checked by `_check_loaded`."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _check_loaded(net: Any, info: Mapping[str, Any], what: str) -> None:
    """transformers only warns of missing keys; a network half at random is refused here."""
    missing = sorted(info["missing_keys"])
    trained = [key for key in net.state_dict() if "norm" not in key and "pooler" not in key and "mask_token" not in key]
    lost = [key for key in missing if key in trained]
    if lost or info.get("mismatched_keys"):
        raise WeightsError(
            f"hf:{what}: the weights are of another architecture: missing {', '.join(lost[:3])} and {max(len(lost) - 3, 0)} more."
        )


def _token_map(net: Any, x: Any, patch: int) -> Any:
    """The last layer's patch tokens as a map; class and register tokens come first and are left out."""
    last = net(pixel_values=x).last_hidden_state
    if last.ndim == 4:
        return last
    rows, columns = x.shape[-2] // patch, x.shape[-1] // patch
    extra = last.shape[1] - rows * columns
    if not 0 <= extra <= 16:
        raise SettingsError(
            f"{type(net).__name__} gives {last.shape[1]} tokens for {rows} x {columns} patches; it has no map to pool."
        )
    return last[:, extra:].transpose(1, 2).reshape(len(x), -1, rows, columns)


def _hf_folder(argument: str) -> Path:
    """The folder that holds config.json and model.safetensors."""
    given = Path(argument).expanduser()
    if given.is_dir():
        for file in ("config.json", "model.safetensors"):
            if not (given / file).is_file() and not list(given.glob("model*.safetensors")):
                raise WeightsError(
                    f"{given}: no {file} in this folder; expected what `save_pretrained` writes, as safetensors."
                )
        return given
    if given.is_absolute() or argument.startswith((".", "~")) or argument.count("/") > 1:
        raise WeightsError(f"{argument}: no such folder.")
    # not every repository has the last one; ImageNet's mean and deviation are taken then
    return hub_folder(argument, ("config.json", "model.safetensors"), "hf:FOLDER", optional=("preprocessor_config.json",))


def _hf_normalisation(folder: Path) -> dict[str, Any]:
    """The network's own mean and standard deviation; ImageNet's where the folder says nothing."""
    file = folder / "preprocessor_config.json"
    stated = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {"mean": tuple(stated.get("image_mean", IMAGENET_MEAN)), "std": tuple(stated.get("image_std", IMAGENET_STD))}
