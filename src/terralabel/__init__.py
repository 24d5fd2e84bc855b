"""TerraLabel: from unlabelled remote-sensing imagery to labels.

    import terralabel as tl
    run = tl.label("images/", "run", clusters=12)
    tl.export_run(run, ["geopackage"], "exported")

The public names load on first use: `import terralabel` loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terralabel.errors import TerraLabelError
    from terralabel.imagery.datasets.opening import open_labelled
    from terralabel.recipes.annotate.apply import annotate_apply
    from terralabel.recipes.annotate.enhance import enhance
    from terralabel.recipes.annotate.fit import annotate_fit
    from terralabel.recipes.curate import align_run, change_clusters, import_file
    from terralabel.recipes.detected import detect_label
    from terralabel.recipes.drawn.labels import drawn_labels
    from terralabel.recipes.evaluation import evaluate_labels, evaluate_segmentation
    from terralabel.recipes.experiment.grid import run_experiment
    from terralabel.recipes.finetune import finetune
    from terralabel.recipes.label import label
    from terralabel.recipes.predict import predict
    from terralabel.recipes.pretrain import pretrain
    from terralabel.recipes.quality.recipe import quality_fit, quality_score
    from terralabel.recipes.quality.settings import QualitySettings
    from terralabel.recipes.refer.evaluation import evaluate_referring
    from terralabel.recipes.refer.fit import refer_fit
    from terralabel.recipes.refer.fit_decoder import refer_fit_decoder
    from terralabel.recipes.refer.recipe import refer
    from terralabel.recipes.refer.settings import ReferSettings
    from terralabel.recipes.run import Run, export_run, open_run, report_run
    from terralabel.recipes.settings import LabelSettings
    from terralabel.train.annotation.settings import AnnotateSettings, ApplySettings, EnhanceSettings
    from terralabel.train.segmentation.settings import PredictSettings, TrainSettings

#: public name -> its module. No name may be that of a room (`export`, `clusters`): Python puts the room there once loaded.
_PUBLIC = {
    "AnnotateSettings": "terralabel.train.annotation.settings",
    "ApplySettings": "terralabel.train.annotation.settings",
    "EnhanceSettings": "terralabel.train.annotation.settings",
    "LabelSettings": "terralabel.recipes.settings",
    "PredictSettings": "terralabel.train.segmentation.settings",
    "QualitySettings": "terralabel.recipes.quality.settings",
    "ReferSettings": "terralabel.recipes.refer.settings",
    "Run": "terralabel.recipes.run",
    "TerraLabelError": "terralabel.errors",
    "TrainSettings": "terralabel.train.segmentation.settings",
    "align_run": "terralabel.recipes.curate",
    "annotate_apply": "terralabel.recipes.annotate.apply",
    "annotate_fit": "terralabel.recipes.annotate.fit",
    "change_clusters": "terralabel.recipes.curate",
    "detect_label": "terralabel.recipes.detected",
    "drawn_labels": "terralabel.recipes.drawn.labels",
    "enhance": "terralabel.recipes.annotate.enhance",
    "evaluate_labels": "terralabel.recipes.evaluation",
    "evaluate_referring": "terralabel.recipes.refer.evaluation",
    "evaluate_segmentation": "terralabel.recipes.evaluation",
    "export_run": "terralabel.recipes.run",
    "finetune": "terralabel.recipes.finetune",
    "import_file": "terralabel.recipes.curate",
    "label": "terralabel.recipes.label",
    "open_labelled": "terralabel.imagery.datasets.opening",
    "open_run": "terralabel.recipes.run",
    "predict": "terralabel.recipes.predict",
    "pretrain": "terralabel.recipes.pretrain",
    "quality_fit": "terralabel.recipes.quality.recipe",
    "quality_score": "terralabel.recipes.quality.recipe",
    "refer": "terralabel.recipes.refer.recipe",
    "refer_fit": "terralabel.recipes.refer.fit",
    "refer_fit_decoder": "terralabel.recipes.refer.fit_decoder",
    "report_run": "terralabel.recipes.run",
    "run_experiment": "terralabel.recipes.experiment.grid",
}

__all__ = [
    "AnnotateSettings",
    "ApplySettings",
    "EnhanceSettings",
    "LabelSettings",
    "PredictSettings",
    "QualitySettings",
    "ReferSettings",
    "Run",
    "TerraLabelError",
    "TrainSettings",
    "align_run",
    "annotate_apply",
    "annotate_fit",
    "change_clusters",
    "detect_label",
    "drawn_labels",
    "enhance",
    "evaluate_labels",
    "evaluate_referring",
    "evaluate_segmentation",
    "export_run",
    "finetune",
    "import_file",
    "label",
    "open_labelled",
    "open_run",
    "predict",
    "pretrain",
    "quality_fit",
    "quality_score",
    "refer",
    "refer_fit",
    "refer_fit_decoder",
    "report_run",
    "run_experiment",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'terralabel' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
