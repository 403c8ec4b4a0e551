"""Strategies for models: small enough to be listed, with what exposes mistakes."""

import numpy as np
from hypothesis import strategies as st

from reinforce_np.mdp import FiniteMDP
from reinforce_np.strategies import bounds as limits
from reinforce_np.strategies.parts import SHARES, distribution
from reinforce_np.traits import EPISODES, Features

GAMMAS = (1.0, 0.5, 0.9, 0.7)
STARTS = ([0.75, 0.25], [0.25, 0.75])
LIKELY = Features(termination=True, truncation=True, uneven_start=True, several_outcomes=True, rewards=True)
MOSTLY = 3  # of four draws have a feature that is not forced
NEARBY = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5)  # three of these, added to a reward, are large where any three are


def finite_mdps(
    force=Features(),
    *,
    states=(1, 3),
    actions=(2, 3),
    outcomes=(1, 2),
    horizon=(1, 3),
    gammas=GAMMAS,
    rewards=(-2, 3),
    max_trajectories=64,
):
    """Generate models with a horizon, all of whose trajectories can be listed.

    Shrinks towards one state, two actions, one outcome, one step, the first of
    `gammas`, and rewards of zero.

    Parameters
    ----------
    force : Features
        What every model has; only features of a model.
    states, actions, outcomes, horizon : int or (int, int)
        How many, or the smallest and the largest number; at least two actions.
    gammas : sequence of float
        Discounts to choose from, the simplest first.
    rewards : (int, int)
        The smallest and the largest.
    max_trajectories : int
        How many trajectories a model may have.

    Returns
    -------
    SearchStrategy of FiniteMDP

    Raises
    ------
    ValueError
        At once, when the bounds contradict each other.

    Examples
    --------
    >>> from hypothesis import Phase, find, settings
    >>> shrunk = settings(phases=[Phase.generate, Phase.shrink], database=None)
    >>> find(finite_mdps(Features(truncation=True)), lambda mdp: mdp.gamma < 1, settings=shrunk)
    FiniteMDP(n_states=1, n_actions=2, n_outcomes=1, gamma=0.5, horizon=1)
    """
    if isinstance(force, Features) and not force <= EPISODES | LIKELY | Features(three_actions=True):
        raise ValueError(f"force={force!r} asks for more than a model has; use problems(force)")
    sizes = {"states": states, "actions": actions, "outcomes": outcomes, "horizon": horizon}
    sizes |= {"group_size": 1, "prompts": 1}
    return _mdps(limits.checked(force, "max_trajectories", max_trajectories, rewards=rewards, gammas=gammas, **sizes))


@st.composite
def _mdps(draw, bounds):
    chosen, wanted = sizes_and_features(draw, bounds, LIKELY)
    fields, _ = model_fields(draw, bounds, wanted, chosen)
    return settled(FiniteMDP(**fields), bounds, wanted)


def between(draw, low, high, *, mostly_high=False):
    """Draw a whole number, unless there is but one."""
    if low == high:
        return low
    return draw(
        st.sampled_from([*range(low, high + 1), *[high] * (high - low)]) if mostly_high else st.integers(low, high)
    )


def sizes_and_features(draw, bounds, likely):
    """Draw how large a problem is, and what to build in: what is forced, and most of what is likely.

    What would make it too large is left out. How many draws there are depends
    on the bounds alone, so that Hypothesis can make one smaller, and all others stay.

    Parameters
    ----------
    draw : callable
        Of a composite strategy.
    bounds : Bounds
        What may be drawn.
    likely : Features
        What is built in mostly.

    Returns
    -------
    tuple
        Sizes by name, and `Features`.
    """
    chosen, wanted = {}, bounds.force
    for name in ("prompts", "group_size", "actions", "horizon"):
        low, high = getattr(bounds, name)
        chosen[name] = between(draw, low, high, mostly_high=name == "horizon")
        while chosen[name] > low and not bounds.fit(wanted, **chosen):
            chosen[name] -= 1
    for name in sorted((likely.names & bounds.possible.names) - wanted.names):
        more = wanted | Features(**{name: True})
        if draw(st.integers(0, MOSTLY)) and bounds.fit(more, **chosen):
            wanted = more
    return chosen, wanted


def nothing(draw):
    """Draw nothing."""


def model_fields(draw, bounds, wanted, chosen, *, of_action=nothing, of_state=nothing):
    """Draw the arguments of a `FiniteMDP`, and what else belongs to its actions and its states.

    What belongs to a state, and to an action, is drawn together: taking the
    last one away leaves the draws of the others as they are. Rewards are not
    yet `settled`.

    Parameters
    ----------
    draw : callable
        Of a composite strategy.
    bounds : Bounds
        What may be drawn.
    wanted : Features
        What to build in.
    chosen : dict
        Sizes drawn before.
    of_action, of_state : callable
        Draw what else belongs to each, given `draw`.

    Returns
    -------
    tuple
        The arguments; and a list of states, each a pair of what was drawn for its actions and for itself.
    """
    A, T = chosen["actions"], chosen["horizon"]
    gammas = sorted(bounds.gammas, key=lambda gamma: 0.0 < gamma < 1.0)  # stable: first those that do not discount
    n_plain = sum(not 0.0 < gamma < 1.0 for gamma in gammas)
    gamma = gammas[between(draw, n_plain if wanted.discount else 0, len(gammas) - 1)]
    start = draw(st.sampled_from(STARTS))
    S = between(draw, *bounds.states)
    initial = start if wanted.uneven_start and S > 1 else [1.0]
    cells, others = [], []
    for _ in range(S):
        of_this_state = of_state(draw)
        row = [draw(_actions(bounds, S, of_action)) for _ in range(A)]
        cells.append([cell for cell, _ in row])
        others.append(([other for _, other in row], of_this_state))
    initial = [*initial, *[0.0] * (S - len(initial))]
    _build_in(cells, T, bounds, wanted)
    _trim(cells, initial, T, bounds, wanted, chosen)
    K = max(len(cell) for row in cells for cell in row)
    padding = [0.0, 0, 0, False]
    table = [[[*cell, *[padding] * (K - len(cell))] for cell in row] for row in cells]
    names = ("probability", "next_state", "reward", "terminated")
    fields = {name: [[[k[i] for k in cell] for cell in row] for row in table] for i, name in enumerate(names)}
    return {**fields, "initial": initial, "gamma": gamma, "horizon": T}, others


@st.composite
def _actions(draw, bounds, S, of_action):
    """Generate what follows an action: outcomes as lists [probability, next state, reward, terminated]; and what else."""
    n = between(draw, *bounds.outcomes)
    probability = distribution([draw(st.sampled_from(SHARES)) for _ in range(n - 1)])
    cell = [
        [p, min(between(draw, 0, bounds.states[1] - 1), S - 1), between(draw, *bounds.rewards), draw(st.booleans())]
        for p in probability
    ]
    return cell, of_action(draw)


def _build_in(cells, T, bounds, wanted):
    """Change the outcomes so that the model has what is wanted: action 0 goes on, the last action of state 0 ends."""
    if wanted.several_outcomes:
        cell = cells[0][0]
        if len(cell) < 2:
            cell[:] = [[0.5, *cell[0][1:]], [0.5, *cell[0][1:]]]
        if cell[0][2] == cell[1][2]:
            cell[1][2] += 1 if cell[1][2] < bounds.rewards[1] else -1
    if wanted.termination or wanted.unequal_lengths:
        cells[0][-1][0][3] = True
    for cell in _path(cells, T, wanted):
        cell[0][3] = False


def _path(cells, T, wanted):
    """Return the cells of the episode that goes on to the horizon, by outcome 0 of action 0; none if none is wanted."""
    if not (wanted.truncation or wanted.unequal_lengths or wanted.three_steps):
        return []
    path, s = [], 0
    for _ in range(T):
        path.append(cells[s][0])
        s = cells[s][0][0][1]
    return path


def _trim(cells, initial, T, bounds, wanted, chosen):
    """End episodes, then drop outcomes, from the last one on, until the batches can be listed within the limit."""
    size, prompts = chosen["group_size"], chosen["prompts"]

    def too_many():
        n = [1] * len(cells)
        for _ in range(T):
            n = [sum(1 if k[3] else n[k[1]] for cell in row for k in cell) for row in cells]
        return sum(n[s] ** size for s, p in enumerate(initial) if p) ** prompts > bounds.limit

    kept = [id(cell[0]) for cell in _path(cells, T, wanted)]
    flat = [cell for row in cells for cell in row][::-1]
    for outcome in [k for cell in flat for k in cell[::-1] if id(k) not in kept and not k[3]]:
        if not too_many():
            return
        outcome[3] = True
    for cell in flat:
        if not too_many():
            return
        n = max(bounds.outcomes[0], 2 if wanted.several_outcomes and cell is cells[0][0] else 1)
        cell[n - 1][0] = sum(k[0] for k in cell[n - 1 :])
        del cell[n:]


def settled(mdp, bounds, wanted, also=lambda mdp: True):
    """Return the model with one reward, that of the last action in state 0, changed as little as will do.

    The mean of the first reward, and the gradient, are straight lines in this
    reward that are not constant, so each is zero for at most one value of it.

    Parameters
    ----------
    mdp : FiniteMDP
        As drawn.
    bounds : Bounds
        What rewards there may be.
    wanted : Features
        Whether the mean must not be zero, and this reward be larger than 1.
    also : callable
        What else must be true of the model.

    Returns
    -------
    FiniteMDP
    """
    low, high = bounds.rewards
    drawn = int(mdp.reward[0, -1, 0])
    for value in [drawn + n for n in NEARBY if low <= drawn + n <= high]:
        candidate = mdp
        if value != drawn:
            reward = mdp.reward.copy()
            reward[0, -1, 0] = value
            candidate = mdp.replace(reward=reward)
        mean = np.einsum("s,sak,sak->", candidate.initial, candidate.probability, candidate.reward)
        if (not wanted.rewards or (abs(value) > 1 and mean != 0.0)) and also(candidate):
            return candidate
    raise AssertionError("a straight line that is not constant is zero at most once")
