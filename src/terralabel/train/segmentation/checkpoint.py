"""Checkpoints: a network's tensors and an optimizer's as safetensors, and one JSON file that says what they are.

FOLDER/
  step-00000200.safetensors             the network
  step-00000200.optimizer.safetensors   what is needed to go on; only beside the last one
  step-00000200.json                    written last: with it the checkpoint is whole; sha256 of both
  last.json, best.json                  which one that is

Nothing in them is run when they are read: safetensors hold numbers, JSON holds text. The network's file carries the same
record in its header, so that it can be moved about alone.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from terralabel.core.classes import Classes
from terralabel.core.files import atomic_path, disk_full, write_text
from terralabel.errors import TerraLabelError, WeightsError
from terralabel.imagery.radiometry import Radiometry
from terralabel.nets.checkpoints import check, file_sha256, read_state

__all__ = ["FORMAT", "Checkpoint", "load_optimizer", "mark", "marked", "open_checkpoint", "prune", "save_checkpoint"]

#: Version of the record; another one is refused, never reinterpreted.
FORMAT = 1
_KIND = "terralabel segmentation network"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. `path` is its network file; `record` what its JSON says.

    Keys of the record: "network" (name, bands, classes, auxiliary), "classes" (the class map), "radiometry", "mean", "std",
    "step", "steps", "settings", "measures" (of the val split, if there is one), "best" (step and mIoU), "files".
    """

    path: Path
    record: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Batches it has learned from."""
        return int(self.record["step"])

    @property
    def classes(self) -> Classes:
        """What its outputs mean: output i is the i-th class."""
        return Classes.from_json(json.dumps(self.record["classes"]))

    @property
    def radiometry(self) -> Radiometry:
        """How stored values become its input."""
        return Radiometry.from_json(json.dumps(self.record["radiometry"]))

    @property
    def sha256(self) -> str:
        """Of the network's file."""
        return str(self.record["files"]["network"]["sha256"])

    def weights(self) -> dict[str, Any]:
        """The network's tensors, after comparing the file's sha256; raises `WeightsError`."""
        return read_state(self.path, check(self.path, self.sha256))

    def optimizer_tensors(self) -> dict[str, Any]:
        """What `load_optimizer` takes, after comparing the file's sha256; raises `WeightsError`."""
        entry = self.record["files"].get("optimizer")
        if entry is None:
            raise WeightsError(f"{self.path}: saved without its optimizer; training can only go on from the last checkpoint.")
        path = self.path.with_name(entry["name"])
        return read_state(path, check(path, entry["sha256"]))


def save_checkpoint(folder: Path, network: Mapping[str, Tensor], optimizer: Optimizer, record: Mapping[str, Any]) -> Checkpoint:
    """Write a checkpoint of record["step"] into a folder; it is there when its JSON is.

    Raises `SpaceError` on a full disk; what was written of it is removed, and earlier checkpoints are as they were.
    """
    stem = f"step-{record['step']:08d}"
    path, beside = folder / f"{stem}.safetensors", folder / f"{stem}.optimizer.safetensors"
    whole = {"kind": _KIND, "format": FORMAT, **record}
    note = folder / f"{stem}.json"
    try:
        files = {
            "network": _write(path, network, json.dumps(whole)),
            "optimizer": _write(beside, _flat(optimizer), json.dumps({"kind": "optimizer", "step": record["step"]})),
        }
        whole["files"] = files
        write_text(note, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    except BaseException:
        if not note.exists():
            for file in (path, beside):
                file.unlink(missing_ok=True)
        raise
    return Checkpoint(path, whole)


def _write(path: Path, tensors: Mapping[str, Tensor], note: str) -> dict[str, Any]:
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    needed = sum(value.numel() * value.element_size() for value in plain.values()) + len(note) + 200 * len(plain)
    with atomic_path(path, needed) as temporary:
        try:
            save_file(plain, temporary, {"record": note})
        except SafetensorError as error:  # the library wraps the system's error into a text
            if f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error):
                raise disk_full(path, needed) from error
            raise
        temporary.chmod(0o666 & ~_umask())  # the library writes files that nobody else may read
        return {"name": path.name, "sha256": file_sha256(temporary), "bytes": temporary.stat().st_size}


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _flat(optimizer: Optimizer) -> dict[str, Tensor]:
    """ "3.exp_avg" and so on: the state of the fourth parameter in the order of the groups."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, held in state.items() for key, value in held.items() if isinstance(value, Tensor)}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer over the same parameters the state that was saved; its groups' settings stay."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def mark(folder: Path, name: str, checkpoint: Checkpoint) -> None:
    """Make a checkpoint the folder's "last" or "best"."""
    write_text(folder / f"{name}.json", json.dumps({"checkpoint": checkpoint.path.stem}) + "\n")


def marked(folder: Path, name: str) -> str | None:
    """The stem of the folder's "last" or "best" checkpoint, if there is one."""
    try:
        return str(json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["checkpoint"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder / name}.json is damaged ({error}): it should name a checkpoint of the folder.") from error


def prune(folder: Path) -> None:
    """Keep the last checkpoint and the best one, the latter without its optimizer."""
    last, best = marked(folder, "last"), marked(folder, "best")
    for path in sorted(folder.glob("step-*")):
        stem = path.name.partition(".")[0]
        if stem == last or (stem == best and not path.name.endswith(".optimizer.safetensors")):
            continue
        path.unlink(missing_ok=True)


def open_checkpoint(path: str | Path, which: str | None = None) -> Checkpoint:
    """A checkpoint by a training's folder (its best one, else its last; or `which`), its JSON or its safetensors file.

    Raises `WeightsError` for what is none: it says what the file is, and what was expected. The tensors are not read yet.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path, which)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file: expected the folder of a training, or a checkpoint in it.")
    if path.name in ("last.json", "best.json"):
        return _of_folder(path.parent, path.stem)
    if path.suffix == ".json":
        return _checked(path.with_suffix(".safetensors"), _json(path, path.read_text(encoding="utf-8", errors="replace")))
    beside = path.with_suffix(".json")
    if path.suffix == ".safetensors" and beside.is_file():
        return _checked(path, _json(beside, beside.read_text(encoding="utf-8", errors="replace")))
    report = check(path)
    record = _header(path) if report.kind == "safetensors" else None
    if record is None:
        raise WeightsError(
            f"{path}: {report.architecture}; expected a checkpoint of `terralabel pretrain` or `finetune`."
            " Weights of other programs can start a training: --from FILE --load backbone."
        )
    return _checked(path, {**record, "files": {"network": {"name": path.name, "sha256": report.sha256}}})


def _of_folder(folder: Path, which: str | None) -> Checkpoint:
    for name in [which] if which else ["best", "last"]:
        stem = marked(folder, name)
        if stem is not None:
            return open_checkpoint(folder / f"{stem}.json")
    raise WeightsError(
        f"{folder} holds no {which or 'finished'} checkpoint: expected the folder of a `pretrain` or `finetune`."
    )


def _header(path: Path) -> dict[str, Any] | None:
    """The record in a network file's header."""
    with safe_open(path, "pt") as handle:
        text = (handle.metadata() or {}).get("record")
    return None if text is None else _json(path, text)


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("kind") != _KIND:
            raise ValueError("it is no record of a checkpoint")
    except ValueError as error:
        raise WeightsError(f"{path}: {error}: expected a checkpoint of `terralabel pretrain` or `finetune`.") from error
    if record.get("format") != FORMAT:
        raise WeightsError(f"{path} has checkpoint format {record.get('format')}, this TerraLabel reads {FORMAT}: update it.")
    return record


def _checked(path: Path, record: dict[str, Any]) -> Checkpoint:
    """The checkpoint, after making sure that everything it is asked for is there."""
    checkpoint = Checkpoint(path, record)
    try:
        network = record["network"]
        checkpoint.step, checkpoint.sha256, checkpoint.radiometry, str(network["name"])
        if len(checkpoint.classes) != int(network["classes"]) or checkpoint.radiometry.count != int(network["bands"]):
            raise ValueError("classes or bands contradict one another")
        if len(record["mean"]) != len(record["std"]):
            raise ValueError("mean and std contradict one another")
    except (KeyError, TypeError, ValueError, TerraLabelError) as error:
        raise WeightsError(f"{path}: the checkpoint's record is damaged ({error}): use an earlier one.") from error
    if not path.is_file():
        raise WeightsError(f"{path} is missing beside its JSON: copy both, or use another checkpoint.")
    return checkpoint
