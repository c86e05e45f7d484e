"""Linear probes: what can be read out of a representation. For RL tokens against their mean-pooled control."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def probe_r2(features: Tensor, targets: Tensor, train: Tensor, test: Tensor, *, ridge: float = 1e-2) -> float:
    """Explained variance of real-valued targets on held-out rows, averaged over target columns.

    features (n, f), targets (n,) or (n, k), train and test: row indices. Split by episode or session, never by frame:
    neighbouring frames share everything. 1 is perfect, 0 the mean of the training rows, negative is worse than that.
    """
    y = targets.double().reshape(len(targets), -1)
    error = (_ridge(features, y, train, test, ridge) - y[test]).square().mean(0)  # (k,)
    spread = (y[train].mean(0) - y[test]).square().mean(0)  # (k,)
    return float((1 - error / spread).mean())


def probe_accuracy(features: Tensor, labels: Tensor, train: Tensor, test: Tensor, *, ridge: float = 1e-2) -> float:
    """Share of held-out rows whose class is read out right. labels: (n,) integer or bool."""
    y = one_hot(labels.long()).double()
    return float((_ridge(features, y, train, test, ridge).argmax(-1) == labels[test].long()).double().mean())


def _ridge(features: Tensor, y: Tensor, train: Tensor, test: Tensor, ridge: float) -> Tensor:
    """Predictions (n_test, k) of a ridge regression on features standardised over the training rows; `ridge` is per
    training row."""
    f = features.double()
    mean, std = f[train].mean(0), f[train].std(0, correction=0)
    f = (f - mean) / torch.where(std > 0, std, 1.0)
    offset = y[train].mean(0)
    x = f[train]
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return f[test] @ torch.linalg.solve(gram, x.T @ (y[train] - offset)) + offset
