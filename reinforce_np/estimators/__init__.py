"""Policy-gradient estimators: choices of the weight on the score."""

from reinforce_np.estimators import algorithms
from reinforce_np.estimators.advantages import RewardToGo, TotalReturn
from reinforce_np.estimators.estimator import Estimator
from reinforce_np.estimators.returns import returns, rewards_to_go

__all__ = ["Estimator", "RewardToGo", "TotalReturn", "algorithms", "returns", "rewards_to_go"]
