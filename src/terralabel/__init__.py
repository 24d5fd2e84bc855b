"""TerraLabel: from unlabelled remote-sensing imagery to labels.

    import terralabel as tl
    run = tl.label("images/", "run", clusters=12)
    tl.export(run, ["geopackage"], "exported")

The public names load on first use: `import terralabel` loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terralabel.errors import TerraLabelError
    from terralabel.recipes.curate import align_run as align
    from terralabel.recipes.curate import change_clusters as clusters
    from terralabel.recipes.curate import import_file as import_corrections
    from terralabel.recipes.evaluation import evaluate_labels
    from terralabel.recipes.label import label
    from terralabel.recipes.run import Run, open_run
    from terralabel.recipes.run import export_run as export
    from terralabel.recipes.run import report_run as report
    from terralabel.recipes.settings import LabelSettings

#: public name -> module:attribute
_PUBLIC = {
    "LabelSettings": "terralabel.recipes.settings:LabelSettings",
    "Run": "terralabel.recipes.run:Run",
    "TerraLabelError": "terralabel.errors:TerraLabelError",
    "align": "terralabel.recipes.curate:align_run",
    "clusters": "terralabel.recipes.curate:change_clusters",
    "evaluate_labels": "terralabel.recipes.evaluation:evaluate_labels",
    "export": "terralabel.recipes.run:export_run",
    "import_corrections": "terralabel.recipes.curate:import_file",
    "label": "terralabel.recipes.label:label",
    "open_run": "terralabel.recipes.run:open_run",
    "report": "terralabel.recipes.run:report_run",
}

__all__ = [
    "LabelSettings",
    "Run",
    "TerraLabelError",
    "align",
    "clusters",
    "evaluate_labels",
    "export",
    "import_corrections",
    "label",
    "open_run",
    "report",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'terralabel' has no attribute {name!r}; public names: {', '.join(__all__)}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
