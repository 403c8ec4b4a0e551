"""Where trajectories come from: a finite model, an environment that can only be stepped, or any sampler.

    source.draw(theta, n, rng=)  →  Draw(trajectories, mdp, policy)

and then ``estimator.gradient(draw.trajectories, draw.mdp, draw.policy, theta)``, whatever the source.
"""

from reinforce_np.environments.draws import Draw, ModelSource, Steps
from reinforce_np.environments.rollouts import RolloutSource, Truncated
from reinforce_np.environments.stepped import EnvironmentSource

__all__ = ["Draw", "EnvironmentSource", "ModelSource", "RolloutSource", "Steps", "Truncated"]
