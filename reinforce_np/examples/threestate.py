"""Three states: the first policy-gradient experiment, and an exercise in leaving."""

import numpy as np

from reinforce_np.examples.building import start_at
from reinforce_np.mdp import FiniteMDP


def baxter_bartlett(*, gamma=0.9, horizon=None):
    """The three-state MDP of Baxter, Bartlett and Weaver.

    States A, B, C = 0, 1, 2. From A one moves to B or C, from B to A or C,
    from C to B or C itself; action 1 goes to C with probability 0.8, action 0
    with 0.2, and to the other one otherwise. *Being* in C is worth 1; here
    that is paid on entering C. The start is uniform.

    **Known answer.** Always action 1 is optimal. Every state then goes to C
    with probability 0.8, so V = 0.8 / (1 − γ) everywhere, the stationary
    distribution is (1, 5, 24) / 30 and the average reward 0.8. Always action
    0 has V = 0.2 / (1 − γ) and average reward 0.2. The uniform policy has
    V = 0.5 / (1 − γ): whatever the state, C comes next with probability ½.

    *Source*: Baxter, Bartlett & Weaver, "Experiments with Infinite-Horizon,
    Policy-Gradient Estimation", Journal of Artificial Intelligence Research 15
    (2001), the three-state MDP and its tables. The paper maximises the average
    reward; the discount is ours. Its tables were written down from memory; the
    known answers are derived from them and do not prove them.

    Parameters
    ----------
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation.

    Returns
    -------
    FiniteMDP
        3 states, 2 actions, 2 outcomes. No outcome terminates.

    Examples
    --------
    >>> baxter_bartlett().expected_reward
    array([[0.2, 0.8],
           [0.2, 0.8],
           [0.2, 0.8]])
    """
    A, B, C = 0, 1, 2
    next_state = np.broadcast_to(np.array([[B, C], [A, C], [B, C]])[:, None, :], (3, 2, 2))
    return FiniteMDP(
        probability=np.broadcast_to([[0.8, 0.2], [0.2, 0.8]], (3, 2, 2)),
        next_state=next_state,
        reward=np.where(next_state == C, 1.0, 0.0),
        terminated=np.zeros((3, 2, 2), dtype=bool),
        initial=np.full(3, 1 / 3),
        gamma=gamma,
        horizon=horizon,
    )


def baxter_bartlett_features():
    """The features of `baxter_bartlett`: two numbers per state, one copy per action.

    φ(A) = (12, 6)/18, φ(B) = (6, 12)/18, φ(C) = (5, 5)/18. With parameters
    (θ₁, θ₂) for action 0 and (θ₃, θ₄) for action 1 the logits are
    θ₁φ₁ + θ₂φ₂ and θ₃φ₁ + θ₄φ₂.

    *Source*: as for `baxter_bartlett`.

    Returns
    -------
    array (S, A, D) = (3, 2, 4)
        For a linear softmax.

    Examples
    --------
    >>> 18 * baxter_bartlett_features()[0]
    array([[12.,  6.,  0.,  0.],
           [ 0.,  0., 12.,  6.]])
    """
    phi = np.array([[12.0, 6.0], [6.0, 12.0], [5.0, 5.0]]) / 18.0
    return np.einsum("ab,si->sabi", np.eye(2), phi).reshape(3, 2, 4)


def aima_three_state(*, horizon=None):
    """The three-state exercise of Russell and Norvig, where one policy never ends.

    States 0 and 1 cost 1 and 2 a step, state 2 is the end. Action 0 changes
    between states 0 and 1 with probability 0.8 and stays otherwise; action 1
    reaches the end with probability 0.1 and stays otherwise. The start is
    state 0 or 1, with probability ½ each.

    **Known answer.** Always action 1 has V = (−10, −20). The best policy
    takes action 1 in state 0 and action 0 in state 1: V = (−10, −12.5). Always
    action 0 never ends, so without a discount its value is −∞: a linear
    solver must refuse it, although every softmax policy ends. The uniform
    policy has V = (−500, −520) / 17.

    *Source*: Russell & Norvig, Artificial Intelligence: A Modern Approach,
    chapter 17, "Making Complex Decisions", exercise 12 of the authors' online
    collection (aimacode/aima-exercises).

    Parameters
    ----------
    horizon : int or None
        Steps before truncation; the book has none.

    Returns
    -------
    FiniteMDP
        3 states, 2 actions, 2 outcomes, γ = 1.

    Examples
    --------
    >>> aima_three_state().next_state[:2]
    array([[[1, 0],
            [2, 0]],
           [[0, 1],
            [2, 1]]])
    """
    next_state = np.array([[[1, 0], [2, 0]], [[0, 1], [2, 1]], [[2, 2], [2, 2]]])
    return FiniteMDP(
        probability=np.broadcast_to([[0.8, 0.2], [0.1, 0.9]], next_state.shape),
        next_state=next_state,
        reward=np.broadcast_to(np.array([-1.0, -2.0, 0.0])[:, None, None], next_state.shape),
        terminated=next_state == 2,
        initial=start_at([0, 1], 3),
        gamma=1.0,
        horizon=horizon,
    )
