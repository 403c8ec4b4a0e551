"""Can these trajectories be? Every step against the outcomes of the model, every end against its horizon."""

from typing import NamedTuple

import numpy as np

from reinforce_np.exact import callables

SAME_REWARD = 1e-6  # relative to the largest: rewards that went through float32
SAME_LOG_PROBABILITY = 1e-5  # likewise


class Steps(NamedTuple):
    """Every step that happened, in order, shape (M,) each."""

    states: np.ndarray
    actions: np.ndarray
    outcomes: np.ndarray  # −1 where the model has no such outcome


def outcome_classes(mdp):
    """Return, for every outcome (S, A, K), the first that cannot be told from it, and the probability of each first one.

    Examples
    --------
    >>> from reinforce_np import examples
    >>> outcome_classes(examples.bandit(means=[0.0, 1.0]))[1]
    array([[[1.],
            [1.]]])
    """
    ended, r = mdp.terminated, mdp.reward
    same = np.abs(r[..., :, None] - r[..., None, :]) <= SAME_REWARD * np.abs(r).max()
    same &= ended[..., :, None] == ended[..., None, :]
    same &= ended[..., :, None] | (mdp.next_state[..., :, None] == mdp.next_state[..., None, :])
    same &= (mdp.probability > 0)[..., None, :]
    first = np.where(same.any(axis=-1), same.argmax(axis=-1), np.arange(mdp.n_outcomes))
    p = np.zeros_like(mdp.probability)
    s, a = np.arange(mdp.n_states)[:, None, None], np.arange(mdp.n_actions)[:, None]
    np.add.at(p, (s, a, first), mdp.probability)
    return first, p


def steps_of(trajectories, mdp, possible, classes):
    """Return every step, with the outcome of the model that it shows.

    Parameters
    ----------
    trajectories : Trajectories
        N of them.
    mdp : FiniteMDP
        The model.
    possible : bool array (S, A, K)
        Which outcomes can happen.
    classes : int array (S, A, K)
        From `outcome_classes`.

    Returns
    -------
    Steps
    """
    n, t = np.nonzero(trajectories.mask)
    s, a, r = (getattr(trajectories, name)[n, t] for name in ("states", "actions", "rewards"))
    last = t + 1 == trajectories.lengths[n]
    ended = last & trajectories.terminated[n]
    following = trajectories.states[n, np.minimum(t + 1, trajectories.n_steps - 1)]
    following = np.where(last, trajectories.final_states[n], following)
    same = np.abs(mdp.reward[s, a] - r[:, None]) <= SAME_REWARD * np.abs(mdp.reward).max()
    same &= (mdp.terminated[s, a] == ended[:, None]) & possible[s, a]
    same &= ended[:, None] | (mdp.next_state[s, a] == following[:, None])  # where an end leads to means nothing
    return Steps(s, a, np.where(same.any(axis=1), classes[s, a, same.argmax(axis=1)], -1))


def first_states(trajectories):
    """Return the first state of each; the last one, where nothing ever happened."""
    first = trajectories.states[:, 0] if trajectories.n_steps else trajectories.final_states
    return np.where(trajectories.lengths == 0, trajectories.final_states, first)


def first_impossible(trajectories, steps, mdp, log_mu, group_size):
    """Return the index of the first trajectory that the model, or the behaviour, does not allow, and why; or None.

    Parameters
    ----------
    trajectories : Trajectories
        N of them, group by group.
    steps : Steps
        Theirs.
    mdp : FiniteMDP
        The model.
    log_mu : array (S, A)
        Log-probabilities of the behaviour; where none is recorded, all NaN, none is judged.
    group_size : int
        Trajectories of a group.

    Returns
    -------
    (int, str) or None
    """
    starts, lengths = first_states(trajectories), trajectories.lengths
    ended, cut = trajectories.terminated, trajectories.truncated
    groups = starts.reshape(-1, group_size)
    n, t = np.nonzero(trajectories.mask)
    recorded, expected = trajectories.log_probabilities[n, t], log_mu[steps.states, steps.actions]
    with np.errstate(invalid="ignore"):
        other = ~(np.abs(recorded - expected) <= SAME_LOG_PROBABILITY * np.maximum(np.abs(expected), 1.0))
    early = lengths < (np.inf if mdp.horizon is None else mdp.horizon)

    def with_step(wrong):
        return np.isin(np.arange(len(trajectories)), n[wrong])

    reasons = {
        "the model never starts there": mdp.initial[starts] == 0,
        "its group started in another state": np.repeat((groups != groups[:, :1]).any(axis=1), group_size),
        "it goes on after the horizon": lengths > (np.inf if mdp.horizon is None else mdp.horizon),
        "it is cut before the horizon": ~ended & early,
        "it neither terminated nor was it truncated": ~ended & ~cut,
        "it is called truncated but terminated before the horizon": ended & cut & early,
        "the model has no such step": with_step(steps.outcomes < 0),
        "its log_probabilities are not those of the behaviour": with_step(other & ~np.isnan(recorded).all()),
    }
    for reason, wrong in reasons.items():
        if wrong.any():
            i = int(np.argmax(wrong))
            return i, f"{callables.path(trajectories, i)}: {reason}"
    return None
