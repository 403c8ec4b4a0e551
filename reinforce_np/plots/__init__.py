"""Pictures, drawn with matplotlib (the extra `plots`).

Every function takes what is drawn and optionally the Axes to draw on, and
returns the Axes; nothing is shown or saved.
"""

from reinforce_np.plots.drawing import PICTURES, image, matplotlib_figure
from reinforce_np.plots.sweeps import (
    over_baseline,
    over_batch,
    over_behaviour,
    over_gamma,
    over_group_size,
    over_horizon,
    over_lambda,
)
from reinforce_np.plots.training import estimate_cloud, landscape, learning_curves

__all__ = [
    "PICTURES",
    "estimate_cloud",
    "image",
    "landscape",
    "learning_curves",
    "matplotlib_figure",
    "over_baseline",
    "over_batch",
    "over_behaviour",
    "over_gamma",
    "over_group_size",
    "over_horizon",
    "over_lambda",
]
