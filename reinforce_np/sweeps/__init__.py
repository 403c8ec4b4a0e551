"""Tables of exact bias and variance, as one thing is varied and the rest held fixed.

Every sweep is a pure function of a problem and of the values to try; it draws
nothing. The pictures are in `reinforce_np.plots`.
"""

from reinforce_np.sweeps.groups import over_group_size, over_group_size_of_verifier, verifier
from reinforce_np.sweeps.off_policy import mixed_with_uniform, over_behaviour, over_horizon, trajectory_divergence
from reinforce_np.sweeps.on_policy import over_baseline, over_batch, over_gamma, over_lambda
from reinforce_np.sweeps.table import Row, Sweep

__all__ = [
    "Row",
    "Sweep",
    "mixed_with_uniform",
    "over_baseline",
    "over_batch",
    "over_behaviour",
    "over_gamma",
    "over_group_size",
    "over_group_size_of_verifier",
    "over_horizon",
    "over_lambda",
    "trajectory_divergence",
    "verifier",
]
