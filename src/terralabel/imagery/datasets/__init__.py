"""Labelled data sets: readers by name, and label files as class ids."""

from terralabel.imagery.datasets.opening import open_labelled
from terralabel.imagery.datasets.reading import read_label

__all__ = ["open_labelled", "read_label"]
