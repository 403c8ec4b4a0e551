"""What both sources end with: lists of outcomes and of probabilities become the fields of a model."""

import numpy as np

from reinforce_np import arguments


def padded_fields(n_states, n_actions, *, s, a, probability, next_state, reward, terminated):
    """Lay out listed outcomes as arrays (S, A, K).

    Parameters
    ----------
    s, a : int array (n,)
        State and action of each outcome; every pair occurs, in ascending
        order.
    probability, next_state, reward, terminated : array (n,)
        The outcomes.

    Returns
    -------
    dict
        The last four, each (S, A, K). K is the largest number of outcomes;
        shorter rows are padded with outcomes of probability zero that stay
        where they are.

    Examples
    --------
    >>> fields = padded_fields(2, 1, s=np.array([0, 1, 1]), a=np.array([0, 0, 0]), probability=[1.0, 0.5, 0.5],
    ...                        next_state=[1, 0, 1], reward=[0.0, 2.0, 3.0], terminated=[False, True, False])
    >>> fields["next_state"].tolist(), fields["reward"].tolist()
    ([[[1, 0]], [[0, 1]]], [[[0.0, 0.0]], [[2.0, 3.0]]])
    """
    row = s * n_actions + a
    k = np.arange(row.size) - np.searchsorted(row, row)  # the outcome's place in its row
    shape = (n_states, n_actions, int(k.max()) + 1)
    fields = {
        "probability": np.zeros(shape),
        "next_state": np.broadcast_to(np.arange(n_states)[:, None, None], shape).copy(),
        "reward": np.zeros(shape),
        "terminated": np.zeros(shape, dtype=bool),
    }
    fields["probability"][s, a, k] = probability
    fields["next_state"][s, a, k] = next_state
    fields["reward"][s, a, k] = reward
    fields["terminated"][s, a, k] = terminated
    return fields


def start_distribution(name, value, n_states):
    """Return the distribution of the first state, (S,), checked."""
    distribution = arguments.probability_array(name, value, shape=(n_states,))
    arguments.check_sums(name, distribution.sum())
    return distribution
