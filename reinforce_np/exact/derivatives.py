"""Gradient, Hessian, Fisher information and natural gradient of J, by recursion.

The policy-gradient theorem (Sutton, McAllester, Singh & Mansour 2000,
Theorem 1) written for a time axis:

    ∇J = Σ_t Σ_s d_t(s) Σ_a π(a|s) Q_t(s,a) ∇log π(a|s)

Backward gives Q, forward gives d, and the score is contracted once at the end.
"""

import numpy as np

from reinforce_np import arguments
from reinforce_np.exact import bellman, chains
from reinforce_np.exact.objectives import Discounted
from reinforce_np.exact.values import induced, occupancy
from reinforce_np.policies import softmax


@bellman.refuses_overflow
def gradient(mdp, policy, theta, *, objective=Discounted()):
    """∇J(θ) = Σ_{t,s,a} d_t(s) π(a|s) Q_t(s,a) ∇log π(a|s), shape (..., D).

    Costs O(S·A·K + T·S·J) time, with J successors of a state, and O(T·S) memory: see `chains`.

    Parameters
    ----------
    mdp : FiniteMDP
        The model.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (..., D)
        Parameters, real or complex, or a batch of them.
    objective : Discounted, Undiscounted, KLRegularised or EntropyRegularised
        What is differentiated.

    Returns
    -------
    array (..., D)
        In units of reward.

    Raises
    ------
    ValueError
        When rewards, added up over an episode, leave float64.

    References
    ----------
    Sutton, McAllester, Singh & Mansour, "Policy Gradient Methods for
    Reinforcement Learning with Function Approximation", NIPS 12 (2000), Theorem 1.

    Examples
    --------
    A bandit: ∂J/∂θₐ = π(a) (r(a) − J).

    >>> from reinforce_np import TabularSoftmax, examples
    >>> gradient(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0])
    array([-0.25,  0.25])
    """
    arguments.check_same_model(mdp, policy)
    pi = policy.probabilities(theta)
    W = score_weights(mdp, policy, theta, objective=objective, probabilities=pi)
    return policy.contract(theta, W, probabilities=pi)


def score_weights(mdp, policy, theta, *, objective=Discounted(), centred=True, probabilities=None):
    """W(s,a) = Σ_t d_t(s) π(a|s) (Q_t(s,a) − Q_t(s,a*)), shape (..., S, A): the weight of each score in ∇J.

    a* is the most probable action of the state. Subtracting its value changes
    nothing, because Σₐ π ∇log π = 0, and keeps the digits of the others when all values
    are large and nearly equal.

    Parameters
    ----------
    mdp, policy, theta, objective
        As in `gradient`.
    centred : bool
        Whether Q_t(s,a*) is subtracted.
    probabilities : array (..., S, A), optional
        π_θ where it is at hand already.

    Returns
    -------
    array (..., S, A)
    """
    centre = bellman.centred if centred else (lambda Q, pi: Q)
    pi, r, gamma = induced(mdp, policy, theta, objective, probabilities=probabilities)
    if mdp.horizon is None:
        d = bellman.fixed_occupancy(mdp, pi, gamma)
        Q, _ = bellman.fixed_values(mdp, pi, r, gamma)
        weights = (d[:, None] * pi) * centre(Q, pi)
    else:
        weights = pi * centre(chains.visited_values(mdp, pi, r, gamma), pi)
    return bellman.state_last(weights)


def gradient_scale(mdp, policy, theta, *, objective=Discounted()):
    """Return the size of the terms that each component of ∇J is the sum of, shape (D,): what rounding is relative to.

    Parameters
    ----------
    mdp, policy, theta, objective
        As in `gradient`; real parameters.

    Returns
    -------
    array (D,)
    """
    magnitudes = mdp.magnitudes
    pi = policy.probabilities(policy.real_theta(theta))
    W = score_weights(magnitudes, policy, theta, objective=objective, centred=False)
    largest_bonus = np.abs(objective.bonus(mdp, policy, theta)).max()
    if largest_bonus:
        visits = occupancy(mdp, policy, theta)
        visits = visits if mdp.horizon is None else visits.sum(axis=0)
        W = np.abs(W) + (visits[:, None] * pi) * largest_bonus * visits.sum()
    pulled = W * softmax.sum_of_others(pi) + pi * softmax.sum_of_others(W)
    return policy.pull_back_magnitudes(pulled) / policy.temperature


@bellman.refuses_overflow
def hessian(mdp, policy, theta, *, objective=Discounted(), columns=64):
    """∇²J(θ), shape (D, D): the gradient's recursion differentiated along every direction.

    With a dot for the derivative along a direction e, and ψ = ∇log π,

        ∇²J·e = Σ_{s,a} Ẇ(s,a) ψ(s,a) + Σ_{s,a} W(s,a) ∇²log π(a|s)·e,
        Ẇ = Σ_t (ḋ_t π + d_t π̇) Q_t + d_t π Q̇_t,      π̇ = π (ψ·e),

    where ḋ and Q̇ follow from the recursions of d and Q by the product rule.

    Parameters
    ----------
    mdp, policy, objective
        As in `gradient`.
    theta : array (D,)
        Real parameters.
    columns : int
        How many directions are carried at once; bounds the memory.

    Returns
    -------
    array (D, D)

    Raises
    ------
    ValueError
        When rewards, added up over an episode, leave float64.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> hessian(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, np.log(3.0)])
    array([[-0.09375,  0.09375],
           [ 0.09375, -0.09375]])
    """
    theta = policy.real_theta(theta)
    columns = arguments.integer("columns", columns, low=1)
    W = score_weights(mdp, policy, theta, objective=objective)
    result = policy.hessian_contract(theta, W)
    pi, r, gamma = induced(mdp, policy, theta, objective)
    tangents = _fixed_tangents if mdp.horizon is None else _tangents
    psi = policy.score(theta)
    for start in range(0, policy.n_parameters, columns):
        chosen = slice(start, start + columns)
        pi_dot = pi[..., None] * psi[..., chosen]
        W_dot = tangents(mdp, pi, pi_dot, r, objective.slope * psi[..., chosen], gamma)
        result[chosen] += policy.contract(theta, np.moveaxis(W_dot, -1, 0))
    return (result + result.T) / 2


def _tangents(mdp, pi, pi_dot, r, r_dot, gamma):
    """Return Ẇ, shape (S, A, E), for the E directions in `pi_dot` (S, A, E), with a horizon."""
    arrive, p = bellman.arrivals(mdp), mdp.continuation
    d_dot = np.zeros(pi_dot.shape[:1] + pi_dot.shape[2:])
    flows = []
    for d in bellman.forward(mdp, pi, gamma):
        flow_dot = d_dot[:, None] * pi[..., None] + d[:, None, None] * pi_dot
        flows.append((d, flow_dot))
        d_dot = gamma * arrive(flow_dot[:, :, None] * p[..., None])
    V_dot = np.zeros_like(d_dot)
    W_dot = np.zeros_like(pi_dot)
    for t, Q, _ in bellman.backward(mdp, pi, r, gamma):
        d, flow_dot = flows[t]
        Q_dot = r_dot + gamma * bellman.expected_next(mdp, p, V_dot)
        W_dot += flow_dot * bellman.centred(Q, pi)[..., None] + (d[:, None] * pi)[..., None] * bellman.centred(
            Q_dot, pi
        )
        V_dot = (pi_dot * Q[..., None] + pi[..., None] * Q_dot).sum(axis=1)
    return W_dot


def _fixed_tangents(mdp, pi, pi_dot, r, r_dot, gamma):
    """Return Ẇ, shape (S, A, E), for the E directions in `pi_dot`, without a horizon."""
    d = bellman.fixed_occupancy(mdp, pi, gamma)
    Q, _ = bellman.fixed_values(mdp, pi, r, gamma)
    system = bellman.Eliminated(mdp, pi, gamma)
    p = mdp.continuation
    source = gamma * bellman.arrivals(mdp)(d[:, None, None, None] * pi_dot[:, :, None] * p[..., None])
    d_dot = system.occupancy(source)
    V_dot = system.values((pi_dot * Q[..., None] + pi[..., None] * r_dot).sum(axis=1))
    Q_dot = r_dot + gamma * bellman.expected_next(mdp, p, V_dot)
    flow_dot = d_dot[:, None] * pi[..., None] + d[:, None, None] * pi_dot
    return flow_dot * bellman.centred(Q, pi)[..., None] + (d[:, None] * pi)[..., None] * bellman.centred(Q_dot, pi)


def fisher_information(mdp, policy, theta, *, objective=Discounted()):
    """F(θ) = Σ_{t,s,a} d_t(s) π(a|s) ∇log π ∇log πᵀ, shape (D, D).

    With `Undiscounted` this is the Fisher information of the trajectory
    distribution; with `Discounted` each step counts γᵗ.

    Parameters
    ----------
    mdp, policy, objective
        As in `gradient`.
    theta : array (D,)
        Real parameters.

    Returns
    -------
    array (D, D)
        Symmetric positive semi-definite; singular for a tabular policy,
        because a constant added to all logits of a state changes nothing.

    References
    ----------
    Kakade, "A Natural Policy Gradient", NIPS 14 (2001), section 2;
    Peters & Schaal, "Natural Actor-Critic", Neurocomputing 71 (2008), section 2.2.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> fisher_information(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0])
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    theta = policy.real_theta(theta)
    d = occupancy(mdp, policy, theta, objective=objective)
    return policy.fisher_information(theta, d if mdp.horizon is None else d.sum(axis=0))


@bellman.refuses_overflow
def natural_gradient(mdp, policy, theta, *, objective=Discounted(), damping=0.0):
    """(F + λI)⁻¹ ∇J, shape (D,); the smallest solution F⁺∇J when λ = 0.

    Parameters
    ----------
    mdp, policy, objective
        As in `gradient`.
    theta : array (D,)
        Real parameters.
    damping : float
        λ >= 0, added to the diagonal of the Fisher information. With λ = 0,
        eigenvalues of F, scaled to unit diagonal, below D·ε times the
        largest count as zero.

    Returns
    -------
    array (D,)

    Raises
    ------
    ValueError
        When rewards, added up over an episode, leave float64.

    Examples
    --------
    For a tabular bandit the natural gradient is r(a) minus the mean of r.

    >>> from reinforce_np import TabularSoftmax, examples
    >>> natural_gradient(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0])
    array([-0.5,  0.5])
    """
    damping = arguments.number("damping", damping, low=0.0)
    theta = policy.real_theta(theta)
    F = fisher_information(mdp, policy, theta, objective=objective)
    g = gradient(mdp, policy, theta, objective=objective)
    if damping:
        return np.linalg.solve(F + damping * np.eye(len(g)), g)
    return smallest_solution(F, g)


def smallest_solution(F, g):
    """Return F⁺g for a positive semi-definite F whose rows differ in size by any factor.

    States that are visited a billion times less than others, or actions as
    improbable, are no null directions. So F is first scaled to unit diagonal;
    what is null there is null, and is then projected out of the solution.
    """
    known = np.diag(F) > 0
    size = np.sqrt(np.diag(F)[known])
    eigenvalues, vectors = np.linalg.eigh(F[np.ix_(known, known)] / size / size[:, None])
    kept = eigenvalues > len(g) * np.finfo(float).eps * max(eigenvalues[-1], 0.0) if len(size) else []
    y = vectors[:, kept] @ ((vectors[:, kept].T @ (g[known] / size)) / eigenvalues[kept]) / size
    null = vectors[:, ~np.asarray(kept, dtype=bool)] / size[:, None]
    null, _ = np.linalg.qr(null / np.maximum(np.abs(null).max(axis=0, initial=0.0), np.finfo(float).tiny))
    x = np.zeros_like(g)
    x[known] = y - null @ (null.T @ y)
    return x
