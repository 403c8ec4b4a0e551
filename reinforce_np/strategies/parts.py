"""Strategies for the parts of a problem: policies, parameters, behaviours and critics."""

import numpy as np
from hypothesis import strategies as st

from reinforce_np import arguments
from reinforce_np.policies import LinearSoftmax, TabularSoftmax
from reinforce_np.strategies.bounds import SMALLEST, numbers, pair

SHARES = (0.5, 0.25, 0.75)  # of what is left of a distribution: every probability is dyadic
STEP = 0.5  # between two values of a parameter
STEPS = 3  # away from zero, at most
CRITIC = (-2, 3)  # the smallest and the largest guess of a value


def distribution(shares):
    """Return probabilities, one more than shares: each share is of what the ones before have left."""
    row, left = [], 1.0
    for share in shares:
        row.append(left * share)
        left -= row[-1]
    return [*row, left]


def behaviours(n_states, n_actions):
    """Generate tables μ(a|s) of dyadic probabilities, none of them zero.

    Good as ``behaviour=`` and as ``reference=``. Shrinks towards rows of
    1/2, 1/2 and of 1/2, 1/4, 1/4.

    Parameters
    ----------
    n_states, n_actions : int
        S and A.

    Returns
    -------
    SearchStrategy of array (S, A)

    Examples
    --------
    >>> from hypothesis import Phase, find, settings
    >>> shrunk = settings(phases=[Phase.generate, Phase.shrink], database=None)
    >>> find(behaviours(1, 3), lambda table: table[0, 1] > table[0, 0], settings=shrunk)
    array([[0.25 , 0.375, 0.375]])
    """
    S, A = arguments.integer("n_states", n_states, low=1), arguments.integer("n_actions", n_actions, low=1)
    shares = st.lists(st.sampled_from(SHARES), min_size=A - 1, max_size=A - 1)
    return _arrays(shares.map(distribution), S)


def critics(n_states, *, values=CRITIC):
    """Generate guesses of the values: small whole numbers.

    Shrinks towards zeros.

    Parameters
    ----------
    n_states : int
        S.
    values : (int, int)
        The smallest and the largest.

    Returns
    -------
    SearchStrategy of array (S,)

    Examples
    --------
    >>> from hypothesis import Phase, find, settings
    >>> shrunk = settings(phases=[Phase.generate, Phase.shrink], database=None)
    >>> find(critics(2), lambda critic: critic.sum() > 1, settings=shrunk)
    array([0., 2.])
    """
    S = arguments.integer("n_states", n_states, low=1)
    return _arrays(st.integers(*pair("values", values)), S)


def thetas(policy):
    """Generate parameters of a policy: multiples of 1/2 between -3/2 and 3/2.

    Shrinks towards zeros, the uniform policy.

    Parameters
    ----------
    policy : TabularSoftmax or LinearSoftmax
        The policy.

    Returns
    -------
    SearchStrategy of array (D,)

    Examples
    --------
    >>> from hypothesis import Phase, find, settings
    >>> from reinforce_np import TabularSoftmax
    >>> shrunk = settings(phases=[Phase.generate, Phase.shrink], database=None)
    >>> find(thetas(TabularSoftmax(1, 2)), lambda theta: theta[1] > 0, settings=shrunk)
    array([0. , 0.5])
    """
    if not hasattr(policy, "n_parameters"):
        raise TypeError(f"policy={policy!r} is no policy; pass a TabularSoftmax or a LinearSoftmax")
    return _arrays(st.integers(-STEPS, STEPS).map(lambda n: STEP * n), policy.n_parameters)


@st.composite
def _arrays(draw, rows, n):
    return np.array([draw(rows) for _ in range(n)], dtype=float)


def policies(*, states=(1, 3), actions=(2, 3), linear=False, temperatures=(1.0,), masks=False):
    """Generate softmax policies.

    Shrinks towards one state, two actions, the first of `temperatures`, no
    mask, and features that are zero but for one of action 0.

    Parameters
    ----------
    states, actions : int or (int, int)
        How many, or the smallest and the largest number.
    linear : bool
        Whether to generate a `LinearSoftmax` with one to three features, small
        whole numbers, instead of a `TabularSoftmax`.
    temperatures : sequence of float
        To choose from, the simplest first.
    masks : bool
        Whether some policies forbid actions, though never action 0.

    Returns
    -------
    SearchStrategy of TabularSoftmax or LinearSoftmax

    Examples
    --------
    >>> from hypothesis import Phase, find, settings
    >>> shrunk = settings(phases=[Phase.generate, Phase.shrink], database=None)
    >>> find(policies(temperatures=(1.0, 0.5)), lambda policy: policy.temperature < 1, settings=shrunk)
    TabularSoftmax(n_states=1, n_actions=2, temperature=0.5, mask=None)
    """
    states, actions = pair("states", states, SMALLEST["states"]), pair("actions", actions, SMALLEST["actions"])
    linear, masks = arguments.flag("linear", linear), arguments.flag("masks", masks)
    return _policies(states, actions, linear, numbers("temperatures", temperatures, low=1e-3, high=1e3), masks)


@st.composite
def _policies(draw, states, actions, linear, temperatures, masks):
    S, A = draw(st.integers(*states)), draw(st.integers(*actions))
    options = {"temperature": draw(st.sampled_from(temperatures))}
    if masks and draw(st.booleans()):
        forbidden = draw(st.lists(st.booleans(), min_size=S * (A - 1), max_size=S * (A - 1)))
        options["mask"] = np.column_stack([np.ones(S, dtype=bool), ~np.reshape(forbidden, (S, A - 1))])
    if not linear:
        return TabularSoftmax(S, A, **options)
    D = draw(st.integers(1, 3))
    features = np.reshape([draw(st.integers(-2, 2)) for _ in range(S * A * D)], (S, A, D)).astype(float)
    if np.all(features == features[:, :1]):
        features[0, 0, 0] += 1.0  # else no action can be told from another
    return LinearSoftmax(features, **options)
