"""Policies against the formulas by loops, complex steps, and decimals of many digits."""

import decimal
import itertools
import tracemalloc

import numpy as np
import problems
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from problems import PROBLEMS, complex_step, score_by_loops, table
from tolerances import EXACT, assert_exact

from reinforce_np import LinearSoftmax, TabularSoftmax, products
from reinforce_np.policies import softmax
from reinforce_np.policies.base import SoftmaxPolicy

GAPS = (0.0, 20.0, 36.7, 37.5, 100.25, 350.0, 699.5, 700.0)
TABULAR = TabularSoftmax(2, 3)
DIGITS = 400
MASK = np.array([[True, False, True], [True, True, False]])
LINEAR = LinearSoftmax([[[1.0, 0.5], [-1.0, 2.0]], [[0.0, 1.0], [1.5, -0.5]]])
SMALL = np.linspace(-1.0, 1.0, 6)


@st.composite
def cases(draw, extreme=True, masks=True):
    """A policy and its parameters."""
    policy = draw(problems.policies(draw(st.integers(1, 3)), draw(st.integers(2, 4)), masks=masks))
    return policy, draw(problems.thetas(policy, extreme=extreme and draw(st.booleans())))


def derivative_of_log(policy, theta):
    """The score by complex step of log_probabilities, zero where those are -inf."""
    taken = np.isfinite(policy.log_probabilities(theta))
    return complex_step(lambda x: np.where(taken, policy.log_probabilities(x), 0.0), theta)


# What the generators must produce.


@pytest.mark.parametrize(
    "wanted",
    [
        lambda p: p[0].temperature != 1,
        lambda p: isinstance(p[0], LinearSoftmax) and p[0].mask is not None and not p[0].mask.all(),
        lambda p: isinstance(p[0], TabularSoftmax) and p[0].mask is not None and np.isinf(p[1]).any(),
        lambda p: np.ptp(p[1][np.isfinite(p[1])]) / p[0].temperature == 700,
    ],
)
def test_hard_cases_are_generated(wanted):
    assert wanted(problems.find(cases(), wanted))


# Probabilities.


@given(cases())
def test_probabilities_are_the_softmax_of_the_logits(case):
    policy, theta = case
    assert_exact(policy.probabilities(theta), table(policy, theta), scale=1.0)


@given(cases())
def test_logits_are_linear_in_theta(case):
    policy, theta = case
    assert_exact(policy.logits(theta), problems.logits_by_loops(policy, theta))


@given(cases())
def test_probabilities_sum_to_one(case):
    policy, theta = case
    pi = policy.probabilities(theta)
    assert np.all(pi >= 0)
    assert_exact(pi.sum(axis=-1), np.ones(policy.n_states))


@given(cases())
def test_log_probabilities_are_the_logarithm_of_the_probabilities(case):
    policy, theta = case
    log_pi = policy.log_probabilities(theta)
    assert_exact(np.exp(log_pi), policy.probabilities(theta), scale=1.0)
    masked = np.isneginf(problems.logits_by_loops(policy, theta))
    assert np.array_equal(np.isneginf(log_pi), masked)


@given(cases(extreme=False), st.floats(-50, 50))
def test_a_constant_added_to_the_logits_of_a_state_changes_nothing(case, constant):
    policy, theta = case
    if isinstance(policy, LinearSoftmax):
        D = policy.n_parameters + 1
        extended = np.concatenate([policy.features, np.ones((policy.n_states, policy.n_actions, 1))], axis=2)
        shifted = LinearSoftmax(extended, temperature=policy.temperature, mask=policy.mask)
        theta_shifted = np.append(theta, constant)
        assert_exact(shifted.score(theta_shifted)[..., : D - 1], policy.score(theta), scale=100.0)
        assert_exact(
            shifted.score(theta_shifted)[..., D - 1],
            np.zeros(shifted.score(theta_shifted).shape[:2]),
            scale=100.0,
        )
    else:
        shifted, theta_shifted = policy, theta.copy()
        theta_shifted[: policy.n_actions] += constant
        assert_exact(policy.score(theta_shifted), policy.score(theta), scale=100.0)
    assert_exact(shifted.probabilities(theta_shifted), policy.probabilities(theta), scale=100.0)
    assert_exact(
        shifted.log_probabilities(theta_shifted),
        policy.log_probabilities(theta),
        scale=100.0,
    )


# The score and its contractions.


@given(cases())
def test_score_is_the_formula_by_loops(case):
    policy, theta = case
    expected = score_by_loops(policy, theta)
    assert_exact(policy.score(theta), expected, scale=max(1.0, np.abs(expected).max()))


@given(cases())
def test_score_is_the_derivative_of_log_probabilities(case):
    policy, theta = case
    expected = derivative_of_log(policy, theta)
    assert_exact(policy.score(theta), expected, scale=max(1.0, np.abs(expected).max()))


@given(cases(extreme=False, masks=False))
def test_score_agrees_with_the_oracle(case):
    policy, theta = case
    S, A = policy.n_states, policy.n_actions
    for s, a in itertools.product(range(S), range(A)):
        if isinstance(policy, TabularSoftmax):
            expected = reference.score_tabular(theta.tolist(), s, a, S, A, policy.temperature)
        else:
            expected = reference.score_linear(policy.features.tolist(), theta.tolist(), s, a, policy.temperature)
        assert_exact(policy.score(theta)[s, a], expected, scale=10.0)


@given(cases())
def test_the_mean_score_is_zero(case):
    policy, theta = case
    terms = policy.probabilities(theta)[..., None] * policy.score(theta)
    assert_exact(
        terms.sum(axis=1),
        np.zeros((policy.n_states, policy.n_parameters)),
        scale=np.abs(terms).max(),
    )


@given(cases(), st.data())
def test_contract_is_the_sum_of_weighted_scores(case, data):
    policy, theta = case
    weights = problems.grid(data.draw, (policy.n_states, policy.n_actions), -3, 5, 0.5)
    terms = weights[..., None] * policy.score(theta)
    assert_exact(
        policy.contract(theta, weights),
        terms.sum(axis=(0, 1)),
        scale=np.abs(terms).max(),
    )


@given(cases(), st.data())
def test_score_along_is_the_score_times_directions(case, data):
    policy, theta = case
    directions = problems.grid(data.draw, (2, policy.n_parameters), -3, 5, 0.5)
    expected = policy.score(theta) @ directions.T
    assert_exact(
        policy.score_along(theta, directions),
        expected,
        scale=5 * np.abs(policy.score(theta)).sum(axis=-1).max(),
    )


@given(cases(), st.data())
def test_hessian_contract_is_the_derivative_of_contract(case, data):
    policy, theta = case
    weights = problems.grid(data.draw, (policy.n_states, policy.n_actions), -3, 5, 0.5)
    expected = complex_step(lambda x: policy.contract(x, weights), theta)
    actual = policy.hessian_contract(theta, weights)
    assert_exact(
        actual,
        expected,
        scale=np.abs(weights).sum() * np.abs(policy.score(theta)).max() ** 2,
    )


@given(cases(), st.data())
def test_fisher_information_is_the_mean_outer_product_of_scores(case, data):
    policy, theta = case
    d = problems.grid(data.draw, (policy.n_states,), 0, 3, 0.5)
    psi, pi = policy.score(theta), table(policy, theta)
    expected = np.zeros((policy.n_parameters, policy.n_parameters))
    for s, a in itertools.product(range(policy.n_states), range(policy.n_actions)):
        expected += d[s] * pi[s][a] * np.outer(psi[s, a], psi[s, a])
    actual = policy.fisher_information(theta, d)
    assert_exact(actual, expected, scale=d.max() * np.abs(psi).max() ** 2)
    assert_exact(actual, actual.T, scale=d.max() * np.abs(psi).max() ** 2)


@given(cases(), st.data())
def test_pull_back_is_the_transpose_of_linear_logits(case, data):
    policy, theta = case
    theta = np.where(np.isfinite(theta), theta, 0.0)
    weights = problems.grid(data.draw, (policy.n_states, policy.n_actions), 0, 5, 0.5)
    phi = np.array(problems.features(policy), dtype=float)
    assert_exact(policy.pull_back(weights), np.einsum("sa,sad->d", weights, phi), scale=20.0)
    assert_exact(
        policy.pull_back_magnitudes(weights),
        np.einsum("sa,sad->d", weights, np.abs(phi)),
        scale=20.0,
    )
    product = (weights * policy.linear_logits(theta)).sum()
    assert_exact(
        policy.pull_back(weights) @ theta,
        product,
        scale=100 * np.abs(theta).max(initial=1.0),
    )


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("states", [slice(None), np.array([1, 0, 1])])
def test_logits_of_small_and_large_features_are_sums_of_products(monkeypatch, large, states):
    monkeypatch.setattr(products, "ONE_THREAD_ROW", LINEAR.features.size + 2 if large else 10**6)
    theta = np.array([0.5, -1.0, 2.0])[: LINEAR.n_parameters]
    for vector in (theta, theta + 1j, np.stack([theta, -theta]), list(theta)):
        expected = np.einsum("sad,...d->...sa", LINEAR.features[states], vector)
        assert_exact(LINEAR.linear_logits(vector, states), expected, scale=100.0)


@pytest.mark.parametrize("n", [0, 1, 7, 16])
@pytest.mark.parametrize("dtype", [float, complex, int, np.float32])
def test_many_rows_are_pulled_back_a_few_at_a_time(monkeypatch, n, dtype):
    """On one thread: four rows at once here, of which the last ones may be fewer."""
    monkeypatch.setattr(products, "ONE_THREAD", 4 * LINEAR.features.size)
    weights = np.round(8 * np.cos(np.arange(4.0 * n))).reshape(n, 2, 2).astype(dtype)
    weights = weights * 1j if dtype is complex else weights
    expected = np.einsum("nsa,sad->nd", weights, LINEAR.features)
    assert_exact(LINEAR.pull_back(weights), expected, scale=100.0)
    assert_exact(LINEAR.pull_back(weights[None])[0], expected, scale=100.0)


# Entropy and divergence.


@given(cases())
def test_entropy_is_the_sum_by_loops(case):
    policy, theta = case
    pi = table(policy, theta)
    expected = [-sum(p * np.log(p) for p in row if p > 0) for row in pi]
    assert_exact(policy.entropy(theta), expected, scale=1.0)


@given(cases(extreme=False, masks=False), st.data())
def test_kl_is_the_sum_by_loops_for_a_theta_and_for_a_table(case, data):
    policy, theta = case
    other = data.draw(problems.thetas(policy))
    pi, rho = table(policy, theta), table(policy, other)
    expected = [
        sum(p * (np.log(p) - np.log(q)) for p, q in zip(*rows, strict=True)) for rows in zip(pi, rho, strict=True)
    ]
    assert_exact(policy.kl(theta, other), expected, scale=100.0)
    assert_exact(policy.kl(theta, np.array(rho)), expected, scale=100.0)


@given(cases(extreme=False))
def test_kl_from_itself_is_zero_also_with_masks(case):
    policy, theta = case
    assert_exact(policy.kl(theta, theta), np.zeros(policy.n_states), scale=1.0)


def test_kl_ignores_what_the_reference_says_about_masked_actions():
    policy = TabularSoftmax(1, 3, mask=[[True, True, False]])
    assert_exact(policy.kl([0.0, 0.0, 5.0], [[0.25, 0.5, 0.25]]), [0.5 * np.log(2)])
    assert_exact(policy.kl([0.0, 0.0, 5.0], [[0.5, 0.5, 0.0]]), [0.0], scale=1.0)


def test_kl_of_an_action_that_underflows_is_right():
    policy = TabularSoftmax(1, 2)
    assert_exact(policy.kl([0.0, 0.0], [0.0, -2000.0]), [0.5 * 2000 - np.log(2)])
    assert_exact(policy.kl([0.0, -2000.0], [0.0, 0.0]), [np.log(2)])


def test_derivatives_of_entropy_and_kl():
    """∇H = −Σ π ψ (log π + 1),  ∇KL = Σ π ψ (log π/ρ + 1)."""
    rho = np.linspace(1.0, -2.0, 6)
    pi, psi = TABULAR.probabilities(SMALL), TABULAR.score(SMALL)
    log_pi, log_rho = TABULAR.log_probabilities(SMALL), TABULAR.log_probabilities(rho)
    assert_exact(
        complex_step(TABULAR.entropy, SMALL),
        -np.einsum("sa,sad->sd", pi * (log_pi + 1), psi),
        scale=1.0,
    )
    kl = complex_step(lambda x: TABULAR.kl(x, rho), SMALL)
    assert_exact(kl, np.einsum("sa,sad->sd", pi * (log_pi - log_rho + 1), psi), scale=1.0)


def test_log_probabilities_of_reads_parameters_or_a_table():
    assert np.array_equal(TABULAR.log_probabilities_of("x", SMALL), TABULAR.log_probabilities(SMALL))
    with np.errstate(divide="ignore"):
        expected = np.log([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    assert np.array_equal(
        TABULAR.log_probabilities_of("x", [[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]),
        expected,
    )


# Options: temperature and masks.


@given(cases(masks=False), st.sampled_from([0.25, 2.0, 5.0]))
def test_a_temperature_divides_the_logits(case, temperature):
    policy, theta = case
    if isinstance(policy, TabularSoftmax):
        cold = TabularSoftmax(policy.n_states, policy.n_actions, temperature=temperature)
        warm = TabularSoftmax(policy.n_states, policy.n_actions)
    else:
        cold, warm = (
            LinearSoftmax(policy.features, temperature=temperature),
            LinearSoftmax(policy.features),
        )
    assert_exact(cold.probabilities(theta), warm.probabilities(theta / temperature), scale=1.0)
    scaled = warm.score(theta / temperature) / temperature
    assert_exact(cold.score(theta), scaled, scale=np.abs(scaled).max())
    directions = np.eye(len(theta))
    assert_exact(cold.score_along(theta, directions), scaled, scale=np.abs(scaled).max())


@given(st.data())
def test_a_mask_and_minus_infinity_say_the_same(data):
    theta = data.draw(problems.thetas(TABULAR))
    masked = TabularSoftmax(2, 3, mask=MASK)
    infinite = np.where(MASK.ravel(), theta, -np.inf)
    for method in ("probabilities", "log_probabilities", "score", "entropy"):
        assert np.array_equal(getattr(masked, method)(theta), getattr(TABULAR, method)(infinite)), method
    weights = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(masked.contract(theta, weights), TABULAR.contract(infinite, weights))
    assert np.array_equal(
        masked.hessian_contract(theta, weights),
        TABULAR.hessian_contract(infinite, weights),
    )


@pytest.mark.parametrize(
    "policy",
    [
        TabularSoftmax(2, 3, mask=MASK),
        LinearSoftmax(np.eye(6).reshape(2, 3, 6), mask=MASK),
    ],
)
def test_masked_actions_have_probability_and_score_zero_and_their_weights_do_not_count(
    policy,
):
    assert np.all(policy.probabilities(SMALL)[~MASK] == 0) and np.all(policy.probabilities(SMALL)[MASK] > 0)
    assert np.all(policy.score(SMALL)[~MASK] == 0)
    assert np.all(policy.score(SMALL)[:, :, ~MASK.ravel()] == 0)
    assert np.all(policy.score_along(SMALL, np.eye(6))[~MASK] == 0)
    weights = np.arange(1.0, 7.0).reshape(2, 3)
    with_nan = np.where(MASK, weights, np.nan)
    assert np.array_equal(policy.contract(SMALL, weights), policy.contract(SMALL, with_nan))
    assert np.array_equal(
        policy.hessian_contract(SMALL, weights),
        policy.hessian_contract(SMALL, with_nan),
    )


def test_a_masked_policy_is_the_policy_on_the_actions_that_are_left():
    masked, smaller = (
        TabularSoftmax(1, 3, mask=[[True, False, True]]),
        TabularSoftmax(1, 2),
    )
    assert_exact(
        masked.score([0.5, 9.0, -1.0])[:, [0, 2]][..., [0, 2]],
        smaller.score([0.5, -1.0]),
    )
    assert_exact(masked.entropy([0.5, 9.0, -1.0]), smaller.entropy([0.5, -1.0]))


def test_a_mask_may_be_zeros_and_ones_and_is_copied():
    mask = np.array([[1, 0]])
    policy = TabularSoftmax(1, 2, mask=mask)
    mask[:] = 1
    assert policy.mask.tolist() == [[True, False]]
    with pytest.raises(ValueError, match="read-only"):
        policy.mask[0, 1] = True


# Batches and complex parameters.


@pytest.mark.parametrize("policy", [TABULAR, TabularSoftmax(2, 3, temperature=0.5, mask=MASK), LINEAR])
@pytest.mark.parametrize("method", ["logits", "probabilities", "log_probabilities", "score", "entropy"])
def test_a_batch_of_parameters_is_a_loop(policy, method):
    batch = np.sin(np.arange(6.0 * policy.n_parameters)).reshape(2, 3, -1)
    answer = getattr(policy, method)(batch)
    for i, j in itertools.product(range(2), range(3)):
        assert_exact(answer[i, j], getattr(policy, method)(batch[i, j]))


@pytest.mark.parametrize("policy", [TABULAR, TabularSoftmax(2, 3, mask=MASK), LINEAR])
def test_contract_broadcasts_weights_against_parameters(policy):
    batch = np.sin(np.arange(6.0 * policy.n_parameters)).reshape(2, 3, -1)
    weights = np.cos(np.arange(6.0 * policy.n_states * policy.n_actions)).reshape(
        2, 3, policy.n_states, policy.n_actions
    )
    each = policy.contract(batch, weights)
    one_weight, one_theta = (
        policy.contract(batch, weights[0, 0]),
        policy.contract(batch[0, 0], weights),
    )
    assert each.shape == one_weight.shape == one_theta.shape == (2, 3, policy.n_parameters)
    for i, j in itertools.product(range(2), range(3)):
        assert_exact(each[i, j], policy.contract(batch[i, j], weights[i, j]), scale=5.0)
        assert_exact(one_weight[i, j], policy.contract(batch[i, j], weights[0, 0]), scale=5.0)
        assert_exact(one_theta[i, j], policy.contract(batch[0, 0], weights[i, j]), scale=5.0)


def test_kl_of_a_batch_is_a_loop():
    batch = np.sin(np.arange(36.0)).reshape(2, 3, 6)
    assert_exact(TABULAR.kl(batch, SMALL)[1, 2], TABULAR.kl(batch[1, 2], SMALL))


@given(cases())
def test_complex_parameters_without_an_imaginary_part_change_nothing(case):
    policy, theta = case
    for method in ("probabilities", "log_probabilities", "score", "entropy"):
        real, answer = (
            getattr(policy, method)(theta),
            getattr(policy, method)(theta.astype(complex)),
        )
        assert answer.dtype == complex, method
        finite = np.isfinite(real)
        assert_exact(
            answer.real[finite],
            real[finite],
            scale=max(1.0, np.abs(real[finite]).max()),
        )
        assert np.all(answer.imag[finite] == 0), method


@given(cases(extreme=False))
def test_complex_softmax_is_analytic(case):
    """At a finite imaginary part: π still sums to one, and log π is its logarithm."""
    policy, theta = case
    theta = theta + 0.1j * np.cos(np.arange(len(theta)))
    pi = policy.probabilities(theta)
    assert_exact(pi.sum(axis=-1), np.ones(policy.n_states, dtype=complex), scale=1.0)
    assert_exact(np.exp(policy.log_probabilities(theta)), pi, scale=1.0)


def test_integer_parameters_are_accepted():
    assert np.array_equal(
        TABULAR.probabilities([1, 0, 0, 2, 0, 0]),
        TABULAR.probabilities([1.0, 0, 0, 2, 0, 0]),
    )


# Extreme logits.


def decimal_softmax(logits):
    """Probabilities and log-probabilities as Decimals: 1 − exp(−700) alone needs 305 digits."""
    with decimal.localcontext() as context:
        context.prec = DIGITS
        weights = [decimal.Decimal(float(z)).exp() for z in logits]
        total = sum(weights)
        return [w / total for w in weights], [(w / total).ln() for w in weights]


def relative_error(actual, expected):
    """|actual/expected − 1|, from Decimals."""
    with decimal.localcontext() as context:
        context.prec = DIGITS
        return abs(decimal.Decimal(float(actual)) / expected - 1)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("kind", ["tabular", "linear"])
def test_every_digit_survives_when_one_action_dominates(gap, kind):
    logits = np.array([0.25, gap, -1.5])
    policy, theta = TabularSoftmax(1, 3), logits
    if kind == "linear":
        policy, theta = LinearSoftmax(logits[None, :, None] / 4), np.array([4.0])
    p, log_p = decimal_softmax(logits)
    for a in range(3):
        assert relative_error(policy.probabilities(theta)[0, a], p[a]) < EXACT
        assert relative_error(policy.log_probabilities(theta)[0, a], log_p[a]) < EXACT


@pytest.mark.parametrize("gap", GAPS)
def test_every_digit_of_the_score_survives_when_one_action_dominates(gap):
    logits = np.array([0.25, gap, -1.5])
    p, _ = decimal_softmax(logits)
    policy = TabularSoftmax(1, 3)
    score, along = policy.score(logits)[0], policy.score_along(logits, np.eye(3))[0]
    table = np.stack([policy.contract(logits, np.eye(3)[a][None]) for a in range(3)])
    covariance = policy.fisher_information(logits, [1.0])
    for a, b in itertools.product(range(3), range(3)):
        exact = sum(p[c] for c in range(3) if c != a) if a == b else -p[b]
        assert relative_error(score[a, b], exact) < EXACT
        assert relative_error(along[a, b], exact) < EXACT
        assert relative_error(table[a, b], exact) < EXACT
        assert relative_error(covariance[a, b], p[a] * exact) < EXACT or p[a] * abs(exact) < 1e-300


@pytest.mark.parametrize("dtype", [float, complex])
def test_the_largest_finite_logits_are_accepted(dtype):
    policy = TabularSoftmax(1, 3)
    theta = np.array([1e308, -1e308, 1e308], dtype=dtype)
    assert np.array_equal(policy.probabilities(theta), [[0.5, 0.0, 0.5]])
    assert np.array_equal(policy.log_probabilities(theta).real, [[-np.log(2), -np.inf, -np.log(2)]])
    assert np.array_equal(policy.entropy(theta), [np.log(2)])
    assert np.array_equal(policy.contract(theta, [[1.0, 0.0, 0.0]]), [0.5, 0.0, -0.5])
    assert np.array_equal(policy.score(theta)[0, 0], [0.5, 0.0, -0.5])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("dtype", [float, complex])
def test_a_temperature_may_make_logits_overflow(temperature, dtype):
    policy = TabularSoftmax(1, 2, temperature=temperature)
    assert np.array_equal(policy.probabilities(np.array([1e308, -0.7e308], dtype=dtype)), [[1.0, 0.0]])


def test_an_action_whose_probability_underflows_keeps_its_score():
    policy = TabularSoftmax(1, 2)
    assert np.array_equal(policy.score([0.0, -800.0]), [[[0.0, 0.0], [-1.0, 1.0]]])
    assert np.array_equal(policy.score_along([0.0, -800.0], [[0.0, 2.0]])[0, :, 0], [0.0, 2.0])
    assert_exact(policy.log_probabilities([0.0, -800.0])[0, 1], -800.0)


def test_sum_of_others_subtracts_nothing():
    x = np.array([[1.0, 1e-200, 3e-200, 2e-200], [1.0, 2.0, 3.0, 4.0]])
    expected = [[6e-200, 1.0, 1.0, 1.0], [9.0, 8.0, 7.0, 6.0]]
    assert np.all(np.abs(softmax.sum_of_others(x) / expected - 1) < EXACT)
    assert np.array_equal(softmax.sum_of_others(np.array([5.0])), [0.0])


# Refusals.


@pytest.mark.parametrize(
    ("theta", "error", "message"),
    [
        (
            0.5,
            ValueError,
            r"theta has shape \(\); its last axis must have length n_parameters=6",
        ),
        ([0.0] * 5, ValueError, r"theta has shape \(5,\)"),
        (np.zeros((6, 2)), ValueError, r"theta has shape \(6, 2\)"),
        (
            [0.0, np.nan, 0, 0, 0, 0],
            ValueError,
            r"theta\[1\]=nan is not allowed; .*-inf to mask",
        ),
        ([0.0, 0, 0, 0, np.inf, 0], ValueError, r"theta\[4\]=inf is not allowed"),
        ([[0.0] * 6, [0, 0, 0, 0, 0, np.nan]], ValueError, r"theta\[1, 5\]=nan"),
        ([complex(0, np.inf), 0, 0, 0, 0, 0], ValueError, r"theta\[0\]="),
        (["a"] * 6, TypeError, "theta holds <U1 values"),
        (None, TypeError, "theta holds object values"),
        (
            [0, 0, 0, -np.inf, -np.inf, -np.inf],
            ValueError,
            r"logits\[1\] are all -inf: leave at least one",
        ),
    ],
)
def test_bad_parameters_are_refused(theta, error, message):
    for method in (
        TABULAR.probabilities,
        TABULAR.log_probabilities,
        TABULAR.score,
        TABULAR.logits,
        TABULAR.entropy,
    ):
        with pytest.raises(error, match=message):
            method(theta)
    with pytest.raises(error, match=message):
        TABULAR.contract(theta, np.zeros((2, 3)))


def test_a_linear_policy_refuses_minus_infinity():
    with pytest.raises(ValueError, match=r"theta\[1\]=-inf is not allowed; use finite numbers"):
        LINEAR.probabilities([0.0, -np.inf])


@pytest.mark.parametrize("features", [[[[1e308], [0.0]]], [[[0.0], [-1e308]]]])
@pytest.mark.parametrize("theta", [100.0, -100.0])
def test_logits_that_overflow_are_refused(features, theta):
    """In either direction: an action cannot be masked by accident."""
    with pytest.raises(
        ValueError,
        match=r"logits\[0, .\]=.*inf: features times theta overflow; scale them down",
    ):
        LinearSoftmax(features).probabilities([theta])


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 2), (3,)])
def test_weights_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"weights have shape .*; the last axes must be \(2, 3\)"):
        TABULAR.contract(SMALL, np.zeros(shape))


def test_state_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"state_weights has shape \(3,\); it must have shape \(2,\)"):
        TABULAR.fisher_information(SMALL, np.ones(3))


def test_an_infinite_divergence_is_refused():
    with pytest.raises(
        ValueError,
        match=r"reference\[1, 2\]=0 where the policy can act: the KL is infinite",
    ):
        TABULAR.kl(SMALL, [[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    with pytest.raises(ValueError, match=r"reference\[0, 1\]=0"):
        TABULAR.kl(np.stack([SMALL, SMALL]), [0.0, -np.inf, 0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ([0.0] * 5, ValueError, r"mu has shape \(5,\); it must have shape \(6,\)"),
        ([0.0, 0, 0, 0, 0, np.nan], ValueError, r"mu\[5\]=nan"),
        ([0.0, 0, 0, 0, 0, 1j], TypeError, "mu holds complex128 values"),
        (
            np.full((3, 2), 0.5),
            ValueError,
            r"mu has shape \(3, 2\); it must have shape \(2, 3\)",
        ),
        (np.zeros((2, 2, 3)), ValueError, r"mu has shape \(2, 2, 3\)"),
        (np.full((2, 3), 0.5), ValueError, r"mu\[0\] sums to 1.5"),
        (
            [[0.5, 0.5, 0.0], [1.5, -0.5, 0.0]],
            ValueError,
            r"mu\[1, 0\]=1.5 is not a probability",
        ),
        (
            [[0.5, 0.5, 0.0], [1.0, 0.5, -0.5]],
            ValueError,
            r"mu\[1, 2\]=-0.5 is not a probability",
        ),
        ([["a"] * 3] * 2, TypeError, "mu holds"),
    ],
)
def test_a_bad_reference_or_behaviour_is_refused(other, error, message):
    with pytest.raises(error, match=message):
        TABULAR.log_probabilities_of("mu", other)


def test_a_linear_reference_refuses_minus_infinity():
    with pytest.raises(ValueError, match=r"reference\[0\]=-inf is not a finite number"):
        LINEAR.kl([0.0, 0.0], [-np.inf, 0.0])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 2), {}, ValueError, "n_states=0 is out of range; it must be at least 1"),
        ((2, 0), {}, ValueError, "n_actions=0 is out of range; it must be at least 1"),
        ((1.5, 2), {}, TypeError, "n_states=1.5 is not a whole number"),
        ((2, True), {}, TypeError, "n_actions=True is not a whole number"),
        (
            (1, 2),
            {"temperature": 0.0},
            ValueError,
            r"temperature=0.0 is out of range; it must be a number in \[1e-100, 1e100\]",
        ),
        ((1, 2), {"temperature": -1.0}, ValueError, "temperature=-1.0 is out of range"),
        (
            (1, 2),
            {"temperature": np.inf},
            ValueError,
            "temperature=inf is out of range",
        ),
        (
            (1, 2),
            {"temperature": "hot"},
            TypeError,
            "temperature='hot' is not a real number",
        ),
        (
            (1, 2),
            {"mask": [[True]]},
            ValueError,
            r"mask has shape \(1, 1\); it must have shape \(1, 2\)",
        ),
        (
            (2, 2),
            {"mask": [[True, False], [False, False]]},
            ValueError,
            r"mask\[1\] allows no action",
        ),
        (
            (1, 2),
            {"mask": [[0.5, 1.0]]},
            TypeError,
            "mask holds float64 values; it must hold True and False",
        ),
    ],
)
def test_bad_tabular_policies_are_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        TabularSoftmax(*arguments, **options)


@pytest.mark.parametrize(
    ("features", "options", "error", "message"),
    [
        (
            [[1.0]],
            {},
            ValueError,
            r"features has 2 axes \(shape \(1, 1\)\); it must have 3",
        ),
        (np.zeros((1, 2, 0)), {}, ValueError, r"features have shape \(1, 2, 0\)"),
        (
            [[[0.0], [np.nan]]],
            {},
            ValueError,
            r"features\[0, 1, 0\]=nan is not a finite number",
        ),
        ([[["a"]]], {}, TypeError, "features holds"),
        (
            [[[1.0], [0.0]], [[1.0]]],
            {},
            ValueError,
            "features is not a rectangular array",
        ),
        (
            [[[0.0], [1.0]]],
            {"temperature": 0},
            ValueError,
            "temperature=0 is out of range",
        ),
        (
            [[[0.0], [1.0]]],
            {"mask": [[False, False]]},
            ValueError,
            r"mask\[0\] allows no action",
        ),
        ([[[0.0], [1.0]]], {"mask": [[True]]}, ValueError, r"mask has shape \(1, 1\)"),
    ],
)
def test_bad_linear_policies_are_refused(features, options, error, message):
    with pytest.raises(error, match=message):
        LinearSoftmax(features, **options)


def test_features_are_copied():
    features = np.ones((1, 2, 1))
    policy = LinearSoftmax(features)
    features[:] = 5
    assert policy.features.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        policy.features[0, 0, 0] = 2


@pytest.mark.parametrize("method", ["linear_logits", "pull_back", "pull_back_magnitudes"])
def test_a_policy_without_logits_says_so(method):
    with pytest.raises(NotImplementedError, match=r"a policy defines|not linear in theta"):
        getattr(SoftmaxPolicy(), method)(np.zeros(1))


@pytest.mark.parametrize(
    "name",
    [name for name, p in PROBLEMS.items() if isinstance(p.policy, TabularSoftmax)],
)
def test_a_linear_policy_with_indicator_features_is_the_tabular_one(name):
    mdp, policy, theta = PROBLEMS[name]
    S, A = mdp.n_states, mdp.n_actions
    linear = LinearSoftmax(
        np.eye(S * A).reshape(S, A, S * A),
        temperature=policy.temperature,
        mask=policy.mask,
    )
    assert_exact(linear.score(theta), policy.score(theta))
    assert_exact(
        linear.contract(theta, mdp.expected_reward),
        policy.contract(theta, mdp.expected_reward),
        scale=np.abs(mdp.reward).max(),
    )
    d = np.arange(1.0, S + 1)
    assert_exact(linear.fisher_information(theta, d), policy.fisher_information(theta, d))


# Some states only.


@pytest.mark.parametrize("kind", ["tabular", "linear"])
def test_rows_of_some_states_are_rows_of_the_whole(kind):
    mask, states = np.arange(18).reshape(6, 3) % 5 > 0, np.array([4, 1])
    if kind == "tabular":
        policy, theta = TabularSoftmax(6, 3, mask=mask), np.sin(np.arange(18.0))
        theta[4 * 3] = -np.inf
    else:
        policy, theta = LinearSoftmax(np.cos(np.arange(36.0)).reshape(6, 3, 2), mask=mask), np.array([1.0, -2.0])
    assert np.array_equal(policy.log_probabilities(theta, states), policy.log_probabilities(theta)[states])
    pi = policy.probabilities(theta)
    weights = np.where(pi > 0, np.arange(18.0).reshape(6, 3), 0.0)
    assert np.array_equal(policy.contract(theta, weights, probabilities=pi), policy.contract(theta, weights))


def test_complaints_about_some_states_name_them_as_in_the_whole():
    features = np.ones((6, 2, 1))
    features[4, 1] = 1e300
    with pytest.raises(ValueError, match=r"logits\[4, 1\]=inf"):
        LinearSoftmax(features).log_probabilities([1e10], np.array([0, 4]))
    with pytest.raises(ValueError, match=r"logits\[4\] are all -inf"):
        TabularSoftmax(6, 2).log_probabilities(np.repeat([0.0] * 4 + [-np.inf, 0.0], 2), np.array([1, 4]))


@pytest.mark.parametrize("n_actions", [softmax.SQUARE, softmax.SQUARE + 1, 3000])
def test_rows_of_weights_are_contracted_alike_however_many_actions(n_actions):
    """Without a table of all pairs of actions where it would be larger than the weights."""
    policy, weights = TabularSoftmax(2, n_actions), np.cos(np.arange(40.0 * 2 * n_actions)).reshape(40, 2, n_actions)
    theta = np.sin(np.arange(policy.n_parameters))
    tracemalloc.start()
    found = policy.contract(theta, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 10 * weights.nbytes
    assert_exact(found, [policy.contract(theta, row) for row in weights])
