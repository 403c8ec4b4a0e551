"""Where the variance comes from: the law of total variance, step by step and exactly.

A trajectory is a sequence of draws: the first state, an action, its outcome, an
action, its outcome, ... Each draw changes what is expected of the estimate,
and the variance is the sum of what the draws contribute,

    Var[ĝ] = Var[E[ĝ|s_0]] + Σ_t E Var[E[ĝ|h_t,a_t] | h_t] + Σ_t E Var[E[ĝ|h_t,a_t,k_t] | h_t,a_t],

with h_t the history up to s_t. For a linear trace (see `traces`) the history enters
only through the eligibility e and the factor g,

    ĝ = (what is settled) + e_t A_t + g_t X_t,    e_{t+1} = κ e_t + g_t q ψ_t,    g_{t+1} = η g_t,

so that E[‖e‖²; s], E[e g; s] and E[g²; s] run forwards and everything else is local.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, enumeration
from reinforce_np.estimators import NStep
from reinforce_np.exact import bellman
from reinforce_np.exact.batches import check_sizes, check_support
from reinforce_np.exact.derivatives import gradient as exact_gradient
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.traces import linear_trace
from reinforce_np.trajectories import Trajectories

LIMIT = 2**27  # numbers in E[X_t | s] of all steps


@dataclass(frozen=True, eq=False)
class VarianceParts:
    """The total variance Σ_i Var[ĝ_i] of one trajectory's estimate, split by what is drawn.

    Parameters
    ----------
    start : float
        From the first state.
    action : array (T, S)
        From the choice of an action in state s at step t.
    transition : array (T, S, A)
        From the outcome of action a in state s at step t.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> parts = variance_parts(algorithms.reinforce(), examples.bandit(spread=1.0), TabularSoftmax(1, 3), np.zeros(3))
    >>> bool(parts.action.sum() > 0), bool(parts.transition.sum() > 0), parts.start
    (True, True, 0.0)
    """

    start: float
    action: np.ndarray
    transition: np.ndarray

    @property
    def total(self):
        """The total variance."""
        return self.start + float(self.action.sum() + self.transition.sum())

    @property
    def shares(self):
        """Shares of the total, by name; `future` is all that is drawn after the first step."""
        now = {
            "start": self.start,
            "first action": float(self.action[:1].sum()),
            "first transition": float(self.transition[:1].sum()),
            "future": float(self.action[1:].sum() + self.transition[1:].sum()),
            "all actions": float(self.action.sum()),
            "all transitions": float(self.transition.sum()),
        }
        return {name: part / self.total if self.total else 0.0 for name, part in now.items()}


def variance_parts(estimator, mdp, policy, theta, *, behaviour=None):
    """Split the total variance of one trajectory's estimate into start, action and transition parts.

    Parameters
    ----------
    estimator : Estimator
        A linear trace: `RewardToGo`, `GAE` or one-step `NStep`, with any ratio
        but that of the whole trajectory, `PerTrajectory` or `Constant`.
    mdp : FiniteMDP
        The model, with a horizon.
    policy, theta
        The policy and its parameters.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions.

    Returns
    -------
    VarianceParts
        Whose total is that of `moments`.

    Raises
    ------
    ValueError
        When the estimator is no such trace.
    TooLargeError
        When T·S·D numbers are too many.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples, moments
    >>> mdp, policy, theta = examples.referee(), TabularSoftmax(3, 3), np.linspace(-1, 1, 9)
    >>> parts = variance_parts(algorithms.reinforce(), mdp, policy, theta)
    >>> bool(np.isclose(parts.total, moments(algorithms.reinforce(), mdp, policy, theta).total_variance))
    True
    """
    arguments.check_same_model(mdp, policy)
    theta = policy.real_theta(theta)
    check_support(mdp, policy, theta, behaviour)
    check_sizes(estimator, mdp)
    trace = linear_trace(estimator, mdp, policy, theta, behaviour)
    if mdp.horizon is None or trace is None or trace.whole_trajectory or isinstance(trace.estimator.advantage, NStep):
        raise ValueError(
            f"estimator={estimator!r} with horizon={mdp.horizon} is not split here: use RewardToGo or GAE, a ratio other than "
            "TrajectoryRatio, and a finite horizon"
        )
    if mdp.horizon * mdp.n_states * policy.n_parameters > LIMIT:
        raise arguments.TooLargeError(
            f"horizon={mdp.horizon} x {mdp.n_states} states x {policy.n_parameters} parameters is above the limit of {LIMIT}; "
            "use a shorter horizon or fewer parameters"
        )
    psi = policy.score(theta) * trace.scale()
    h = np.zeros(psi.shape[::2]) if trace.passive is None else np.einsum("sa,sae->se", trace.passive, psi)
    W, live, into = trace.measure(1), ~mdp.terminated, mdp.next_state
    ahead = list(_expectations(trace, psi, h))[::-1]
    _, x0 = ahead[0]
    start = float(mdp.initial @ (x0**2).sum(axis=1) - ((mdp.initial @ x0) ** 2).sum())

    action, transition = np.zeros((mdp.horizon, *psi.shape[:1])), np.zeros((mdp.horizon, *psi.shape[:2]))
    gg, eg, ee = mdp.initial, np.zeros_like(h), np.zeros(mdp.n_states)
    arrive = bellman.arrivals(mdp)
    mu = trace.behaviour
    P = np.divide(W, mu[:, :, None], out=np.zeros_like(W), where=mu[:, :, None] > 0)  # of an outcome, given the action
    for t in range(mdp.horizon):
        signals = trace.at(t)
        c, kappa, p, q, eta = (np.broadcast_to(x, W.shape) for x in (signals.c[0], signals.kappa[0], *signals[2:]))
        v_next, x_next = ahead[t + 1]
        A = c + kappa * live * v_next[into]  # E[A | outcome]
        X = (p + q * live * v_next[into])[..., None] * psi[:, :, None] + h[:, None, None]
        X = X + (eta * live)[..., None] * x_next[into]  # E[X | outcome]
        A_mean, X_mean = np.einsum("sak,sak->sa", P, A), np.einsum("sak,sake->sae", P, X)
        dA, dX = A - A_mean[:, :, None], X - X_mean[:, :, None]
        spread = (
            ee[:, None, None] * dA**2
            + 2 * dA * np.einsum("sake,se->sak", dX, eg)
            + gg[:, None, None] * (dX**2).sum(axis=3)
        )
        transition[t] = np.einsum("sak,sak->sa", W, spread)
        dA = A_mean - np.einsum("sa,sa->s", mu, A_mean)[:, None]
        dX = X_mean - np.einsum("sa,sae->se", mu, X_mean)[:, None]
        spread = ee[:, None] * dA**2 + 2 * dA * np.einsum("sae,se->sa", dX, eg) + gg[:, None] * (dX**2).sum(axis=2)
        action[t] = np.einsum("sa,sa->s", mu, spread)
        along = np.einsum("sae,se->sa", psi, eg)[:, :, None]
        size = (psi**2).sum(axis=2)[:, :, None]
        flow = W * live
        ee, eg, gg = (
            arrive(flow * (kappa**2 * ee[:, None, None] + 2 * kappa * q * along + q**2 * size * gg[:, None, None])),
            arrive(
                (flow * eta)[..., None]
                * (kappa[..., None] * eg[:, None, None] + (q * gg[:, None, None])[..., None] * psi[:, :, None])
            ),
            arrive(flow * eta**2 * gg[:, None, None]),
        )
    return VarianceParts(start, action, transition)


def _expectations(trace, psi, h):
    """Yield E[A_t | s] and E[X_t | s] for t = T, T−1, ..., 0, shapes (S,) and (S, D)."""
    mdp, W = trace.mdp, trace.measure(1)
    live, into = ~mdp.terminated, mdp.next_state
    v, x = np.zeros(mdp.n_states), np.zeros_like(h)
    yield v, x
    for t in reversed(range(mdp.horizon)):
        signals = trace.at(t)
        w = signals.p + signals.q * live * v[into]
        x = np.einsum("sak,sae->se", W * w, psi) + h + np.einsum("sak,sake->se", W * signals.eta * live, x[into])
        v = np.einsum("sak,sak->s", W, signals.c[0] + signals.kappa[0] * live * v[into])
        yield v, x


@dataclass(frozen=True, eq=False)
class Contributions:
    """Trajectories that carry the variance and the bias, largest first.

    Parameters
    ----------
    trajectories : Trajectories
        The most important ones, by their share of variance and bias together.
    probability : array (n,)
        Of each.
    variance_share : array (n,)
        p ‖ĝ − E[ĝ]‖² over the total variance.
    bias_share : array (n,)
        p (ĝ − ĝ_REINFORCE) along the bias, over its length: what the trajectory adds
        to the bias; the shares of all trajectories sum to one. Zero for an unbiased estimator.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> everything = largest_contributions(algorithms.reinforce(), examples.bandit(), TabularSoftmax(1, 3), np.zeros(3))
    >>> round(float(everything.variance_share.sum()), 12)
    1.0
    """

    trajectories: Trajectories
    probability: np.ndarray
    variance_share: np.ndarray
    bias_share: np.ndarray


def largest_contributions(estimator, mdp, policy, theta, *, n=5, behaviour=None, limit=enumeration.LIMIT):
    """Return the trajectories that contribute most to the variance and to the bias of an estimator.

    Parameters
    ----------
    estimator : Estimator
        One that looks at a single trajectory at a time.
    mdp, policy, theta
        The problem, small enough to be listed.
    n : int
        How many trajectories.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions.
    limit : int
        As in `enumerate_trajectories`.

    Returns
    -------
    Contributions

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3)
    >>> worst = largest_contributions(algorithms.reinforce(), mdp, policy, np.zeros(3), n=1)
    >>> worst.trajectories.actions, worst.probability.round(3)
    (array([[2]]), array([0.333]))
    """
    n = arguments.integer("n", n, low=1)
    check_support(mdp, policy, theta, behaviour)
    trajectories, p = enumeration.enumerate_trajectories(mdp, policy, theta, behaviour=behaviour, limit=limit)
    alone = np.arange(len(trajectories))  # each trajectory is a batch of its own
    batch = estimator.batch(trajectories, mdp, policy, theta, labels=alone)
    estimates = estimator.contract(batch, alone, len(alone))
    mean, g = p @ estimates, exact_gradient(mdp, policy, theta, objective=Discounted())
    variance = p * ((estimates - mean) ** 2).sum(axis=1)
    bias = mean - g
    size = float(np.linalg.norm(bias))
    bias_share = np.zeros(len(p))
    if size > 1e-12 * max(float(np.linalg.norm(g)), float(np.sqrt(variance.sum()))):
        weight = np.exp(np.where(trajectories.mask, batch.log_ratio, 0.0).sum(axis=1))
        right = weight[:, None] * _reinforce(trajectories, mdp, policy, theta)
        bias_share = p * ((estimates - right) @ bias) / size**2
    variance_share = variance / variance.sum() if variance.sum() else variance
    order = np.argsort(-(variance_share + np.abs(bias_share)), kind="stable")[:n]
    return Contributions(trajectories.take(order), p[order], variance_share[order], bias_share[order])


def _reinforce(trajectories, mdp, policy, theta):
    """Return Σ_t γᵗ ψ_t G_t of each trajectory, the plainest unbiased estimate, shape (N, D)."""
    psi = policy.score(theta)
    G, total = np.zeros(len(trajectories)), np.zeros((len(trajectories), policy.n_parameters))
    for t in reversed(range(trajectories.n_steps)):
        live = t < trajectories.lengths
        G = np.where(live, trajectories.rewards[:, t] + mdp.gamma * G, 0.0)
        total += (live * mdp.gamma**t * G)[:, None] * psi[trajectories.states[:, t], trajectories.actions[:, t]]
    return total
