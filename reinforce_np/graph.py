"""Which states can be reached, and from which an episode can end."""

import numpy as np


def possible_outcomes(mdp, pi):
    """Return which outcomes (S, A, K) have positive probability under the table `pi` (S, A)."""
    return (mdp.probability > 0) & (pi > 0)[:, :, None]


def reachable(mdp, possible, steps=None):
    """Return which states (S,) an episode can be in after at most so many steps, its start included."""
    seen = mdp.initial > 0
    edge = np.flatnonzero(seen)
    while edge.size and steps != 0:
        moves = possible[edge] & ~mdp.terminated[edge]
        new = mdp.next_state[edge][moves]
        edge = np.unique(new[~seen[new]])
        seen[edge] = True
        steps = None if steps is None else steps - 1
    return seen


def restricted(mdp, states):
    """Return the model that has only the given states, in ascending order.

    What leads out of them leads to the first of them instead: it must be impossible, or come so late that nothing asks where.
    """
    new = np.zeros(mdp.n_states, dtype=np.intp)
    new[states] = np.arange(len(states))
    fields = {name: getattr(mdp, name)[states] for name in ("probability", "reward", "terminated", "initial")}
    return mdp.replace(**fields, next_state=new[mdp.next_state[states]])


def can_end(mdp, possible):
    """Return from which states (S,) termination is possible."""
    source, target = _moves(mdp, possible)
    return _spread((possible & mdp.terminated).any(axis=(1, 2)), target, source)


def surely_ends(mdp, possible):
    """Return from which states (S,) an episode terminates with probability one.

    They are the states that cannot reach one from which there is no end.
    """
    source, target = _moves(mdp, possible)
    return ~_spread(~can_end(mdp, possible), target, source)


def require_end(mdp, possible, why):
    """Refuse a model without horizon in which some reachable state never terminates."""
    stuck = reachable(mdp, possible) & ~can_end(mdp, possible)
    if stuck.any():
        raise ValueError(
            f"horizon=None {why}, but from state {int(np.argmax(stuck))}, which the start can reach, the policy never "
            "terminates: give a horizon, a gamma < 1 if only exact values are wanted, or mark an outcome as terminated"
        )


def _moves(mdp, possible):
    """Return the pairs (from, to) of all outcomes after which the episode goes on."""
    moves = possible & ~mdp.terminated
    return np.nonzero(moves)[0], mdp.next_state[moves]


def _spread(seen, source, target):
    """Return the states reachable from those marked in `seen` along source → target."""
    seen = seen.copy()
    while True:
        new = target[seen[source]]
        new = new[~seen[new]]
        if not new.size:
            return seen
        seen[new] = True
