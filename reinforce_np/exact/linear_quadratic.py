"""Linear-quadratic control with a linear-Gaussian policy: the continuous case whose answers are closed forms.

    x' = A x + B u + w,  w ~ N(0, W)          r = −xᵀQx − uᵀRu          u = K x + σ z,  z ~ N(0, 1)

Everything here depends on the law of x only through its second moment, and

    X' = F X Fᵀ + B Σ Bᵀ + W,                 F = A + BK,  Σ = diag σ²
    P  = Q + KᵀRK + γ Fᵀ P′ F                 −xᵀPx is the value of x, up to a constant

so J, its gradient and the covariance of a one-step estimate need no sampling;
and the expectation of *any* estimator over any few steps is a Gaussian
integral of polynomials, which a quadrature of five nodes does exactly.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np

from reinforce_np import arguments
from reinforce_np.environments.draws import Episodes, as_draw
from reinforce_np.policies.features import Scaled
from reinforce_np.policies.gaussian import WIDEST as WIDEST_DEVIATION
from reinforce_np.policies.gaussian import GaussianPolicy

LARGEST = 2**20  # trajectories of a quadrature
WIDEST = 64  # components of x in a Lyapunov equation, solved as a system of their square


@dataclass(frozen=True, eq=False)
class LinearQuadratic:
    """A linear system with quadratic costs, stepped in the way of a `FiniteMDP`.

    For an affine policy let the first component of x be the constant 1.

    Parameters
    ----------
    A, B : array (d, d) and (d, m)
        The dynamics.
    Q, R : array (d, d) and (m, m)
        Costs, symmetric.
    W : array (d, d)
        Covariance of the noise.
    initial : array (I, d)
        Starting points, each as likely as the others.
    gamma : float
        Discount per step.
    horizon : int or None
        Steps before truncation; None for no end, which needs γ < 1.

    Examples
    --------
    >>> problem = LinearQuadratic([[1.0]], [[1.0]], Q=[[1.0]], R=[[0.1]], W=[[0.0]], initial=[[1.0]], gamma=0.9, horizon=None)
    >>> theta = np.array([-0.5, np.log(0.1)])                  # u = −x/2 + z/10
    >>> objective(problem, theta), gradient(problem, theta).round(3)
    (-1.4516..., array([-1.533, -0.258]))
    """

    A: np.ndarray
    B: np.ndarray
    _: KW_ONLY
    Q: np.ndarray
    R: np.ndarray
    W: np.ndarray
    initial: np.ndarray
    gamma: float
    horizon: int | None

    def __post_init__(self):
        A = arguments.real_array("A", self.A, ndim=2)
        d = len(A)
        B = arguments.real_array("B", self.B, shape=(d, None))
        m = B.shape[1]
        arrays = {
            "A": arguments.real_array("A", A, shape=(d, d)),
            "B": B,
            "Q": _symmetric("Q", self.Q, d),
            "R": _symmetric("R", self.R, m),
            "W": _symmetric("W", self.W, d),
            "initial": arguments.real_array("initial", self.initial, shape=(None, d)),
        }
        for name, value in arrays.items():
            if not value.size:
                raise ValueError(f"{name} has shape {value.shape}; it must not be empty")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        lowest = np.linalg.eigvalsh(arrays["W"])[0]
        if lowest < -1e-12 * np.abs(arrays["W"]).max():
            raise ValueError(f"W has the eigenvalue {lowest:g}; a covariance has none below zero")
        gamma = arguments.number("gamma", self.gamma, low=0.0, high=1.0, rule="a discount in [0, 1]")
        object.__setattr__(self, "gamma", gamma)
        if self.horizon is not None:
            object.__setattr__(self, "horizon", arguments.integer("horizon", self.horizon, low=1))
        elif gamma == 1.0:
            raise ValueError(
                "horizon=None needs gamma < 1, because noise costs something at every step; give a horizon"
            )

    @property
    def policy(self):
        """The policy of these parameters: θ is Kᵀ (d, m), row by row, and then log σ (m,)."""
        d, m = self.B.shape
        return GaussianPolicy(Scaled(low=-np.ones(d), high=np.ones(d)), n_components=m)

    def gain_and_deviation(self, theta):
        """Return K (m, d) and σ (m,)."""
        theta = np.asarray(theta)
        d, m = self.B.shape
        if theta.shape != (d * m + m,):
            raise ValueError(
                f"theta has shape {theta.shape}; it must have shape ({d * m + m},): d·m gains, m log-deviations"
            )
        wrong = ~np.isfinite(theta)
        wrong[d * m :] |= np.abs(theta[d * m :].real) > WIDEST_DEVIATION
        if wrong.any():
            i = arguments.first_index(wrong)
            raise ValueError(
                f"{arguments.at('theta', i)}={theta[i]} is not allowed; gains are finite, and log-deviations at most "
                f"{WIDEST_DEVIATION:g} in size"
            )
        return theta[: d * m].reshape(d, m).T, np.exp(theta[d * m :])

    def environment(self):
        """Return an environment with Gymnasium's ``reset`` and ``step``, for `EnvironmentSource`."""
        return LinearQuadraticEnvironment(self)


class LinearQuadraticEnvironment:
    """The same problem as a black box."""

    def __init__(self, problem):
        self.problem, self.root = problem, covariance_root(problem.W)

    def reset(self, *, seed=None):
        """Return a starting point."""
        self.rng, self.t = np.random.default_rng(seed), 0
        self.x = self.problem.initial[self.rng.integers(len(self.problem.initial))]
        return self.x, {}

    def step(self, action):
        """Return x', r, whether the episode terminated (never), was truncated, and nothing else."""
        p, u = self.problem, np.asarray(action)
        reward = -(self.x @ p.Q @ self.x) - u @ p.R @ u
        self.x = p.A @ self.x + p.B @ u + self.root @ self.rng.standard_normal(self.root.shape[1])
        self.t += 1
        return self.x, reward, False, self.t == p.horizon, {}


@np.errstate(over="ignore", invalid="ignore")  # refused in the end
def objective(problem, theta):
    """J = −Σ_t γᵗ E[xᵀQx + uᵀRu], forwards: by the second moments of x.

    Parameters
    ----------
    problem : LinearQuadratic
        The problem.
    theta : array (..., D)
        Kᵀ and log σ, as in `LinearQuadratic.policy`; real or complex.

    Returns
    -------
    float, or array (...)

    Raises
    ------
    ValueError
        When there is no horizon and √γ (A + BK) is not stable: J is −∞; or when it leaves float64 within the horizon.
    """
    theta = np.asarray(theta)
    if theta.ndim > 1:
        return np.array([objective(problem, row) for row in theta.reshape(-1, theta.shape[-1])]).reshape(
            theta.shape[:-1]
        )
    K, sigma = problem.gain_and_deviation(theta)
    F, S, N = _closed_loop(problem, K, sigma)
    X = second_moment(problem.initial)
    steps = np.diag(problem.R) @ sigma**2  # the cost of the noise in u
    if problem.horizon is None:
        discounted = _lyapunov(F, X + problem.gamma / (1 - problem.gamma) * N, problem.gamma)
        J = -np.sum(S * discounted) - steps / (1 - problem.gamma)
    else:
        J = 0.0
        for t in range(problem.horizon):  # X is γᵗ times that of the step: without γ it may grow beyond all bounds
            J = J - np.sum(S * X) - problem.gamma**t * steps
            X = problem.gamma * F @ X @ F.T + problem.gamma ** (t + 1) * N
    J = _finite("objective", J)
    return J if np.iscomplexobj(J) else float(J)


@np.errstate(over="ignore", invalid="ignore")  # refused in the end
def gradient(problem, theta):
    """∇J, from P backwards and X forwards, shape (D,).

        ∂J/∂K       = −2 Σ_t γᵗ [(R + γ BᵀPB) K + γ BᵀPA] X         P of the next step, X of this one
        ∂J/∂log σ_i = −2 Σ_t γᵗ σ_i² (R + γ BᵀPB)_ii

    Parameters
    ----------
    problem : LinearQuadratic
        The problem.
    theta : array (D,)
        Kᵀ and log σ.

    Returns
    -------
    array (D,)

    Raises
    ------
    ValueError
        As `objective`.

    References
    ----------
    Fazel, Ge, Kakade & Mesbahi, "Global Convergence of Policy Gradient Methods
    for the Linear Quadratic Regulator", ICML 2018, lemma 1 (with γ = 1 and
    without noise).
    """
    A, B, gamma = problem.A, problem.B, problem.gamma
    K, sigma = problem.gain_and_deviation(arguments.real_array("theta", theta, ndim=1))
    F, S, N = _closed_loop(problem, K, sigma)
    X = second_moment(problem.initial)
    if problem.horizon is None:
        P = _lyapunov(F.T, S, gamma)
        stages = [(P, _lyapunov(F, X + gamma / (1 - gamma) * N, gamma), 1 / (1 - gamma))]
    else:
        costs = [np.zeros_like(A)]
        for _ in range(problem.horizon - 1):
            costs.append(S + gamma * F.T @ costs[-1] @ F)
        stages = []
        for t, P in enumerate(reversed(costs)):
            stages.append((P, X, gamma**t))
            X = gamma * F @ X @ F.T + gamma ** (t + 1) * N  # γᵗ times that of the step
    dK, dlog = np.zeros_like(K), np.zeros_like(sigma)
    for P, moment, weight in stages:
        curvature = problem.R + gamma * B.T @ P @ B
        dK -= 2 * (curvature @ K + gamma * B.T @ P @ A) @ moment
        dlog -= 2 * weight * sigma**2 * np.diag(curvature)
    return _finite("gradient", np.concatenate([dK.T.ravel(), dlog]))


class OneStepMoments(NamedTuple):
    """Mean (D,) and covariance (D, D) of the estimate from one trajectory of one step."""

    mean: np.ndarray
    covariance: np.ndarray


def one_step_moments(problem, theta, *, baseline=0.0):
    """Mean and covariance of ψ (r − b) over one step, in closed form.

    With q = r − b = c + gᵀz + zᵀHz, where H = −σRσ, g = −2σRKx, and f = q²,
    Stein's identity E[z_i f] = E[∂_i f] gives for y = (z, z² − 1), of which ψ is
    a linear function,

        E[y q]  = (g_i, 2H_ii)
        E[f]    = (c + tr H)² + |g|² + 2 tr H²,              Z = 2ggᵀ + 8H² + 4(c + tr H) H
        E[yyᵀf] = ( δ_ik E[f] + Z_ik                  4 g_i H_kk + 8 H_ik g_k + 4 δ_ik [(c + tr H) g + 2Hg]_i )
                  ( the transpose                     8 H_ii H_kk + 16 H_ik² + δ_ik (4 Z_ii + 2 E[f])         )

    Parameters
    ----------
    problem : LinearQuadratic
        Only its costs and starting points matter.
    theta : array (D,)
        Kᵀ and log σ.
    baseline : float or array (I,)
        b, one number, or one for each starting point.

    Returns
    -------
    OneStepMoments
    """
    theta = arguments.real_array("theta", theta, ndim=1)
    K, sigma = problem.gain_and_deviation(theta)
    starts, m, D = problem.initial, len(sigma), len(theta)
    baseline = np.broadcast_to(arguments.real_array("baseline", baseline), (len(starts),))
    mean, second = np.zeros(D), np.zeros((D, D))
    H = -sigma[:, None] * problem.R * sigma
    diagonal = np.diag(H)
    for x, b in zip(starts, baseline):
        u = K @ x
        c = -x @ problem.Q @ x - u @ problem.R @ u - b
        g = -2 * sigma * (problem.R @ u)
        level = c + np.trace(H)
        f = level**2 + g @ g + 2 * np.sum(H * H)
        Z = 2 * np.outer(g, g) + 8 * H @ H + 4 * level * H
        cross = 4 * np.outer(g, diagonal) + 8 * H * g + np.diag(4 * (level * g + 2 * H @ g))
        squares = 8 * np.outer(diagonal, diagonal) + 16 * H**2 + np.diag(4 * np.diag(Z) + 2 * f)
        y = np.block([[np.eye(m) * f + Z, cross], [cross.T, squares]])
        T = np.zeros((D, 2 * m))  # ψ = T y
        T[: D - m, :m] = np.kron(x[:, None], np.diag(1 / sigma))
        T[D - m :, m:] = np.eye(m)
        mean += T @ np.concatenate([g, 2 * diagonal]) / len(starts)
        second += T @ y @ T.T / len(starts)
    return OneStepMoments(mean, second - np.outer(mean, mean))


def quadrature(problem, theta, *, nodes=5):
    """All trajectories of a Gauss–Hermite quadrature, with their weights: what enumeration is to a finite MDP.

    The estimates of `Estimator.per_trajectory` are polynomials in the noise
    of every step, of degree four at most when the baseline is quadratic in x. So with weights p,
    ``p @ estimates`` is their expectation exactly from three nodes on, and
    second moments are exact from five on.

    Parameters
    ----------
    problem : LinearQuadratic
        With a horizon.
    theta : array (D,)
        Kᵀ and log σ.
    nodes : int
        Nodes per Gaussian variable; there is one for each component of an
        action, and of the noise between two steps.

    Returns
    -------
    draw : Draw
        The trajectories, and how to read them.
    weights : array (N,)
        Their probabilities; they sum to one.

    Raises
    ------
    TooLargeError
        When there are too many.

    Examples
    --------
    >>> from reinforce_np import algorithms
    >>> problem = LinearQuadratic([[1.0]], [[1.0]], Q=[[1.0]], R=[[0.1]], W=[[0.5]], initial=[[1.0]], gamma=0.9, horizon=2)
    >>> theta = np.array([-0.5, np.log(0.3)])
    >>> draw, weights = quadrature(problem, theta)
    >>> weights @ algorithms.reinforce().per_trajectory(draw.trajectories, draw.mdp, draw.policy, theta)
    array([-0.7469 , -0.20025])
    >>> gradient(problem, theta)
    array([-0.7469 , -0.20025])
    """
    if problem.horizon is None:
        raise ValueError("horizon=None has trajectories without end; give the problem a horizon")
    theta, nodes = arguments.real_array("theta", theta, ndim=1), arguments.integer("nodes", nodes, low=1)
    K, sigma = problem.gain_and_deviation(theta)
    T, m, root, n_starts = problem.horizon, len(sigma), covariance_root(problem.W), len(problem.initial)
    n_variables = T * m + (T - 1) * root.shape[1]
    if n_starts * float(nodes) ** n_variables > LARGEST:
        raise arguments.TooLargeError(
            f"{n_starts} starting points with {nodes} nodes for {n_variables} Gaussian variables make more than {LARGEST} trajectories; "
            "use a shorter horizon, fewer nodes, or noise in fewer directions"
        )
    points, p = np.polynomial.hermite_e.hermegauss(nodes)
    index = np.indices((n_starts,) + (nodes,) * n_variables).reshape(1 + n_variables, -1)
    weights = np.prod(p[index[1:]] / math.sqrt(2 * math.pi), axis=0) / n_starts
    noise = points[index[1:]].T  # (N, variables)
    z, w = noise[:, : T * m].reshape(-1, T, m), noise[:, T * m :].reshape(len(noise), T - 1, root.shape[1])
    x = problem.initial[index[0]]
    observations, actions, rewards = [x], [], []
    for t in range(T):
        u = x @ K.T + sigma * z[:, t]
        rewards.append(-np.einsum("ni,ij,nj->n", x, problem.Q, x) - np.einsum("ni,ij,nj->n", u, problem.R, u))
        x = x @ problem.A.T + u @ problem.B.T + (w[:, t] @ root.T if t < T - 1 else 0.0)
        observations.append(x)
        actions.append(u)
    actions.append(np.zeros_like(actions[0]))
    rewards.append(np.zeros(len(x)))
    N, policy = len(x), problem.policy
    rows = {"observations": observations, "actions": actions, "rewards": rewards}
    flat = {name: np.stack(steps, axis=1).reshape(N * (T + 1), *steps[0].shape[1:]) for name, steps in rows.items()}
    log_density = policy.on(flat["observations"], flat["actions"]).log_probabilities(theta)[:, 0]
    ends = {"lengths": np.full(N, T), "terminated": np.zeros(N, dtype=bool), "truncated": np.ones(N, dtype=bool)}
    return as_draw([Episodes(**flat, log_probabilities=log_density, **ends)], policy, problem.gamma), weights


def second_moment(points):
    """E[xxᵀ] of equally likely points (I, d), shape (d, d)."""
    return points.T @ points / len(points)


def covariance_root(W):
    """Return L (d, rank) with LLᵀ = W."""
    values, vectors = np.linalg.eigh(W)
    kept = values > np.finfo(float).eps * len(W) * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def _closed_loop(problem, K, sigma):
    """Return F = A + BK, the cost Q + KᵀRK of x, and the noise BΣBᵀ + W."""
    return problem.A + problem.B @ K, problem.Q + K.T @ problem.R @ K, (problem.B * sigma**2) @ problem.B.T + problem.W


def _finite(name, found):
    """Refuse what left float64."""
    if not arguments.all_finite(found):
        raise ValueError(
            f"{name} leaves float64: theta is too large, or sqrt(gamma) (A + BK) is not stable and costs grow too large within the "
            "horizon; choose another K (the first parameters of theta), a shorter horizon or a smaller gamma"
        )
    return found


def _lyapunov(F, C, gamma):
    """Solve Y = C + γ F Y Fᵀ, refusing what does not converge."""
    d = len(F)
    if d > WIDEST:
        raise arguments.TooLargeError(f"x has {d} components, above the limit of {WIDEST} without a horizon; give one")
    radius = math.sqrt(gamma) * np.abs(np.linalg.eigvals(F.real)).max()
    if radius >= 1:
        raise ValueError(
            f"theta makes sqrt(gamma)·(A + BK) unstable (spectral radius {radius:.6g} >= 1), so J is -inf; use another gain, or "
            "a horizon"
        )
    return np.linalg.solve(np.eye(d * d) - gamma * np.kron(F, F), C.ravel()).reshape(d, d)


def _symmetric(name, value, n):
    matrix = arguments.real_array(name, value, shape=(n, n))
    if np.abs(matrix - matrix.T).max(initial=0.0) > 1e-12 * np.abs(matrix).max(initial=0.0):
        raise ValueError(f"{name} is not symmetric; pass ({name} + {name}ᵀ)/2")
    return (matrix + matrix.T) / 2
