"""Two states: enough for a robot, and for a plateau."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.examples.building import from_moves
from reinforce_np.mdp import FiniteMDP


def recycling_robot(
    *, alpha=0.75, beta=0.5, search_reward=2.0, wait_reward=1.0, rescue_reward=-3.0, gamma=0.9, horizon=None
):
    """The recycling robot: search for cans, wait for them, or recharge.

    State 0 is a high battery, 1 a low one; actions 0 = search, 1 = wait,
    2 = recharge. Searching pays `search_reward` and keeps a high battery high
    with probability `alpha`, a low one low with `beta`; otherwise a high
    battery becomes low, and a low one runs flat: the robot is carried home,
    high again, for `rescue_reward` instead. Waiting pays `wait_reward` and
    changes nothing. Recharging pays 0 and makes the battery high. It starts
    high.

    The book forbids recharging a high battery; every state of a `FiniteMDP`
    has all actions, so here it is allowed and wasted: it stays high, pays 0.

    **Known answer.** Searching when high and recharging when low has

        V(high) = search_reward / (1 − γα − γ²(1 − α)),   V(low) = γ V(high)

    and always waiting has V = wait_reward / (1 − γ) in both states.

    *Source*: Sutton & Barto, Reinforcement Learning, 2nd ed. (2018),
    Example 3.3 (its table leaves α, β and the rewards open and fixes the
    rescue at −3) and Example 3.9 (Bellman optimality equations).

    Parameters
    ----------
    alpha, beta : float
        Probabilities that searching leaves a high battery high, a low one low.
    search_reward, wait_reward, rescue_reward : float
        Rewards (cans).
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation; the book has none.

    Returns
    -------
    FiniteMDP
        2 states, 3 actions, 2 outcomes. No outcome terminates.

    Examples
    --------
    >>> recycling_robot().expected_reward
    array([[ 2. ,  1. ,  0. ],
           [-0.5,  1. ,  0. ]])
    """
    alpha = arguments.number("alpha", alpha, low=0.0, high=1.0, rule="a probability in [0, 1]")
    beta = arguments.number("beta", beta, low=0.0, high=1.0, rule="a probability in [0, 1]")
    high, low = 0, 1
    certain = [1.0, 0.0]
    search, wait = arguments.number("search_reward", search_reward), arguments.number("wait_reward", wait_reward)
    return FiniteMDP(
        probability=np.array([[[alpha, 1.0 - alpha], certain, certain], [[beta, 1.0 - beta], certain, certain]]),
        next_state=np.array([[[high, low], [high, high], [high, high]], [[low, high], [low, low], [high, high]]]),
        reward=np.array([[[search, search], [wait, wait], [0, 0]], [[search, rescue_reward], [wait, wait], [0, 0]]]),
        terminated=np.zeros((2, 3, 2), dtype=bool),
        initial=np.array([1.0, 0.0]),
        gamma=gamma,
        horizon=horizon,
    )


def kakade_two_state(*, gamma=0.9, horizon=None):
    """Kakade's two states: the gradient's plateau that the natural gradient avoids.

    In either state action 0 stays and action 1 goes to the other. Staying
    pays 1 in state 0 and 2 in state 1; going pays nothing. It starts in
    state 0 with probability 0.8.

    Staying in state 1 is best, but while state 1 is rarely visited the
    gradient of its parameters is small, and the policy first learns to stay
    in state 0.

    **Known answer.** With p and q the probabilities of staying in 0 and 1,
    the stationary distribution is (1 − q, 1 − p) / (2 − p − q), the average
    reward (p (1 − q) + 2 q (1 − p)) / (2 − p − q), and with
    d = (1 − γp)(1 − γq) − γ²(1 − p)(1 − q)

        V(0) = ((1 − γq) p + 2 γ (1 − p) q) / d
        V(1) = (2 (1 − γp) q + γ (1 − q) p) / d

    The stationary distribution is (0.8, 0.2) when 1 − q = 4 (1 − p). For a
    tabular softmax the natural gradient is the advantage function, up to a
    constant per state.

    *Source*: Kakade, "A Natural Policy Gradient", NIPS 14 (2001), the two-state
    MDP of the experiments, written down from memory. Its criterion is the
    average reward, hence a continuing task; the discount is ours.

    Parameters
    ----------
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation.

    Returns
    -------
    FiniteMDP
        2 states, 2 actions, 1 outcome. No outcome terminates.

    Examples
    --------
    >>> kakade_two_state().expected_reward
    array([[1., 0.],
           [2., 0.]])
    """
    return from_moves(
        [[0, 1], [1, 0]], reward=[[1.0, 0.0], [2.0, 0.0]], initial=[0.8, 0.2], gamma=gamma, horizon=horizon
    )
