"""Gaussian clusters under a normal-inverse-Wishart prior: sufficient statistics, evidence, densities.

The data's mean is the origin (the scaling takes it off), so the prior's mean is 0. Source of the prior's values and of
the tests that use the evidence: DeepDPM (Ronen, Finder and Freifeld 2022), after Chang and Fisher 2013.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Prior", "Statistics"]


@dataclass(frozen=True)
class Statistics:
    """Of k groups of vectors: count (k,), sum (k, d) and second moments about 0 (k, d, d), all float64."""

    count: np.ndarray
    total: np.ndarray
    second: np.ndarray

    @classmethod
    def zeros(cls, groups: int, width: int) -> Statistics:
        """Of no vectors."""
        return cls(np.zeros(groups), np.zeros((groups, width)), np.zeros((groups, width, width)))

    @classmethod
    def of(cls, features: np.ndarray, weights: np.ndarray, ids: np.ndarray, groups: int) -> Statistics:
        """Of (m, d) float64 vectors with (m,) weights in the groups `ids`."""
        made = cls.zeros(groups, features.shape[1])
        order = np.argsort(ids, kind="stable")
        edges = np.searchsorted(ids[order], np.arange(groups + 1))
        for group in np.flatnonzero(np.diff(edges)).tolist():
            members = order[edges[group] : edges[group + 1]]
            weighted = features[members] * weights[members, None]
            made.count[group] = weights[members].sum()
            made.total[group] = weighted.sum(axis=0)
            made.second[group] = weighted.T @ features[members]
        return made

    @classmethod
    def joined(cls, parts: list[Statistics]) -> Statistics:
        """The groups of all parts, one after another."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("count", "total", "second")))

    def times(self, factor: float) -> Statistics:
        """As if every vector weighed `factor` times as much."""
        return Statistics(self.count * factor, self.total * factor, self.second * factor)

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.count + other.count, self.total + other.total, self.second + other.second)

    def __getitem__(self, groups: np.ndarray | slice) -> Statistics:
        return Statistics(self.count[groups], self.total[groups], self.second[groups])

    @property
    def means(self) -> np.ndarray:
        """(k, d)."""
        return self.total / np.maximum(self.count, 1e-300)[:, None]


@dataclass(frozen=True)
class Prior:
    """Normal-inverse-Wishart: `kappa` (weight of the mean), `nu` = d + 2 degrees of freedom, scale matrix `nu psi I`.

    DeepDPM's code keeps the scale matrix divided by nu, so its .005 I stands for nu times as much; here, too.
    """

    width: int
    kappa: float = 1e-4
    psi: float = 0.005

    @property
    def nu(self) -> float:
        """Degrees of freedom: the least whole number above d + 1, so that the expected covariance exists."""
        return self.width + 2.0

    @property
    def scale(self) -> float:
        """The diagonal of the scale matrix."""
        return self.nu * self.psi

    def _posterior(self, groups: Statistics) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """kappa_n (k,), nu_n (k,), mean (k, d) and scale matrix (k, d, d)."""
        kappa, nu = self.kappa + groups.count, self.nu + groups.count
        mean = groups.total / kappa[:, None]
        scale = groups.second - kappa[:, None, None] * mean[:, :, None] * mean[:, None, :]
        scale = 0.5 * (scale + scale.transpose(0, 2, 1)) + self.scale * np.eye(self.width)
        return kappa, nu, mean, scale

    def evidence(self, groups: Statistics) -> np.ndarray:
        """(k,): the log marginal likelihood of each group's vectors; 0 for an empty group."""
        from scipy.special import multigammaln

        kappa, nu, _, scale = self._posterior(groups)
        d = self.width
        return (
            -0.5 * groups.count * d * np.log(np.pi)
            + multigammaln(0.5 * nu, d)
            - multigammaln(0.5 * self.nu, d)
            + 0.5 * self.nu * d * np.log(self.scale)
            - 0.5 * nu * np.linalg.slogdet(scale)[1]
            + 0.5 * d * (np.log(self.kappa) - np.log(kappa))
        )

    def gaussians(self, groups: Statistics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The expected Gaussian of each group: means (k, d), whiteners (k, d, d) and log normalisers (k,).

        `log N(x) = log_normaliser - |(x - mean) @ whitener|^2 / 2`.
        """
        _, nu, mean, scale = self._posterior(groups)
        covariance = scale / (nu - self.width - 1)[:, None, None]
        lower = np.linalg.cholesky(covariance)
        whiteners = np.linalg.inv(lower).transpose(0, 2, 1)
        normaliser = -0.5 * self.width * np.log(2 * np.pi) - np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
        return mean, np.ascontiguousarray(whiteners), normaliser
