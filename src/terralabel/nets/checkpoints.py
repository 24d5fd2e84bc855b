"""What a weights file is, told from its bytes, without running anything in it.

Kinds: safetensors, npz, torch (the zip format of ``torch.save``). Refused, each by its name: an empty file, a web page
or a Git LFS pointer saved as weights, a truncated or damaged file, a legacy pickle, a pickle that calls other code.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.errors import MissingExtraError, WeightsError
from terralabel.nets.pickles import Call, printable, read_structure
from terralabel.nets.sam.families import identify, why_not

__all__ = ["WeightsReport", "check", "compare_keys", "file_sha256", "read_state", "recorded_sha256"]

_MAX_HEADER = 100_000_000
#: Architecture -> keys that only it has.
_SIGNATURES = {
    "MobileSAM or Light SAM-HQ (TinyViT encoder), not supported": ("image_encoder.layers.0.blocks.0.conv1.c.weight",),
    "MobileNetV2, batch norm folded (mobilenet_v2)": ("features.0.0.bias", "features.17.conv.2.weight", "features.18.0.weight"),
    "MobileNetV2 (torchvision)": ("features.0.1.running_mean", "features.18.0.weight"),
    "ResNet (timm, torchvision)": ("conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
    "ViT (timm; DINO, DINOv2)": ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    "ViT (transformers; DINOv2)": ("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.norm1.weight"),
    "Swin (timm)": ("patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"),
    "ConvNeXt (timm)": ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
}


@dataclass(frozen=True)
class WeightsReport:
    """A usable weights file: `kind` is "safetensors", "npz" or "torch"; `shapes` maps each tensor's key to its shape."""

    path: Path
    kind: str
    size: int
    sha256: str
    recorded: bool
    shapes: dict[str, tuple[int, ...]]
    architecture: str

    @property
    def parameters(self) -> int:
        """Numbers in all tensors together."""
        return sum(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes.values())

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.kind}, {self.size:,} bytes, {len(self.shapes)} tensors, {self.parameters / 1e6:.2f} M numbers",
            f"sha256 {self.sha256} ({'as recorded' if self.recorded else 'nothing recorded to compare with'})",
            f"architecture: {self.architecture}",
        ]
        shown = list(self.shapes.items())[:6]
        return "\n".join(
            lines + [f"  {printable(key)}  {shape}" for key, shape in shown] + ["  ..."] * (len(self.shapes) > len(shown))
        )


def check(path: Path | str, sha256: str | None = None) -> WeightsReport:
    """Look at a weights file. Raises `WeightsError`, saying why, for one that cannot or must not be used.

    `sha256` is what the file must have; by default what `recorded_sha256` finds beside it.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file.")
    kind = _sniff(path)
    digest, expected = file_sha256(path), sha256 or recorded_sha256(path)
    if expected and digest != expected:
        raise WeightsError(
            f"{path}: sha256 is {digest}, expected {expected}: the file is damaged or another one; fetch it again."
        )
    if not expected and kind != "safetensors":
        _check_zip(path)
    shapes = _READERS[kind](path)
    if not shapes:
        raise WeightsError(f"{path}: a {kind} file without a single tensor; expected weights.")
    return WeightsReport(path, kind, path.stat().st_size, digest, bool(expected), shapes, _architecture(shapes))


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def recorded_sha256(path: Path) -> str | None:
    """The sha256 written in ``<file>.sha256`` beside a file (as ``sha256sum`` writes it), if there is one."""
    note = path.with_name(path.name + ".sha256")
    if not note.is_file():
        return None
    words = note.read_text(encoding="utf-8", errors="replace").split()
    if not words or len(words[0]) != 64:
        raise WeightsError(f"{note}: expected a sha256 in hexadecimal; got {' '.join(words)[:80]!r}.")
    return words[0].lower()


def _sniff(path: Path) -> str:
    """The kind of a file from its first bytes."""
    with path.open("rb") as handle:
        head = handle.read(512)
    text = head.lstrip().lower()
    if not head:
        raise WeightsError(f"{path}: an empty file; fetch it again.")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: a Git LFS pointer, not the weights themselves: run `git lfs pull` where it came from.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")) or b"<html" in text:
        raise WeightsError(
            f"{path}: a web page saved under a weights file's name; download the file itself (log in if it asks to)."
        )
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < _MAX_HEADER:
        return "safetensors"
    if head[:1] == b"\x80" or b"ustar" in head:
        raise WeightsError(
            f"{path}: a legacy pickle, which can run code when loaded; ask for safetensors or a torch >= 1.6 zip file."
        )
    raise WeightsError(f"{path}: not a weights file (starts with {head[:8]!r}); expected safetensors, npz or a torch zip file.")


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > 20 * path.stat().st_size + 100_000_000:
                raise WeightsError(
                    f"{path}: {unpacked:,} bytes packed into {path.stat().st_size:,}; no weights do that, it was not read."
                )
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise WeightsError(f"{path}: a truncated or damaged zip file ({printable(error)}); fetch it again.") from error
    if any(name.split("/")[-1] == "data.pkl" for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise WeightsError(
        f"{path}: a zip file without weights (holds {printable(', '.join(names[:3]))}); expected npz or what torch.save writes."
    )


def _check_zip(path: Path) -> None:
    """Compare every checksum inside; needless where the sha256 of the whole is known to be right."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise WeightsError(f"{path}: a truncated or damaged zip file ({printable(error)}); fetch it again.") from error
    if broken:
        raise WeightsError(f"{path}: {printable(broken)} inside it is damaged (checksum differs); fetch it again.")


def _safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Keys and shapes from the header, after checking that the data lie inside the file without gap or overlap."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        raw = handle.read(length)
    if len(raw) < length:
        raise WeightsError(f"{path}: truncated: the header says {length} bytes, {len(raw)} are there; fetch it again.")
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        spans = sorted((int(entry["data_offsets"][0]), int(entry["data_offsets"][1])) for entry in header.values())
        shapes = {key: tuple(int(n) for n in entry["shape"]) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise WeightsError(f"{path}: the safetensors header is damaged ({printable(error)}); fetch it again.") from error
    ends = [0, *(stop for _, stop in spans)]
    if any(start != end or stop < start for (start, stop), end in zip(spans, ends, strict=False)):
        raise WeightsError(f"{path}: the safetensors header is damaged (tensors overlap or leave gaps); fetch it again.")
    if size != 8 + length + ends[-1]:
        raise WeightsError(f"{path}: truncated: {8 + length + ends[-1]} bytes expected, {size} are there; fetch it again.")
    return shapes


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                try:
                    version = np.lib.format.read_magic(member)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(member)
                except ValueError as error:
                    raise WeightsError(f"{path}: {printable(name)} is damaged ({printable(error)}); fetch it again.") from error
            if dtype.hasobject:
                raise WeightsError(
                    f"{path}: {printable(name)} holds pickled objects, which can run code when loaded; it was not loaded."
                )
            shapes[name.removesuffix(".npy")] = shape
    return shapes


def _torch_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with zipfile.ZipFile(path) as archive:
        index = next(name for name in archive.namelist() if name.split("/")[-1] == "data.pkl")
        program = archive.read(index)
    try:
        root = read_structure(program)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    try:
        shapes = dict(_tensors(root))
    except (TypeError, IndexError) as error:
        raise WeightsError(f"{path}: the checkpoint's index is damaged ({printable(error)}); fetch it again.") from error
    if not all(_sound(shape) for shape in shapes.values()):
        raise WeightsError(f"{path}: the checkpoint's index is damaged (a shape is not whole numbers); fetch it again.")
    return shapes


def _tensors(root: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(dotted key, shape) of every tensor inside nested dicts, each dict once however often it occurs."""
    waiting, seen = [("", root)], set()
    while waiting:
        prefix, node = waiting.pop()
        if isinstance(node, Call) and getattr(node.function, "name", "").endswith("_rebuild_parameter"):
            node = node.arguments[0]
        if isinstance(node, Call) and getattr(node.function, "name", "").endswith("_rebuild_tensor_v2"):
            yield prefix, tuple(node.arguments[2])
            continue
        held = node.items if isinstance(node, Call) else node
        if isinstance(held, dict) and id(held) not in seen:
            seen.add(id(held))
            waiting += [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in reversed(held.items())]


def _sound(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)


_READERS: dict[str, Callable[[Path], dict[str, tuple[int, ...]]]] = {
    "safetensors": _safetensors_shapes,
    "npz": _npz_shapes,
    "torch": _torch_shapes,
}


def _architecture(shapes: Mapping[str, Any]) -> str:
    sam = identify(shapes)
    if sam is not None:
        return str(sam)
    if part := why_not(shapes):
        return part
    plain = {key.split("module.")[-1] for key in shapes}
    for first in ("model.", "state_dict.", "backbone.", "encoder."):
        plain |= {key.removeprefix(first) for key in plain}
    return next((name for name, keys in _SIGNATURES.items() if plain.issuperset(keys)), "not one that is known by its keys")


def read_state(path: Path, report: WeightsReport | None = None) -> dict[str, np.ndarray | Any]:
    """The tensors of a checked file: numpy arrays of an npz, torch tensors (on the CPU) of the others.

    `report` is what `check` has said of the file just now, so that it is not read twice. Torch files are mapped, not read.

    Nothing in the file is run: ``allow_pickle=False``, safetensors, ``weights_only=True`` after `check`. Dicts inside
    ("state_dict", "model") are flattened to the one with most tensors.
    """
    kind = (report or check(path)).kind
    try:
        return _LOADERS[kind](path)
    except ImportError as error:
        raise MissingExtraError(f"{path} needs {error.name}: pip install 'terralabel[torch]'.") from error
    except Exception as error:  # each library has errors of its own for a file whose index is sound and whose data are not
        raise WeightsError(
            f"{path}: cannot be loaded ({type(error).__name__}: {printable(error)[:200]}); fetch it again."
        ) from error


def _load_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


def _load_torch(path: Path) -> dict[str, Any]:
    import torch

    return _largest(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


_LOADERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "safetensors": _load_safetensors,
    "npz": _load_npz,
    "torch": _load_torch,
}


def _largest(state: Any) -> dict[str, Any]:
    """The dict of tensors inside a checkpoint that has most of them."""
    best: dict[str, Any] = {}
    waiting, seen = [state], set()
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, Mapping) and id(node) not in seen:
            seen.add(id(node))
            here = {str(key): value for key, value in node.items() if hasattr(value, "shape")}
            best = here if len(here) > len(best) else best
            waiting += node.values()
    return best


def compare_keys(
    found: Mapping[str, Any], wanted: Mapping[str, Any], what: str, verdict: str = "the weights are of another architecture"
) -> None:
    """Raise `WeightsError` naming the first differing keys unless `found` has every key of `wanted` in its shape.

    Values are shapes or anything with a `shape`.
    """

    def shape(value: Any) -> tuple[int, ...]:
        return tuple(getattr(value, "shape", value))

    missing = [key for key in wanted if key not in found]
    other = [key for key in wanted if key in found and shape(found[key]) != shape(wanted[key])]
    if not missing and not other:
        return
    extra = [key for key in found if key not in wanted]
    parts = (
        [f"missing {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")] if missing else []
    )
    parts += [f"{key} is {shape(found[key])}, expected {shape(wanted[key])}" for key in other[:3]]
    parts += [f"unknown {', '.join(extra[:3])}"] if extra else []
    raise WeightsError(f"{what}: {verdict}: {printable('; '.join(parts))}.")
