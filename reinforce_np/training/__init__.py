"""Sample, score, update, repeat: the loop, and what it is made of."""

from reinforce_np.training import critics, optimisers, schedules
from reinforce_np.training.checkpoints import Checkpoint
from reinforce_np.training.clouds import Cloud, clouds
from reinforce_np.training.critics import LeastSquares, TemporalDifference
from reinforce_np.training.history import History
from reinforce_np.training.loop import Evaluation, Training, train
from reinforce_np.training.optimisers import (
    SGD,
    Adam,
    Momentum,
    NaturalGradient,
    RMSProp,
    clipped,
    estimated_fisher,
    exact_fisher,
)
from reinforce_np.training.paths import ascend, exact_path
from reinforce_np.training.schedules import Exponential, InverseTime, Linear
from reinforce_np.training.updates import Update

__all__ = [
    "SGD",
    "Adam",
    "Checkpoint",
    "Cloud",
    "Evaluation",
    "Exponential",
    "History",
    "InverseTime",
    "LeastSquares",
    "Linear",
    "Momentum",
    "NaturalGradient",
    "RMSProp",
    "TemporalDifference",
    "Training",
    "Update",
    "ascend",
    "clipped",
    "clouds",
    "critics",
    "estimated_fisher",
    "exact_fisher",
    "exact_path",
    "optimisers",
    "schedules",
    "train",
]
