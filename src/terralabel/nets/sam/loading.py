"""A network of the family from its weights: an official file, safetensors, a folder of transformers, or a name.

transformers builds the modules from configuration classes alone. With a file or folder given, nothing asks the hub.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from terralabel.core.files import atomic_path, write_text
from terralabel.errors import WeightsError
from terralabel.nets.backbones import package, quiet
from terralabel.nets.checkpoints import WeightsReport, check, compare_keys, file_sha256, read_state
from terralabel.nets.hub import hub_folder
from terralabel.nets.pickles import printable
from terralabel.nets.sam.families import FAMILIES, Checkpoint, identify, own_keys
from terralabel.nets.sam.folders import CLASSES, PARTS, read_config, weight_files
from terralabel.nets.sam.keys import COPIED, dropped
from terralabel.nets.sam.official import to_official, to_transformers
from terralabel.nets.weights import CATALOGUE, find, how_to_get

__all__ = ["Loaded", "build", "check_fit", "load", "write_official", "write_tuned"]

_SUFFIXES = {".bin", ".ckpt", ".npz", ".pt", ".pth", ".safetensors"}
_BUILDING = threading.Lock()


@dataclass(frozen=True)
class Loaded:
    """A network ready for inference (eval mode, CPU, float32, no gradients), what it is, and the digest of its files."""

    model: Any
    checkpoint: Checkpoint
    sha256: str


def load(source: str | Path) -> Loaded:
    """The network in `source`: a file, a folder, a name of `terralabel models list`, or a name on the hub ("owner/name").

    A name of the list must lie in the cache already. Raises `WeightsError` in one line with the way out when the weights
    are missing, damaged, of another architecture or incomplete.
    """
    path = _place(source)
    return _load_folder(path) if path.is_dir() else _load_file(path)


def _place(source: str | Path) -> Path:
    """The file or folder that `source` names."""
    path, name = Path(source).expanduser(), str(source)
    try:
        folder, file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:  # a name that no file system takes, links in a circle
        raise WeightsError(
            f"{printable(name)[:200]}: {printable(error)[:100]}; expected a file, a folder or a name."
        ) from error
    if folder or file:
        return path
    if any(name in (model.name, model.file) for model in CATALOGUE):
        cached = find(name)
        if cached is None:
            raise WeightsError(how_to_get(name))
        return cached
    if isinstance(source, Path) or path.suffix in _SUFFIXES or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise WeightsError(f"{printable(name)}: no such file or folder, and no name of `terralabel models list`.")
    return hub_folder(name, ("config.json", "model.safetensors"), "a file or folder")


def write_tuned(source: str | Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write the weights of `source` with `tensors` (by transformers' names) in place of its own, as safetensors at `path`.

    Names are those of the source, the authors' or transformers'; every other tensor is as it was to the last bit, also those
    that `load` has no use for. Of a folder its config.json is written beside, so that transformers reads the folder of `path`.
    """
    from safetensors.torch import save_file

    place = _place(source)
    files = weight_files(place) if place.is_dir() else [place]
    state: dict[str, Any] = {key: value for file in files for key, value in read_state(file).items()}
    full, official = own_keys(state), checkpoint.layout == "official"
    changed = to_official(tensors, checkpoint) if official else dict(tensors)
    whole = {own: state[key] for own, key in full.items()} if official else dict(state)
    whole |= {own if official else full[own]: value.detach().cpu() for own, value in changed.items()}
    with atomic_path(path) as temporary:
        save_file(
            {key: value.clone(memory_format=torch.contiguous_format) for key, value in whole.items()},
            temporary,
            {"format": "pt"},
        )
        temporary.chmod(0o644)
    if place.is_dir():
        write_text(path.with_name("config.json"), (place / "config.json").read_text(encoding="utf-8"))


def build(checkpoint: Checkpoint, seed: int = 0) -> Any:
    """A network of this configuration with random weights, the same for the same seed: for tests and timings."""
    model = _empty(checkpoint)
    generator = torch.Generator().manual_seed(seed)
    state = {key: _random(key, value, generator) for key, value in model.state_dict().items()}
    state[COPIED[1]] = state[COPIED[0]].clone()
    return _filled(model, state)


def write_official(model: Any, checkpoint: Checkpoint, path: Path | str) -> None:
    """Write a network's weights as its authors do: `torch.save`, nested under "model" but for SAM and SAM-HQ."""
    state = to_official(model.state_dict(), checkpoint)
    whole: dict[str, Any] = state if checkpoint.family in ("sam", "sam_hq") else {"model": state}
    with atomic_path(Path(path)) as temporary:
        torch.save(whole, temporary)


def check_fit(shapes: Mapping[str, Any], checkpoint: Checkpoint, what: str) -> None:
    """Raise `WeightsError` naming the first keys that are missing, of another shape, or unknown to the architecture.

    `shapes` are tensors or shapes by the file's own keys.
    """
    _check_fit(shapes, checkpoint, what, _empty(checkpoint, what).state_dict())


def _check_fit(shapes: Mapping[str, Any], checkpoint: Checkpoint, what: str, wanted: Mapping[str, Any]) -> None:
    if checkpoint.layout == "official":
        wanted = to_official(wanted, checkpoint)
    else:
        wanted = {key: value for key, value in wanted.items() if key != COPIED[1]}
    found = {key: shapes[full] for key, full in own_keys(shapes).items()}
    compare_keys(found, wanted, what, f"not a whole {checkpoint}")
    extra = [
        key
        for key in found
        if key not in wanted and key != COPIED[1] and not dropped(checkpoint.family, checkpoint.layout, key)
    ]
    if extra:
        raise WeightsError(
            f"{what}: {len(extra)} keys are unknown to {checkpoint}: {printable(', '.join(extra[:3]))}; "
            "a changed network cannot be loaded as the original."
        )


def _load_file(path: Path) -> Loaded:
    report = check(path)
    checkpoint = identify(report.shapes)
    if checkpoint is None:
        if "TinyViT" in report.architecture:
            raise WeightsError(
                f"{path}: {report.architecture}; of the small ones `edgetam`, `sam2.1_tiny` and `sam_vit_b` work: "
                "`terralabel models pull edgetam`."
            )
        raise WeightsError(
            f"{path}: no SAM, SAM-HQ, SAM 2, SAM 3 or EdgeTAM checkpoint ({report.architecture}); "
            "`terralabel models check FILE` shows its keys, `terralabel models list` what is known."
        )
    return Loaded(_assemble(read_state(path, report), checkpoint, str(path)), checkpoint, report.sha256)


def _assemble(state: Mapping[str, Any], checkpoint: Checkpoint, what: str) -> Any:
    """The model with these tensors in it, after checking that they fit exactly."""
    model = _empty(checkpoint, what)
    _check_fit(state, checkpoint, what, model.state_dict())
    own = {key: state[full] for key, full in own_keys(state).items()}
    if checkpoint.layout == "official":
        own = to_transformers(own, checkpoint)
    own.setdefault(COPIED[1], own[COPIED[0]].clone())
    return _filled(model, own)


def _filled(model: Any, state: Mapping[str, Tensor]) -> Any:
    """The tensors in place of the model's own (no copy of what is float32 already), ready for inference."""
    wanted = model.state_dict()
    ready = {key: state[key].to(value.dtype) for key, value in wanted.items()}
    nn.Module.load_state_dict(model, ready, assign=True)
    return model.eval().requires_grad_(False)


def _empty(checkpoint: Checkpoint, what: str = "these weights") -> Any:
    """The modules without storage for their weights; tables that no file holds are computed."""
    transformers = package("transformers")
    config_name, model_name = CLASSES[checkpoint.family]
    try:
        config = getattr(transformers, config_name)(**{part: dict(checkpoint.config[part]) for part in PARTS})
        with _BUILDING, quiet(transformers.logging), _weights_on_meta():
            return getattr(transformers, model_name)(config)
    except Exception as error:  # each class refuses sizes that do not fit together with an error of its own
        raise WeightsError(f"{what}: no whole {checkpoint}: its shapes make no network ({printable(error)[:120]}).") from error


@contextmanager
def _weights_on_meta() -> Iterator[None]:
    """While it lasts, every parameter that a module registers is without storage: nothing is filled only to be replaced."""
    register = nn.Module.register_parameter

    def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.data.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _random(key: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Values that keep activations of order one through the layers: by fan-in for weights, near one for scales."""
    if not like.dtype.is_floating_point:
        return torch.zeros(like.shape, dtype=like.dtype)
    noise = torch.randn(like.shape, generator=generator)
    if key.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if like.ndim >= 2:
        embedding = "embed" in key or "token" in key or "rel_pos" in key
        fan_in = 1 if embedding and "proj" not in key and "mask_embed" not in key else like[0].numel()
        return noise * (0.5 if fan_in == 1 else fan_in**-0.5)
    return (1 if key.endswith("weight") else 0) + 0.1 * noise


def _load_folder(folder: Path) -> Loaded:
    """What `save_pretrained` writes: config.json and weights, in one file or in several."""
    family, config = read_config(folder)
    reports = [check(file) for file in weight_files(folder)]
    told = identify({key: shape for report in reports for key, shape in report.shapes.items()})
    if told is None or told.layout != "transformers" or told.family.removesuffix(".1") != family.removesuffix(".1"):
        raise WeightsError(
            f"{folder}: config.json says {FAMILIES[family]}, the weights are {told or 'none of the SAM family'}."
        )
    checkpoint = replace(told, config=config)
    state = {key: value for report in reports for key, value in read_state(report.path, report).items()}
    return Loaded(_assemble(state, checkpoint, str(folder)), checkpoint, _digest(folder, reports))


def _digest(folder: Path, reports: list[WeightsReport]) -> str:
    """Of the files' digests, and of config.json, by name."""
    lines = [f"{report.path.name} {report.sha256}" for report in reports] + [
        f"config.json {file_sha256(folder / 'config.json')}"
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
