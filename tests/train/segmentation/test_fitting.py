"""Classifiers fitted before the first step: what they know, what stays as it was, what cannot be fitted."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from terralabel.core.labelled import LabelledSet  # noqa: E402
from terralabel.imagery.radiometry import Radiometry  # noqa: E402
from terralabel.nets.segmentation.building import build  # noqa: E402
from terralabel.nets.segmentation.network import Network  # noqa: E402
from terralabel.runs.progress import Silent  # noqa: E402
from terralabel.train.segmentation.augment import Augmentation  # noqa: E402
from terralabel.train.segmentation.fitting import fit_classifiers  # noqa: E402
from terralabel.train.segmentation.inference import as_input  # noqa: E402
from terralabel.train.segmentation.samples import Reader, Samples  # noqa: E402
from terralabel.train.segmentation.survey import survey  # noqa: E402

#: Under half a million parameters; made for tests by timm.
TINY = "timm:test_resnet:fcn"
CPU = torch.device("cpu")


@pytest.fixture
def samples(labelled: LabelledSet, radiometry: Radiometry) -> Samples:
    sizes = survey(labelled, radiometry, Silent()).sizes
    return Samples(Reader(labelled, radiometry), sizes, Augmentation(64), 0, 4)


@pytest.fixture
def network(labelled: LabelledSet) -> Network:
    return build(TINY, len(labelled.classes), seed=0)


@torch.no_grad()
def loss(network: Network, samples: Samples) -> float:
    """Of crops that nothing was fitted to."""
    batch = samples.batch(40, range(4))
    network.eval()
    logits = network(as_input(network, batch.pixels, CPU))
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels).long(), ignore_index=255))


def test_a_fitted_classifier_knows_crops_it_has_not_seen(network: Network, samples: Samples) -> None:
    before, state = loss(network, samples), {key: value.clone() for key, value in network.state_dict().items()}
    found = fit_classifiers(network, samples, CPU)
    assert found is not None
    assert set(found.accuracy) == {"head", "auxiliary"}
    assert "labelled cells" in str(found)
    assert loss(network, samples) < 0.8 * before
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, state[key])}
    assert changed == {f"{part}.classifier.logits.{name}" for part in found.accuracy for name in ("weight", "bias")}


def test_it_is_the_same_again(labelled: LabelledSet, samples: Samples) -> None:
    one, two = (build(TINY, len(labelled.classes), seed=0) for _ in range(2))
    fit_classifiers(one, samples, CPU)
    samples.batch(3, range(4))  # another history
    fit_classifiers(two, samples, CPU)
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


def test_tokens_of_a_mask_transformer_are_left(labelled: LabelledSet, samples: Samples) -> None:
    network = build("segmenter-vit-ti", len(labelled.classes), seed=0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert fit_classifiers(network, samples, CPU) is None
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
