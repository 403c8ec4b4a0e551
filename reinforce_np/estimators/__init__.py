"""Policy-gradient estimators: choices of the weight on the score.

estimator      the one formula, with its four slots
advantages     what an action is credited with; so are `baselines` and `groups`
ratios         importance corrections
penalties      KL penalties and entropy bonuses
normalisers    what the weights are divided by
algorithms     estimators with a name, as fillings of the slots
batch          what the slots look at
returns        the two sums every advantage starts from
packed, each   short cuts for reward-to-go: the gradient of a sampled batch, and that of each trajectory
"""

from reinforce_np.estimators import algorithms
from reinforce_np.estimators.advantages import GAE, NStep, RewardToGo, TotalReturn
from reinforce_np.estimators.baselines import (
    ActionDependent,
    InSampleOptimal,
    PerComponent,
    fit_optimal_baseline,
    fit_state_baseline,
)
from reinforce_np.estimators.estimator import Estimator
from reinforce_np.estimators.groups import BatchStandardised, GroupMean, GroupStandardised, LeaveOneOut
from reinforce_np.estimators.normalisers import Constant, PerLength, PerToken, PerTrajectory
from reinforce_np.estimators.penalties import EntropyBonus, KLPenalty
from reinforce_np.estimators.ratios import (
    ClippedRatio,
    GeometricMeanRatio,
    MaskedRatio,
    OnPolicy,
    PerDecisionRatio,
    SelfNormalisedRatio,
    TokenRatio,
    TrajectoryRatio,
    TruncatedRatio,
    VTrace,
)
from reinforce_np.estimators.returns import returns, rewards_to_go

__all__ = [
    "GAE",
    "ActionDependent",
    "BatchStandardised",
    "ClippedRatio",
    "Constant",
    "EntropyBonus",
    "Estimator",
    "GeometricMeanRatio",
    "GroupMean",
    "GroupStandardised",
    "InSampleOptimal",
    "KLPenalty",
    "LeaveOneOut",
    "MaskedRatio",
    "NStep",
    "OnPolicy",
    "PerComponent",
    "PerDecisionRatio",
    "PerLength",
    "PerToken",
    "PerTrajectory",
    "RewardToGo",
    "SelfNormalisedRatio",
    "TokenRatio",
    "TotalReturn",
    "TrajectoryRatio",
    "TruncatedRatio",
    "VTrace",
    "algorithms",
    "fit_optimal_baseline",
    "fit_state_baseline",
    "returns",
    "rewards_to_go",
]
