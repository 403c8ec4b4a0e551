"""The corridor whose states look alike, and the features that make them so."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.examples.building import from_moves, start_at


def short_corridor(*, horizon=None):
    """The short corridor with switched actions.

    States 0, 1, 2 and the goal, 3; actions 0 = right, 1 = left, *reversed in
    state 1*; left in state 0 stays. Every step costs 1. A policy that cannot
    tell the states apart must be random: with p = Pr(right) in every state,

        V(0) = J(p) = 2 (p − 2) / (p (1 − p))

    **Known answer.** J is largest at p = 2 − √2 ≈ 0.59, where it is
    −(6 + 4√2) ≈ −11.66; the ε-greedy policies (ε = 0.1) have
    J(0.95) ≈ −44 and J(0.05) ≈ −82. With `action_features` and parameters
    (θ_right, θ_left), dJ/dθ_right = 2 (p² − 4p + 2) / (p (1 − p)) = −dJ/dθ_left.

    *Source*: Sutton & Barto, Reinforcement Learning, 2nd ed. (2018),
    Example 13.1; the formula answers Exercise 13.1.

    Parameters
    ----------
    horizon : int or None
        Steps before truncation; the book has none.

    Returns
    -------
    FiniteMDP
        4 states, 2 actions, 1 outcome, γ = 1, start in state 0.

    Examples
    --------
    >>> short_corridor().next_state[:3, :, 0]  # columns: right, left
    array([[1, 0],
           [0, 2],
           [3, 1]])
    """
    return from_moves(
        [[1, 0], [0, 2], [3, 1], [3, 3]],
        reward=-1.0,
        ends=[3],
        initial=start_at(0, 4),
        gamma=1.0,
        horizon=horizon,
    )


def action_features(n_states, n_actions):
    """Features that see only the action: x(s, a) = e_a in every state.

    All states are aliased: a linear softmax on these features has one
    probability per action, the same everywhere.

    *Source*: Sutton & Barto, Reinforcement Learning, 2nd ed. (2018),
    Example 13.1: x(s, right) = [1, 0] and x(s, left) = [0, 1].

    Parameters
    ----------
    n_states, n_actions : int
        S and A.

    Returns
    -------
    array (S, A, D), D = A
        The features.

    Examples
    --------
    >>> action_features(4, 2)[2]
    array([[1., 0.],
           [0., 1.]])
    """
    n_states = arguments.integer("n_states", n_states, low=1)
    n_actions = arguments.integer("n_actions", n_actions, low=1)
    return np.tile(np.eye(n_actions), (n_states, 1, 1))
