"""Policies for observations: features against their formulas, scores against complex steps and quadrature."""

import itertools

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import (
    FeatureSoftmax,
    GaussianPolicy,
    LinearSoftmax,
    NeuralSoftmax,
    TabularSoftmax,
    TooLargeError,
    check_gradient,
    complex_step,
    features,
)
from reinforce_np.policies.gaussian import log_stretch
from reinforce_np.policies.observed import drawn

LOW, HIGH = np.array([-1.0, 0.0]), np.array([2.0, 4.0])
SCORE = 1e-9  # what a hand-written score may differ from a complex step by, relative to its largest component


def observations(n=7, seed=0):
    return np.random.default_rng(seed).uniform(LOW - 0.5, HIGH + 0.5, size=(n, 2))


# --- features


def unit(o, j):
    return (o[j] - LOW[j]) / (HIGH[j] - LOW[j])


def inside(o, j):
    return min(max(unit(o, j), 0.0), 1.0)


def slow_polynomial(o, c):
    return np.prod([(2 * unit(o, j) - 1) ** c[j] for j in range(2)])


def slow_fourier(o, c):
    return np.cos(np.pi * sum(c[j] * inside(o, j) for j in range(2)))


@pytest.mark.parametrize("record, slow", [(features.Polynomial, slow_polynomial), (features.Fourier, slow_fourier)])
@pytest.mark.parametrize("order, total", [(0, None), (1, 1), (2, None), (3, 4)])
def test_products_and_waves_are_their_formulas(record, slow, order, total):
    phi = record(LOW, HIGH, order=order, total=total)
    chosen = (phi.exponents if record is features.Polynomial else phi.frequencies).tolist()
    wanted = [c for c in itertools.product(range(order + 1), repeat=2) if total is None or sum(c) <= total]
    assert sorted(map(tuple, chosen)) == wanted and chosen[0] == [0, 0] and phi.n_features == len(wanted)
    assert_exact(phi(observations()), [[slow(o, c) for c in chosen] for o in observations()], scale=100.0)


def test_radial_basis_is_its_formula():
    phi = features.RadialBasis(LOW, HIGH, centres=[3, 1], width=0.4)
    centres = [(0.0, 0.5), (0.5, 0.5), (1.0, 0.5)]
    wanted = [
        [1.0] + [np.exp(-sum((unit(o, j) - c[j]) ** 2 for j in range(2)) / (2 * 0.4**2)) for c in centres]
        for o in observations()
    ]
    assert_exact(phi(observations()), wanted)


def test_tiles_are_shifted_grids():
    tiles, tilings = np.array([3, 2]), 4
    phi = features.Tiles(LOW, HIGH, tiles=tiles, tilings=tilings)
    assert phi.n_features == 4 * 4 * 3
    points = np.concatenate([observations(200), [LOW, HIGH]])
    found = phi(points)
    assert np.all(found.sum(axis=1) == tilings) and set(np.unique(found)) == {0.0, 1.0}
    for k in range(tilings):
        cell = [
            tuple(int(np.floor(inside(o, j) * tiles[j] + (k * (2 * j + 1) % tilings) / tilings)) for j in range(2))
            for o in points
        ]
        same = [[a == b for b in cell] for a in cell]
        block = found[:, k * 12 : (k + 1) * 12]
        assert np.array_equal(block @ block.T == 1, same)


def test_features_refuse_by_name():
    for make, message in {
        lambda: features.Polynomial([0.0], [0.0], order=1): r"low\[0\]=0.0 is not below",
        lambda: features.Fourier(np.zeros(20), np.ones(20), order=3): "above the limit",
        lambda: features.Polynomial(LOW, HIGH, order=1)(np.zeros((2, 3))): r"shape \(2, 3\)",
        lambda: features.OneHot(3)([[3]]): "out of range",
        lambda: features.FeatureFunction(lambda o: o, n_features=5)(np.zeros((2, 3))): "n_features=5",
        lambda: features.RadialBasis(LOW, HIGH, centres=2, width=0.0): "width=0.0",
    }.items():
        with pytest.raises((ValueError, TooLargeError), match=message):
            make()
    with pytest.raises(TypeError, match="has no n_features"):
        FeatureSoftmax(lambda o: o, 2)


# --- softmax


PHI = features.Polynomial(LOW, HIGH, order=2, total=2)


def theta_of(policy, seed=1):
    return np.random.default_rng(seed).normal(size=policy.n_parameters)


def test_softmax_on_features_is_linear_softmax_over_the_visited_observations():
    policy = FeatureSoftmax(PHI, 3, temperature=0.7)
    visited = policy.on(observations())
    blocks = np.einsum("sf,ab->safb", PHI(observations()), np.eye(3)).reshape(7, 3, -1)
    slow, theta, rng = LinearSoftmax(blocks, temperature=0.7), theta_of(policy), np.random.default_rng(2)
    w = rng.normal(size=(4, 7, 3))
    for name, more in {
        "probabilities": (),
        "log_probabilities": (),
        "score": (),
        "entropy": (),
        "contract": (w,),
        "hessian_contract": (w[0],),
        "fisher_information": (w[0, :, 0],),
        "kl": (np.zeros_like(theta),),
        "score_along": (rng.normal(size=(2, len(theta))),),
    }.items():
        assert_exact(getattr(visited, name)(theta, *more), getattr(slow, name)(theta, *more), scale=50.0)
    assert_exact(visited.slopes, slow.slopes)
    assert_exact(visited.pull_back_magnitudes(np.abs(w[0])), slow.pull_back_magnitudes(np.abs(w[0])))


def test_one_hot_features_are_a_table():
    policy, table = FeatureSoftmax(features.OneHot(4), 3), TabularSoftmax(4, 3)
    theta = theta_of(table)
    assert_exact(policy.on(np.arange(4.0)[:, None]).score(theta), table.score(theta))


def gaussian(deviation=None, squashed=False):
    bounds = {"low": [-1.0, 0.0], "high": [1.0, 4.0]} if squashed else {}
    return GaussianPolicy(PHI, 2, deviation_features=deviation, **bounds)


POLICIES = {
    "linear": FeatureSoftmax(PHI, 3, temperature=0.7),
    "network": NeuralSoftmax(features.Scaled(LOW, HIGH), 3, n_hidden=5),
    "gaussian": gaussian(),
    "gaussian, feature-linear deviation": gaussian(features.Polynomial(LOW, HIGH, order=1, total=1)),
    "gaussian, squashed": gaussian(squashed=True),
}


def visited_by(policy):
    actions = np.random.default_rng(3).normal(size=(7, 2)) if policy.is_density else None
    return policy.on(observations(), actions)


@pytest.mark.parametrize("name", POLICIES)
def test_score_is_the_complex_step_of_the_log_probability(name, monkeypatch):
    policy, visited = POLICIES[name], visited_by(POLICIES[name])
    theta = 0.3 * theta_of(policy)
    score = visited.score(theta)
    assert score.shape == (7, visited.n_actions, policy.n_parameters)
    for s, a in itertools.product(range(7), range(visited.n_actions)):
        exact = complex_step(lambda t, s=s, a=a: visited.log_probabilities(t)[..., s, a], theta)
        assert np.abs(score[s, a] - exact).max() <= SCORE * np.abs(exact).max()
    w = np.random.default_rng(4).normal(size=(3, 7, visited.n_actions))
    w[0, 2:] = 0.0
    contracted = visited.contract(theta, w)
    assert_exact(contracted, np.einsum("nsa,sad->nd", w, score), scale=100.0)
    assert_exact(visited.contract(theta, w[1]), contracted[1], scale=100.0)
    if not policy.is_density:
        assert_exact(visited.contract(theta, w, probabilities=visited.probabilities(theta)), contracted, scale=100.0)
    monkeypatch.setattr("reinforce_np.policies.observed.FEW", 0)  # row by row
    assert_exact(visited.contract(theta, w), contracted, scale=100.0)
    assert_exact(visited.contract(np.stack([theta, theta / 2]), w[:2])[0], contracted[0], scale=100.0)

    def objective(t):
        return (w[0] * visited.log_probabilities(t)).sum()

    assert check_gradient(objective, contracted[0], theta)
    assert not check_gradient(objective, 1.01 * contracted[0], theta)  # the negative control


def test_network_has_the_moments_of_a_score():
    policy = POLICIES["network"]
    visited, theta, d = policy.on(observations()), theta_of(policy), np.arange(7.0)
    pi, psi = visited.probabilities(theta), visited.score(theta)
    assert_exact(np.einsum("sa,sad->sd", pi, psi), np.zeros((7, policy.n_parameters)), scale=10.0)
    assert_exact(visited.fisher_information(theta, d), np.einsum("s,sa,sad,sae->de", d, pi, psi, psi))
    v = np.random.default_rng(0).normal(size=(2, policy.n_parameters))
    assert_exact(visited.score_along(theta, v), psi @ v.T)
    start = policy.initial_theta(rng=0)
    assert np.all(policy.on(observations()).probabilities(start) == 1 / 3)
    assert np.any(visited.contract(start, np.eye(7, 3)) != 0)  # and yet it can learn
    with pytest.raises(TypeError, match="fisher_information"):
        visited.hessian_contract(theta, pi)


# --- Gaussian


def every_action(policy, theta, o, nodes=6):
    """A Gauss–Hermite grid of actions at one observation: the visited policy over them, and their probabilities."""
    z, p = np.polynomial.hermite_e.hermegauss(nodes)
    z, p = np.array(list(itertools.product(z, z))), np.prod(list(itertools.product(p, p)), axis=1) / (2 * np.pi)
    mu, log_sigma = policy.on(o[None], np.zeros((1, 2))).law(theta)
    return policy.on(np.repeat(o[None], len(z), axis=0), mu + np.exp(log_sigma) * z), p


@pytest.mark.parametrize("name", [name for name in POLICIES if "gaussian" in name])
def test_gaussian_scores_have_their_moments(name):
    """E[ψ] = 0, E[ψψᵀ] is the Fisher matrix, E[−log π] the entropy, E[log π/π_ref] the divergence: by quadrature, exactly."""
    policy = POLICIES[name]
    theta, reference = 0.3 * theta_of(policy), 0.3 * theta_of(policy, seed=5)
    o = observations()[0]
    visited, p = every_action(policy, theta, o)
    psi = visited.score(theta)[:, 0]
    assert_exact(p @ psi, np.zeros(policy.n_parameters), scale=100.0)
    weights = np.eye(len(p))[0]
    fisher = visited.fisher_information(theta, weights)
    assert_exact((psi * p[:, None]).T @ psi, fisher)
    assert_exact(p @ visited.log_ratio(theta, reference)[:, 0], visited.kl(theta, reference)[0], scale=10.0)
    assert_exact(visited.kl(theta, theta), np.zeros(len(p)), scale=1.0)
    d = np.random.default_rng(6).normal(size=len(p))
    slope = complex_step(lambda t: visited.kl(t, reference) @ d, theta)
    assert_exact(visited.kl_gradient(theta, reference, d), slope, scale=100.0)
    if policy.low is None:
        assert_exact(
            visited.entropy_gradient(theta, d), complex_step(lambda t: visited.entropy(t) @ d, theta), scale=100.0
        )
        assert_exact(-p @ visited.log_probabilities(theta)[:, 0], visited.entropy(theta)[0], scale=10.0)
    else:
        with pytest.raises(TypeError, match="sampled=True"):
            visited.entropy(theta)


@pytest.mark.parametrize("squashed", [False, True])
def test_a_gaussian_density_integrates_to_one_over_what_the_environment_is_given(squashed):
    bounds = {"low": [1.0], "high": [4.0]} if squashed else {}
    policy = GaussianPolicy(features.OneHot(1), 1, **bounds)
    theta = np.array([0.3, -0.2])
    u = np.linspace(-9, 9, 20_001)[:, None]
    density = np.exp(policy.on(np.zeros_like(u), u).log_probabilities(theta)[:, 0])
    a = policy.for_environment(u)[:, 0]
    assert abs((density[1:] + density[:-1]) @ np.diff(a) / 2 - 1) < 1e-6
    assert not squashed or (1.0 <= a.min() and a.max() <= 4.0)


def test_the_stretch_of_tanh_keeps_its_digits():
    u = np.array([[-3.0], [0.0], [0.7], [5.0]])
    assert_exact(log_stretch(u, np.array([2.0])), np.log(2.0 * (1 - np.tanh(u) ** 2)).sum(axis=1), scale=10.0)
    assert_exact(log_stretch(np.array([[-800.0]]), np.ones(1)), [2 * np.log(2.0) - 1600.0])


def test_gaussian_refuses_by_name():
    visited = visited_by(POLICIES["gaussian"])
    theta = np.zeros(visited.n_parameters)
    with pytest.raises(TypeError, match="closed forms"):
        visited.probabilities(theta)
    with pytest.raises(ValueError, match="reference has shape"):
        visited.log_ratio(theta, np.full((7, 1), 1.0))
    with pytest.raises(ValueError, match="log_sigma"):
        visited.log_probabilities(np.full_like(theta, 400.0))
    with pytest.raises(ValueError, match="both bounds or neither"):
        GaussianPolicy(PHI, 1, low=[0.0])
    with pytest.raises(ValueError, match="not below high"):
        GaussianPolicy(PHI, 1, low=[0.0], high=[0.0])


# --- acting


class Grid:
    """A generator that draws every quantile once: frequencies are probabilities up to one part in n."""

    def random(self, n):
        return (np.arange(n) + 0.5) / n


@pytest.mark.parametrize("name", ["linear", "network"])
def test_actions_are_drawn_with_their_probabilities(name):
    policy, n = POLICIES[name], 1000
    theta, o = theta_of(policy), observations(1)
    actions, log_probabilities = policy.actor(theta)(np.repeat(o, n, axis=0), Grid())
    visited = policy.on(o)
    assert np.abs(np.bincount(actions, minlength=3) / n - visited.probabilities(theta)[0]).max() <= 1 / n
    assert_exact(log_probabilities, visited.log_probabilities(theta)[0, actions], scale=10.0)


@pytest.mark.parametrize("name", [name for name in POLICIES if "gaussian" in name])
def test_gaussian_actions_are_mean_plus_noise(name):
    policy = POLICIES[name]
    theta = 0.3 * theta_of(policy)
    u, log_probabilities = policy.actor(theta)(observations(), np.random.default_rng(0))
    visited = policy.on(observations(), u)
    assert_exact(visited.standardised(theta)[0], np.random.default_rng(0).standard_normal((7, 2)), scale=10.0)
    assert_exact(log_probabilities, visited.log_probabilities(theta)[:, 0], scale=10.0)


def test_acting_refuses_parameters_that_overflow():
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(ValueError, match="not finite"):
        POLICIES["linear"].actor(np.full(18, 1e308))(observations(), Grid())
    with pytest.raises(ValueError, match="theta has shape"):
        POLICIES["network"].actor(np.zeros(3))


def test_the_same_draw_is_the_same_bits_wherever_its_arrays_lie(monkeypatch):
    """NumPy 1.26 takes an input with gaps to overlap an output that lies just behind it, and then rounds otherwise."""
    log, seen = np.log, []
    monkeypatch.setattr(np, "log", lambda x: seen.append(x.flags.c_contiguous) or log(x))
    drawn(np.linspace(-1.0, 1.0, 12).reshape(4, 3), np.random.default_rng(0))
    assert seen == [True]
