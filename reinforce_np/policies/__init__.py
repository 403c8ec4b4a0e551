"""Policies with hand-written scores: π(a|s), ∇log π(a|s), and contractions of it."""

from reinforce_np.policies.gaussian import GaussianPolicy
from reinforce_np.policies.linear import LinearSoftmax
from reinforce_np.policies.neural import NeuralSoftmax
from reinforce_np.policies.observed import FeatureSoftmax
from reinforce_np.policies.tabular import TabularSoftmax

__all__ = ["FeatureSoftmax", "GaussianPolicy", "LinearSoftmax", "NeuralSoftmax", "TabularSoftmax"]
