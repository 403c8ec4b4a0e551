"""One state, one step: the smallest problem with a gradient."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.mdp import FiniteMDP


def bandit(*, means=(1.0, 2.0, -0.5), spread=0.0):
    """A K-armed bandit: choose an arm, collect its reward, done.

    With `spread` an arm pays mean ± spread, each with probability ½.

    **Known answer.** For a softmax policy π with one logit θ_a per arm,
    J = Σ_a π_a r_a and ∂J/∂θ_a = π_a (r_a − J). The reward collected has
    variance Σ_a π_a (r_a² + spread²) − J².

    *Source*: Sutton & Barto, Reinforcement Learning, 2nd ed. (2018), §2.8,
    equation (2.12) and the box deriving it.

    Parameters
    ----------
    means : sequence of float, length A
        Mean reward of each arm.
    spread : float
        Half the distance between an arm's two rewards; 0 for one certain
        reward.

    Returns
    -------
    FiniteMDP
        One state, A actions, one outcome (two with a spread), γ = 1,
        horizon 1.

    Examples
    --------
    >>> bandit(means=[1.0, 3.0], spread=0.5).reward[0]
    array([[0.5, 1.5],
           [2.5, 3.5]])
    >>> mdp = bandit(means=[1.0, 3.0])
    >>> float(mdp.expected_reward[0] @ [0.25, 0.75])  # J of the policy (¼, ¾)
    2.5
    """
    means = arguments.real_array("means", means, ndim=1)
    if not means.size:
        raise ValueError("means is empty; pass the mean reward of at least one arm")
    spread = arguments.number("spread", spread, low=0.0)
    offsets = np.array([-spread, spread]) if spread else np.zeros(1)
    reward = (means[:, None] + offsets)[None]
    return FiniteMDP(
        probability=np.full(reward.shape, 1.0 / offsets.size),
        next_state=np.zeros(reward.shape, dtype=int),
        reward=reward,
        terminated=np.ones(reward.shape, dtype=bool),
        initial=np.ones(1),
        gamma=1.0,
        horizon=1,
    )
