"""What `terralabel doctor` looks at."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["checkup"]

_CORE = (
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "opencv-python-headless",
    "rasterio",
    "pyarrow",
    "pyogrio",
    "shapely",
    "pyproj",
    "higra",
    "PIL:pillow",
)
_EXTRA = ("onnxruntime", "torch", "torchvision", "timm", "transformers", "safetensors", "geopandas", "pycocotools")
_MODULES = {"scikit-learn": "sklearn", "scikit-image": "skimage", "opencv-python-headless": "cv2"}


def checkup() -> tuple[str, bool]:
    """(text for a person, healthy): healthy is False when labelling cannot work here."""
    lines: list[str] = []
    healthy = True
    for check in (_machine, _core_packages, _drivers, _cache, _extras):
        good, found = check()
        healthy &= good
        lines += found
    lines.append("ready" if healthy else "not ready: mend the lines marked with x")
    return "\n".join(lines), healthy


def _line(good: bool, text: str) -> str:
    return f"{'ok' if good else 'x '}  {text}"


def _machine() -> tuple[bool, list[str]]:
    import psutil

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    supported = sys.version_info >= (3, 11)
    return supported, [
        _line(
            supported, f"Python {platform.python_version()} on {platform.system()} {platform.machine()} (3.11 or newer needed)"
        ),
        _line(
            True,
            f"{cores} cores, {memory.total / 1e9:.0f} GB memory ({memory.available / 1e9:.0f} free), {disk.free / 1e9:.0f} GB free in this folder",
        ),
    ]


def _core_packages() -> tuple[bool, list[str]]:
    found, good = [], True
    for entry in _CORE:
        module, _, package = entry.rpartition(":")
        try:
            importlib.import_module(module or _MODULES.get(package, package))
            found.append(f"{package} {version(package)}")
        except (ImportError, PackageNotFoundError, OSError) as error:
            good = False
            found.append(f"{package} MISSING ({error}): pip install {package}")
    return good, [_line(good, ", ".join(found))]


def _drivers() -> tuple[bool, list[str]]:
    try:
        import rasterio
        from rasterio.drivers import raster_driver_extensions

        drivers = set(raster_driver_extensions().values())
        wanted: list[tuple[str, Callable[[], bool]]] = [
            ("GTiff", lambda: "GTiff" in drivers),
            ("PNG", lambda: "PNG" in drivers),
            ("JPEG", lambda: "JPEG" in drivers),
            ("JP2OpenJPEG", lambda: "JP2OpenJPEG" in drivers),
        ]
        have = [name for name, test in wanted if test()]
        return "GTiff" in have, [_line(len(have) == len(wanted), f"GDAL {rasterio.__gdal_version__} reads {', '.join(have)}")]
    except ImportError as error:
        return False, [_line(False, f"rasterio does not load: {error}")]


def _cache() -> tuple[bool, list[str]]:
    from terralabel.nets.weights import cache_folder

    folder = cache_folder()
    return True, [
        _line(
            True, f"weights cache {folder} ({'there' if folder.is_dir() else 'not made yet'}); set TERRALABEL_CACHE to move it"
        )
    ]


def _extras() -> tuple[bool, list[str]]:
    have = []
    for package in _EXTRA:
        try:
            have.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    missing = [p for p in _EXTRA if not any(h.startswith(p + " ") for h in have)]
    lines = [
        _line(
            True, f"optional: {', '.join(have) or 'none installed'}" + (f"; not here: {', '.join(missing)}" if missing else "")
        )
    ]
    lines.append(_line(True, _nano()))
    if any(h.startswith("torch ") for h in have):
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        lines.append(_line(True, f"torch sees {', '.join(devices) if devices else 'no GPU; networks run on the CPU'}"))
        lines.append(_line(True, f"precision: fp32; bf16 {_bf16(bool(devices))}"))
    return True, lines


def _nano() -> str:
    """What `label --masks nano` will be computed by."""
    from terralabel.nets.nano.runtime import who_computes

    by = who_computes()
    return f"masks nano by {by}" if by else "masks nano not here: pip install 'terralabel[nano]'"


def _bf16(gpu: bool) -> str:
    """Whether bf16 (`label --precision bf16`) is fast here."""
    import torch

    if gpu:
        capability = torch.cuda.get_device_capability()
        return (
            "fast on this GPU"
            if capability >= (8, 0)
            else f"slow on this GPU (compute capability {capability[0]}.{capability[1]})"
        )
    features = torch.backends.cpu.get_cpu_capability()
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    fast = sorted(flags & {"amx_bf16", "avx512_bf16", "bf16"})
    return f"{'fast' if fast else 'works, but is not faster'} on this CPU ({', '.join([features, *fast])})"
