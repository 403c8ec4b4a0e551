"""Linear-quadratic control: J and its gradient by two routes, and continuous scores checked as exactly as discrete ones."""

import math

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import (
    GAE,
    EntropyBonus,
    EnvironmentSource,
    Estimator,
    KLPenalty,
    RewardToGo,
    TokenRatio,
    TooLargeError,
    TotalReturn,
    complex_step,
    finite_difference,
)
from reinforce_np.checks.means import catoni, catoni_log_probability, catoni_scale
from reinforce_np.exact.linear_quadratic import LinearQuadratic, gradient, objective, one_step_moments, quadrature

ALPHA = 1e-6  # false alarms of each statistical test, over all its components


def problem(d=3, m=2, *, horizon, gamma=0.9, noise=True, seed=0):
    rng = np.random.default_rng(seed)
    A, B, start = 0.5 * rng.normal(size=(d, d)), rng.normal(size=(d, m)), rng.normal(size=(2, d))
    Q, R = np.eye(d) + 0.3, np.diag(np.arange(1.0, m + 1)) + 0.2
    W = np.diag([0.0, *np.linspace(0.1, 0.3, d - 1)]) if noise and d > 1 else 0.3 * np.eye(d) * noise
    theta = 0.2 * rng.normal(size=d * m + m)
    return LinearQuadratic(A, B, Q=Q, R=R, W=W, initial=start, gamma=gamma, horizon=horizon), theta


@pytest.mark.parametrize("horizon, gamma", [(1, 0.9), (4, 0.9), (4, 1.0), (None, 0.8)])
def test_gradient_backwards_is_the_derivative_of_the_objective_forwards(horizon, gamma):
    lq, theta = problem(horizon=horizon, gamma=gamma)
    claimed = gradient(lq, theta)
    assert_exact(claimed, complex_step(lambda t: objective(lq, t), theta))
    differences, bound = finite_difference(lambda t: objective(lq, t), theta)
    assert np.all(np.abs(claimed - differences) <= bound + 1e-9)


def test_no_end_is_the_limit_of_late_ends():
    lq, theta = problem(horizon=None, gamma=0.8)
    late, _ = problem(horizon=200, gamma=0.8)
    assert_exact(objective(lq, theta), objective(late, theta))
    assert_exact(gradient(lq, theta), gradient(late, theta))


def test_late_ends_are_near_to_none_though_the_state_grows_beyond_all_bounds():
    """x' = 1.2 x: after 4,000 steps x² is beyond float64, γᵗ x² is not."""
    options = {"Q": [[1.0]], "R": [[1.0]], "W": [[0.3]], "initial": [[1.0]], "gamma": 0.5}
    late, never = (LinearQuadratic([[1.2]], [[1.0]], horizon=T, **options) for T in (4000, None))
    assert_exact(objective(late, np.zeros(2)), objective(never, np.zeros(2)))
    assert_exact(gradient(late, np.zeros(2)), gradient(never, np.zeros(2)))


@pytest.mark.parametrize("wrong", [[np.nan, 0.0], [0.0, np.inf], [0.0, 400.0]])
@pytest.mark.parametrize("horizon", [3, None])
def test_what_theta_may_be(horizon, wrong):
    lq = problem(1, 1, horizon=horizon, gamma=0.8)[0]
    for f in (objective, gradient):
        with pytest.raises(ValueError, match=r"theta\[[01]\]="):
            f(lq, np.array(wrong))


def test_objective_is_what_the_steps_cost():
    """One deterministic trajectory, added up by hand; the deviation is too small to matter."""
    lq, theta = problem(horizon=5, noise=False)
    theta[-2:] = -300.0
    total = 0.0
    for start in lq.initial:
        x, (K, _) = start, lq.gain_and_deviation(theta)
        for t in range(5):
            u = K @ x
            total -= 0.9**t * (x @ lq.Q @ x + u @ lq.R @ u) / len(lq.initial)
            x = lq.A @ x + lq.B @ u
    assert_exact(objective(lq, theta), total)


def test_gradient_vanishes_at_the_gain_of_the_riccati_equation():
    lq, theta = problem(horizon=None)
    P = np.zeros_like(lq.A)
    for _ in range(2000):
        S = lq.R + lq.gamma * lq.B.T @ P @ lq.B
        K = -np.linalg.solve(S, lq.gamma * lq.B.T @ P @ lq.A)
        P = lq.Q + lq.gamma * lq.A.T @ P @ (lq.A + lq.B @ K)
    best = np.concatenate([K.T.ravel(), theta[-2:]])
    assert np.abs(gradient(lq, best)[:-2]).max() < 1e-9 < np.abs(gradient(lq, theta)[:-2]).max()


# --- every estimator, exactly: by quadrature over the noise


def test_what_leaves_float64_is_refused():
    unstable = LinearQuadratic(
        [[2.0]], [[1.0]], Q=[[1.0]], R=[[1.0]], W=[[1.0]], initial=[[1.0]], gamma=1.0, horizon=2000
    )
    for function in (objective, gradient):
        with pytest.raises(ValueError, match=f"{function.__name__} leaves float64: .* is not stable"):
            function(unstable, np.zeros(2))
        with pytest.raises(ValueError, match=f"{function.__name__} leaves float64: theta is too large"):
            function(unstable, np.array([1e200, 0.0]))
        assert np.all(np.isfinite(function(unstable, np.array([-1.5, 0.0]))))


SMALL, THETA = problem(2, 1, horizon=2, seed=3)


@pytest.fixture(scope="module")
def listed():
    return quadrature(SMALL, THETA, nodes=3)


def mean_of(estimator, listed, theta=THETA):
    draw, weights = listed
    return weights @ estimator.per_trajectory(draw.trajectories, draw.mdp, draw.policy, theta)


def test_unbiased_estimators_are_unbiased_for_continuous_actions_too(listed):
    draw, weights = listed
    exact, scale = gradient(SMALL, THETA), 100.0
    assert_exact(weights.sum(), 1.0)
    critic = np.array([1.0, 0.3]) @ draw.observations.T - (draw.observations**2).sum(axis=1)
    for estimator in (
        Estimator(RewardToGo()),
        Estimator(TotalReturn(baseline=-2.0)),
        Estimator(RewardToGo(critic)),
        Estimator(GAE(critic, lam=1.0)),
    ):
        assert_exact(mean_of(estimator, listed), exact, scale=scale)
    for wrong in (  # the negative controls
        Estimator(RewardToGo(), discounted_score=False),
        Estimator(GAE(critic, lam=0.5)),
        Estimator(GAE(critic, lam=1.0, bootstrap_at_truncation=True)),
    ):
        assert np.abs(mean_of(wrong, listed) - exact).max() > 1e-3


def regularised(lq, theta, reference, beta_kl, beta_entropy):
    """J − β KL + β' H for one action and two starting points, for real or complex θ: second moments once more, in a loop."""
    K, sigma = lq.gain_and_deviation(theta)
    K_ref, sigma_ref = lq.gain_and_deviation(reference)
    F, X, J = lq.A + lq.B @ K, lq.initial.T @ lq.initial / 2, objective(lq, theta)
    for t in range(lq.horizon):
        gap = ((K - K_ref) @ X @ (K - K_ref).T)[0, 0]
        kl = np.log(sigma_ref[0] / sigma[0]) + (sigma[0] ** 2 + gap) / (2 * sigma_ref[0] ** 2) - 0.5
        entropy = np.log(sigma[0]) + 0.5 * math.log(2 * math.pi * math.e)
        J = J - lq.gamma**t * (beta_kl * kl - beta_entropy * entropy)
        X = F @ X @ F.T + (lq.B * sigma**2) @ lq.B.T + lq.W
    return J


def test_penalties_in_the_reward_are_exact_for_densities_too(listed):
    reference = THETA + np.array([0.3, -0.2, 0.1])
    for penalty, betas in {KLPenalty(reference, 0.7): (0.7, 0.0), EntropyBonus(0.4): (0.0, 0.4)}.items():
        exact = complex_step(lambda t, b=betas: np.array([regularised(SMALL, row, reference, *b) for row in t]), THETA)
        assert_exact(mean_of(Estimator(RewardToGo(), penalty=penalty), listed), exact, scale=100.0)
        assert np.abs(mean_of(Estimator(RewardToGo()), listed) - exact).max() > 1e-3


def test_closed_forms_in_the_loss_are_exact_for_one_step():
    """Integrals over all actions, which a Gaussian policy knows: d(s) ∇KL(s) and d(s) ∇H(s)."""
    lq, theta = problem(2, 1, horizon=1, seed=3)
    one, reference = quadrature(lq, theta), theta + np.array([0.3, -0.2, 0.1])
    kl, entropy = KLPenalty(reference, 0.7, kind="full", place="loss"), EntropyBonus(0.4, place="loss", sampled=False)
    for penalty, betas in {(kl, entropy): (0.7, 0.4), (kl,): (0.7, 0.0)}.items():
        exact = complex_step(lambda t, b=betas: np.array([regularised(lq, row, reference, *b) for row in t]), theta)
        assert_exact(mean_of(Estimator(RewardToGo(), penalty=penalty), one, theta), exact, scale=100.0)


def test_ratios_of_densities_may_exceed_one():
    """Off-policy: the weight is π/μ, also where the densities are larger than one."""
    lq, behaviour = problem(2, 1, horizon=1, seed=3)
    behaviour[-1] -= 4.0
    theta = behaviour + np.array([0.01, 0.0, 0.1])
    draw, _ = quadrature(lq, behaviour)
    t = draw.trajectories
    assert t.log_probabilities.max() > 0
    weights = Estimator(RewardToGo(), ratio=TokenRatio()).weights(t, draw.mdp, draw.policy, theta)
    plain = Estimator(RewardToGo()).weights(t, draw.mdp, draw.policy, theta)
    log_pi = [draw.policy.log_probabilities(each)[t.states, 0] for each in (theta, behaviour)]
    assert_exact(weights, np.exp(log_pi[0] - log_pi[1]) * plain)


# --- one step: variance in closed form


@pytest.mark.parametrize("baseline", [0.0, np.array([-3.0, 1.0])])
def test_one_step_covariance_is_that_of_the_quadrature(baseline):
    lq, theta = problem(2, 2, horizon=1, seed=5)
    draw, weights = quadrature(lq, theta)
    table = np.zeros(draw.mdp.n_states)
    table[draw.trajectories.states[:, 0]] = np.repeat(np.broadcast_to(baseline, (2,)), 25)
    estimates = Estimator(RewardToGo(table)).per_trajectory(draw.trajectories, draw.mdp, draw.policy, theta)
    mean = weights @ estimates
    found = one_step_moments(lq, theta, baseline=baseline)
    assert_exact(found.mean, gradient(lq, theta), scale=10.0)
    assert_exact(mean, found.mean, scale=10.0)
    assert_exact((estimates * weights[:, None]).T @ estimates - np.outer(mean, mean), found.covariance)


def test_the_environment_is_the_problem():
    lq, theta = problem(horizon=4)
    draw = EnvironmentSource(lq.environment, lq.policy, gamma=lq.gamma).draw(theta, 5, rng=0)
    t, gaps = draw.trajectories, []
    assert t.truncated.all() and not t.terminated.any() and t.n_steps == 4
    for s, reward in zip(t.states.ravel(), t.rewards.ravel()):
        x, u = draw.observations[s], draw.actions[s]
        assert_exact(reward, -(x @ lq.Q @ x) - u @ lq.R @ u)
        gaps.append(draw.observations[s + 1] - lq.A @ x - lq.B @ u)
    gaps = np.array(gaps)
    assert np.abs(gaps[:, 0]).max() < 1e-12  # no noise in the first component
    assert np.all(np.abs(gaps[:, 1:]).max(axis=0) < 5 * np.sqrt(np.diag(lq.W)[1:]))
    assert np.all(np.abs(gaps[:, 1:]).std(axis=0) > 0.1)
    starts = draw.observations[t.states[:, 0]]
    assert all(any(np.array_equal(x, start) for start in lq.initial) for x in starts)


def test_black_box_estimates_have_the_exact_mean_and_variance():
    lq, theta = problem(2, 2, horizon=1, seed=5)
    exact = one_step_moments(lq, theta)
    variance = np.diag(exact.covariance)
    draw = EnvironmentSource(lq.environment, lq.policy, gamma=lq.gamma, lanes=200, block_size=2000).draw(
        theta, 2000, rng=0
    )
    reinforce = Estimator(RewardToGo())
    estimates = np.concatenate(
        [
            reinforce.per_trajectory(draw.trajectories.take(slice(i, i + 200)), draw.mdp, draw.policy, theta)
            for i in range(0, 2000, 200)
        ]
    )

    def rejected(mean):
        n, odds = len(estimates), math.log(2 * len(mean) / ALPHA)
        scale = catoni_scale(n, variance, odds + math.log(100))
        statistic = np.abs(catoni(scale * (estimates - mean)).sum(axis=0))
        return bool((catoni_log_probability(statistic, n, variance, scale) < -odds).any())

    assert not rejected(exact.mean)
    assert rejected(np.zeros_like(exact.mean))  # a gradient that is missing would show
    ratio = estimates.var(axis=0) / variance
    assert np.all((0.5 < ratio) & (ratio < 2.0))  # description; the covariance is checked above, exactly


def test_refusals_name_what_is_wrong():
    lq, theta = problem(horizon=None)
    arguments = {
        "A": lq.A,
        "B": lq.B,
        "Q": lq.Q,
        "R": lq.R,
        "W": lq.W,
        "initial": lq.initial,
        "gamma": 0.9,
        "horizon": 3,
    }
    for change, message in {
        "Q is not symmetric": {"Q": lq.Q + np.eye(3)[[1, 2, 0]]},
        "eigenvalue": {"W": -np.eye(3)},
        "needs gamma < 1": {"gamma": 1.0, "horizon": None},
        r"B has shape \(2, 2\)": {"B": np.ones((2, 2))},
        "gamma=2": {"gamma": 2},
    }.items():
        with pytest.raises(ValueError, match=change):
            LinearQuadratic(**(arguments | message))
    for call, change in {
        lambda: objective(lq, 9 + theta): "unstable",
        lambda: gradient(lq, theta[:-1]): "theta has shape",
        lambda: quadrature(lq, theta): "horizon=None",
    }.items():
        with pytest.raises(ValueError, match=change):
            call()
    with pytest.raises(TooLargeError, match="more than"):
        quadrature(problem(horizon=9)[0], theta)
