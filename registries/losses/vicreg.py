"""VICReg's loss."""

from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("vicreg")
class VICReg:
    """Two views agree (`invariance`), every feature varies over the batch (`variance`), no two vary alike (`covariance`).

    Variance and covariance are those of the whole batch, the same for every image of it.
    """

    version = 1
    expects = "features"
    whole_batch = True

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        if min(invariance, variance, covariance) < 0:
            raise ValueError(f"the weights must be at least 0, not {invariance}, {variance} and {covariance}.")
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def __call__(self, predictions: Tensor, targets: Tensor, mine: slice) -> Tensor:
        distance = (predictions[mine] - targets[mine]).square().mean(-1)
        spread = (_too_narrow(predictions) + _too_narrow(targets)) / 2
        return (
            self.invariance * distance
            + self.variance * spread
            + self.covariance * (_shared(predictions) + _shared(targets))
        )


def _too_narrow(x: Tensor) -> Tensor:
    """How much the deviation of each feature falls short of 1, on average."""
    return (1 - (x.var(0) + 1e-4).sqrt()).clamp(min=0).mean()


def _shared(x: Tensor) -> Tensor:
    """The squared covariances of different features, per feature."""
    covariances = x.T.cov()
    return (covariances.square().sum() - covariances.diagonal().square().sum()) / x.shape[1]
