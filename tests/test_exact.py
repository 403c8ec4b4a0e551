"""Exact quantities against the oracle in fractions, against each other, and against answers known on paper."""

import contextlib
import itertools
import math
import pickle
from fractions import Fraction

import numpy as np
import problems
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st
from problems import (
    PROBLEMS,
    complex_step,
    gradient_scale,
    reward_scale,
    score_by_loops,
    table,
)
from tolerances import DIFFERENCE, EXACT, assert_exact

from reinforce_np import (
    Discounted,
    FiniteMDP,
    LinearSoftmax,
    TabularSoftmax,
    Undiscounted,
    count_trajectories,
    exact,
    examples,
    graph,
    products,
    random_mdp,
)
from reinforce_np.exact import bellman, chains, enumerated
from reinforce_np.exact.derivatives import score_weights

QUANTITIES = (
    "objective",
    "values",
    "action_values",
    "advantages",
    "occupancy",
    "gradient",
)
SECOND = ("hessian", "fisher_information", "natural_gradient")
OBJECTIVES = (Discounted(), Undiscounted())
parametrize_problems = pytest.mark.parametrize("name", PROBLEMS)


def uniform(mdp):
    """A tabular policy and the parameters that make it uniform."""
    return TabularSoftmax(mdp.n_states, mdp.n_actions), np.zeros(mdp.n_states * mdp.n_actions)


def deterministic(mdp, actions):
    """A tabular policy and the parameters that make it take one action per state, surely."""
    theta = np.full((mdp.n_states, mdp.n_actions), -np.inf)
    theta[np.arange(mdp.n_states), actions] = 0.0
    return TabularSoftmax(mdp.n_states, mdp.n_actions), theta.ravel()


def oracle_score(problem):
    """The score as a function of (s, a), for the oracle."""
    psi = score_by_loops(problem.policy, problem.theta).tolist()
    return lambda s, a: psi[s][a]


# What the generators must produce.


@pytest.mark.parametrize(
    "wanted",
    [
        lambda p: p.mdp.horizon == 0,
        lambda p: p.mdp.horizon == 3 and p.mdp.gamma == 1 and p.policy.temperature != 1,
        lambda p: (p.mdp.probability == 0).any() and (p.mdp.probability[..., 0] < 1).any(),
        lambda p: isinstance(p.policy, LinearSoftmax) and p.policy.mask is not None and p.mdp.horizon >= 2,
        lambda p: np.ptp(p.theta[np.isfinite(p.theta)]) / p.policy.temperature > 500 and p.mdp.horizon >= 2,
    ],
)
def test_hard_cases_are_generated(wanted):
    assert wanted(problems.find(problems.problems(extreme=True), wanted))


@given(problems.mdps(horizons=(1, 2, 3)))
def test_generated_models_terminate_and_truncate_and_pay(mdp):
    episodes = list(reference.trajectories(mdp, [[1 / mdp.n_actions] * mdp.n_actions] * mdp.n_states))
    assert {terminated for _, _, terminated, _ in episodes} == {True, False}
    assert {len(steps) for _, steps, _, _ in episodes} >= {1, mdp.horizon}
    assert (len(set(mdp.initial)) > 1 and len(episodes) <= problems.LIMIT) or mdp.horizon == 1


# Against the oracle.


@given(problems.problems(extreme=True))
def test_objective_is_the_mean_return_over_all_trajectories(problem):
    mdp, policy, theta = problem
    pi = table(policy, theta)
    assert_exact(exact.objective(*problem), reference.objective(mdp, pi), scale=reward_scale(mdp))
    undiscounted = exact.objective(*problem, objective=Undiscounted())
    assert_exact(undiscounted, reference.objective(mdp, pi, gamma=1), scale=reward_scale(mdp))


@given(problems.problems(extreme=True))
def test_values_and_action_values_are_the_oracles(problem):
    mdp, policy, theta = problem
    pi = table(policy, theta)
    S, A, T = mdp.n_states, mdp.n_actions, mdp.horizon
    V, Q = (
        np.array(reference.values(mdp, pi), dtype=float),
        np.array(reference.action_values(mdp, pi), dtype=float),
    )
    Q = Q.reshape(T, S, A)  # says the shape when the horizon is 0
    assert_exact(exact.values(*problem), V, scale=reward_scale(mdp))
    assert_exact(exact.action_values(*problem), Q, scale=reward_scale(mdp))
    assert_exact(exact.advantages(*problem), Q - V[:-1, :, None], scale=reward_scale(mdp))


@given(problems.problems(extreme=True))
def test_occupancy_is_the_oracles(problem):
    mdp, policy, theta = problem
    expected = np.array(reference.occupancy(mdp, table(policy, theta)), dtype=float).reshape(mdp.horizon, mdp.n_states)
    assert_exact(exact.occupancy(*problem), expected, scale=1.0)


@given(problems.problems(extreme=True))
def test_gradient_is_the_log_derivative_over_all_trajectories(problem):
    mdp, policy, theta = problem
    pi, score = table(policy, theta), oracle_score(problem)
    expected = reference.gradient_by_log_derivative(mdp, pi, score)
    assert_exact(exact.gradient(*problem), expected, scale=gradient_scale(problem))
    expected = reference.gradient_by_log_derivative(mdp, pi, score, gamma=1)
    assert_exact(
        exact.gradient(*problem, objective=Undiscounted()),
        expected,
        scale=gradient_scale(problem),
    )


@given(problems.problems(extreme=True), st.sampled_from(OBJECTIVES))
def test_enumeration_agrees_with_the_recursion(problem, objective):
    J, g = (
        exact.objective(*problem, objective=objective),
        exact.gradient(*problem, objective=objective),
    )
    by_listing = enumerated.objective_by_enumeration(*problem, objective=objective)
    assert isinstance(by_listing, float)
    assert_exact(by_listing, J, scale=reward_scale(problem.mdp))
    by_listing = enumerated.gradient_by_enumeration(*problem, objective=objective)
    assert_exact(by_listing, g, scale=gradient_scale(problem))


@given(problems.problems(extreme=True), st.sampled_from(OBJECTIVES))
def test_gradient_is_the_complex_step_of_the_objective(problem, objective):
    mdp, policy, theta = problem
    expected = complex_step(lambda x: exact.objective(mdp, policy, x, objective=objective), theta)
    assert_exact(
        exact.gradient(*problem, objective=objective),
        expected,
        scale=gradient_scale(problem),
    )


@given(problems.problems(extreme=True), st.sampled_from(OBJECTIVES))
def test_hessian_is_the_complex_step_of_the_gradient(problem, objective):
    mdp, policy, theta = problem
    expected = complex_step(lambda x: exact.gradient(mdp, policy, x, objective=objective), theta)
    scale = gradient_scale(problem) * max(mdp.horizon, 1) * np.abs(policy.score(theta)).max()
    assert_exact(exact.hessian(*problem, objective=objective), expected, scale=scale)
    assert np.array_equal(exact.hessian(*problem), exact.hessian(*problem).T)


@given(
    problems.problems(horizons=(None,), gammas=(0.0, 0.5, 0.9)),
    st.sampled_from(["gradient", "hessian"]),
)
def test_derivatives_without_a_horizon_are_complex_steps(problem, name):
    mdp, policy, theta = problem
    function = {"gradient": exact.objective, "hessian": exact.gradient}[name]
    expected = complex_step(lambda x: function(mdp, policy, x), theta)
    steps = 1 / (1 - mdp.gamma)
    scale = (
        np.abs(mdp.reward).max()
        * (steps * np.abs(policy.score(theta)).max()) ** (2 if name == "hessian" else 1)
        * steps
    )
    assert_exact(getattr(exact, name)(*problem), expected, scale=scale)


@parametrize_problems
def test_all_routes_to_the_gradient_agree(name):
    problem = PROBLEMS[name]
    mdp, policy, theta = problem
    g = exact.gradient(*problem)
    assert_exact(enumerated.gradient_by_enumeration(*problem), g, scale=gradient_scale(problem))
    assert_exact(
        complex_step(lambda x: exact.objective(mdp, policy, x), theta),
        g,
        scale=gradient_scale(problem),
    )
    step = 1e-5
    for d in range(min(3, len(theta))):
        e = step * np.eye(len(theta))[d]
        slope = (exact.objective(mdp, policy, theta + e) - exact.objective(mdp, policy, theta - e)) / (2 * step)
        assert abs(slope - g[d]) < DIFFERENCE * gradient_scale(problem)


@parametrize_problems
def test_hessian_of_the_fixed_problems(name):
    problem = PROBLEMS[name]
    mdp, policy, theta = problem
    expected = complex_step(lambda x: exact.gradient(mdp, policy, x), theta)
    scale = gradient_scale(problem) * mdp.horizon * np.abs(policy.score(theta)).max()
    H = exact.hessian(*problem)
    assert_exact(H, expected, scale=scale)
    assert_exact(exact.hessian(*problem, columns=1), H, scale=scale)
    assert_exact(exact.hessian(*problem, columns=5), H, scale=scale)


# The identities among them.


@given(problems.problems(extreme=True), st.sampled_from(OBJECTIVES))
def test_the_objective_is_the_mean_value_of_the_start_and_the_reward_of_the_visits(problem, objective):
    mdp, policy, theta = problem
    J = exact.objective(*problem, objective=objective)
    assert_exact(
        mdp.initial @ exact.values(*problem, objective=objective)[0],
        J,
        scale=reward_scale(mdp),
    )
    d = exact.occupancy(*problem, objective=objective)
    assert_exact(
        np.einsum("ts,sa,sa->", d, policy.probabilities(theta), mdp.expected_reward),
        J,
        scale=reward_scale(mdp),
    )


@given(problems.problems(extreme=True))
def test_score_weights_are_occupancy_times_policy_times_action_values(problem):
    """Less the action value of the most probable action, unless told otherwise."""
    d, Q = exact.occupancy(*problem), exact.action_values(*problem)
    pi, states = problem.policy.probabilities(problem.theta), np.arange(problem.mdp.n_states)
    scale = reward_scale(problem.mdp) * max(problem.mdp.horizon, 1)
    for centred, of in ((False, Q), (True, Q - Q[:, states, pi.argmax(axis=1)][..., None])):
        W = score_weights(*problem, centred=centred)
        assert_exact(W, np.einsum("ts,sa,tsa->sa", d, pi, of), scale=scale)
        assert_exact(problem.policy.contract(problem.theta, W), exact.gradient(*problem), scale=gradient_scale(problem))


def test_score_weights_keep_the_digits_of_differences_between_large_values():
    """With 1e12 in every reward of an episode of fixed length the gradient is the same; uncentred, 1e-4 would be lost."""
    mdp = examples.referee(horizon=3)
    mdp = mdp.replace(terminated=np.zeros_like(mdp.terminated))
    far = mdp.replace(reward=mdp.reward + 1e12)
    policy, theta = TabularSoftmax(3, 3), np.array([40.0, 0, 0, 0, 0, 40.0, 0, 40.0, 0])
    g, lost = exact.gradient(mdp, policy, theta), exact.gradient(far, policy, theta)
    assert np.abs(g).max() < 1e-15  # of actions taken once in e^40 times
    assert np.abs(lost - g).max() < 1e-3 * np.abs(g).max()


@given(problems.problems(extreme=True))
def test_mean_advantages_are_zero(problem):
    pi = problem.policy.probabilities(problem.theta)
    A = exact.advantages(*problem)
    assert_exact((pi * A).sum(axis=-1), np.zeros(A.shape[:2]), scale=reward_scale(problem.mdp))


@given(problems.problems(), st.sampled_from(QUANTITIES + SECOND))
def test_undiscounted_is_discounted_with_gamma_one(problem, name):
    mdp, policy, theta = problem
    expected = getattr(exact, name)(mdp.replace(gamma=1.0), policy, theta)
    assert_exact(getattr(exact, name)(*problem, objective=Undiscounted()), expected)


@given(problems.problems(gammas=(0.5, 0.9)))
def test_a_horizon_of_k_is_k_sweeps_of_policy_evaluation(problem):
    mdp, policy, theta = problem
    pi = table(policy, theta)
    V = [0.0] * mdp.n_states
    for k in range(5):
        J = exact.objective(mdp.replace(horizon=k), policy, theta)
        assert_exact(
            J,
            sum(p * v for p, v in zip(mdp.initial, V, strict=True)),
            scale=5 * np.abs(mdp.reward).max(),
        )
        V = [sum(pi[s][a] * q for a, q in enumerate(row)) for s, row in enumerate(sweep(mdp, V))]


def sweep(mdp, V):
    """One sweep of policy evaluation, by loops: r + γ V(s'), unless terminated."""
    return [
        [
            sum(
                p * (r + (0.0 if over else mdp.gamma * V[s]))
                for p, s, r, over in zip(
                    mdp.probability[i, a],
                    mdp.next_state[i, a],
                    mdp.reward[i, a],
                    mdp.terminated[i, a],
                    strict=True,
                )
            )
            for a in range(mdp.n_actions)
        ]
        for i in range(mdp.n_states)
    ]


@given(problems.problems(horizons=(1, 2, 3, None), gammas=(0.5, 0.9)), st.data())
def test_the_names_of_the_states_do_not_matter(problem, data):
    mdp, policy, theta = problem
    assume(isinstance(policy, TabularSoftmax))
    order = np.array(data.draw(st.permutations(range(mdp.n_states))))  # new state i is old state order[i]
    renamed = FiniteMDP(
        mdp.probability[order],
        np.argsort(order)[mdp.next_state[order]],
        mdp.reward[order],
        mdp.terminated[order],
        initial=mdp.initial[order],
        gamma=mdp.gamma,
        horizon=mdp.horizon,
    )
    mask = None if policy.mask is None else policy.mask[order]
    policy_renamed = TabularSoftmax(
        *theta.reshape(mdp.n_states, -1).shape,
        temperature=policy.temperature,
        mask=mask,
    )
    theta_renamed = theta.reshape(mdp.n_states, -1)[order].ravel()
    for name in ("values", "occupancy"):
        answer = getattr(exact, name)(renamed, policy_renamed, theta_renamed)
        assert_exact(answer, getattr(exact, name)(*problem)[..., order], scale=50.0)
    g = exact.gradient(*problem).reshape(mdp.n_states, -1)[order].ravel()
    assert_exact(exact.gradient(renamed, policy_renamed, theta_renamed), g, scale=500.0)


@given(
    problems.problems(horizons=(1, 2, 3, None), gammas=(0.5, 0.9)),
    st.sampled_from(QUANTITIES + SECOND),
)
def test_an_outcome_may_be_split_in_two(problem, name):
    mdp, policy, theta = problem
    last = mdp.probability[..., -1:]
    fields = {
        f: np.concatenate([getattr(mdp, f), getattr(mdp, f)[..., -1:]], axis=2)
        for f in ("next_state", "reward", "terminated")
    }
    split = mdp.replace(
        probability=np.concatenate([mdp.probability[..., :-1], 0.25 * last, 0.75 * last], axis=2),
        **fields,
    )
    expected = getattr(exact, name)(*problem)
    scale = (
        np.abs(expected).max() if name != "natural_gradient" else 1e4
    )  # F is singular: its inverse amplifies rounding
    assert_exact(getattr(exact, name)(split, policy, theta), expected, scale=scale + 100.0)


@given(
    problems.problems(horizons=(1, 2, 3, None), gammas=(0.5, 0.9)),
    st.sampled_from(QUANTITIES),
)
def test_impossible_outcomes_do_not_matter(problem, name):
    mdp, policy, theta = problem
    impossible = mdp.probability == 0
    changed = mdp.replace(
        reward=np.where(impossible, 99.0, mdp.reward),
        terminated=mdp.terminated ^ impossible,
    )
    assert_exact(getattr(exact, name)(changed, policy, theta), getattr(exact, name)(*problem))


@given(problems.problems(gammas=(0.5,)), st.floats(-3, 3))
def test_rewards_are_linear(problem, factor):
    mdp, policy, theta = problem
    for name in ("objective", "gradient", "hessian"):
        scaled = getattr(exact, name)(mdp.replace(reward=factor * mdp.reward), policy, theta)
        assert_exact(scaled, factor * getattr(exact, name)(*problem), scale=1e3)


# Batches, complex parameters, the horizon zero.


@pytest.mark.parametrize("horizon", [0, 3, None])
@pytest.mark.parametrize("name", QUANTITIES)
def test_a_batch_of_parameters_is_a_loop(name, horizon):
    mdp = examples.referee(horizon=horizon)
    policy = TabularSoftmax(3, 3, temperature=0.5)
    batch = np.sin(np.arange(54.0)).reshape(2, 3, 9)
    answer = getattr(exact, name)(mdp, policy, batch)
    for i, j in itertools.product(range(2), range(3)):
        assert_exact(answer[i, j], getattr(exact, name)(mdp, policy, batch[i, j]), scale=30.0)


@given(
    problems.problems(extreme=True, horizons=(0, 1, 3, None), gammas=(0.5, 0.9)),
    st.sampled_from(QUANTITIES),
)
def test_complex_parameters_without_an_imaginary_part_change_nothing(problem, name):
    mdp, policy, theta = problem
    real, answer = (
        getattr(exact, name)(*problem),
        getattr(exact, name)(mdp, policy, theta.astype(complex)),
    )
    assert answer.dtype == complex
    assert_exact(answer, real, scale=np.abs(real).max(initial=0.0) + gradient_scale(problem))
    assert np.all(answer.imag == 0)


@pytest.mark.parametrize("name", ["objective", "values", "action_values", "occupancy", "gradient"])
def test_long_and_absent_horizons_agree_for_complex_parameters(name):
    theta = np.sin(np.arange(9.0)) + 0.01j * np.cos(np.arange(9.0))
    long = getattr(exact, name)(examples.referee(gamma=0.5, horizon=60), TabularSoftmax(3, 3), theta)
    if name in ("values", "action_values"):
        long = long[0]
    if name == "occupancy":
        long = long.sum(axis=0)
    assert_exact(
        getattr(exact, name)(examples.referee(gamma=0.5, horizon=None), TabularSoftmax(3, 3), theta),
        long,
        scale=100.0,
    )


@given(problems.problems(horizons=(0,)))
def test_without_steps_everything_is_zero_and_has_its_shape(problem):
    mdp, policy, _ = problem
    S, A, D = mdp.n_states, mdp.n_actions, policy.n_parameters
    shapes = {
        "objective": (),
        "values": (1, S),
        "action_values": (0, S, A),
        "advantages": (0, S, A),
        "occupancy": (0, S),
        "gradient": (D,),
        "hessian": (D, D),
        "fisher_information": (D, D),
        "natural_gradient": (D,),
    }
    for name, shape in shapes.items():
        answer = getattr(exact, name)(*problem)
        assert answer.shape == shape and not answer.any(), name
    assert enumerated.objective_by_enumeration(*problem) == 0.0
    assert np.array_equal(enumerated.gradient_by_enumeration(*problem), np.zeros(D))


def test_one_step_counts_in_full_whatever_gamma_is():
    mdp = examples.bandit(means=[1.0, 3.0]).replace(gamma=0.0)
    assert exact.objective(mdp, *uniform(mdp)) == 2.0


# No horizon.


@given(problems.problems(horizons=(None,), gammas=(0.0, 0.5, 0.7)))
def test_no_horizon_is_the_limit_of_long_ones(problem):
    mdp, policy, theta = problem
    long = (mdp.replace(horizon=120), policy, theta)  # 0.7^120 < 1e-18
    scale = 20 * np.abs(mdp.reward).max() * max(1.0, np.abs(policy.score(theta)).max()) ** 2
    for name in ("objective", "gradient", "hessian", "fisher_information"):
        assert_exact(
            getattr(exact, name)(*problem),
            getattr(exact, name)(*long),
            scale=10 * scale,
        )
    assert_exact(exact.values(*problem), exact.values(*long)[0], scale=scale)
    assert_exact(exact.action_values(*problem), exact.action_values(*long)[0], scale=scale)
    assert_exact(exact.advantages(*problem), exact.advantages(*long)[0], scale=scale)
    assert_exact(exact.occupancy(*problem), exact.occupancy(*long).sum(axis=0), scale=scale)


@pytest.mark.parametrize("name", [*QUANTITIES, "hessian", "fisher_information", "natural_gradient"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_undiscounted_without_a_horizon_is_the_limit_of_long_ones(name, objective):
    endless, long = (
        examples.referee(gamma=1.0, horizon=None),
        examples.referee(gamma=1.0, horizon=400),
    )
    policy, theta = TabularSoftmax(3, 3), np.sin(np.arange(9.0))
    answer = getattr(exact, name)(endless, policy, theta, objective=objective)
    limit = getattr(exact, name)(long, policy, theta, objective=objective)
    if name in ("values", "action_values", "advantages"):
        limit = limit[0]
    if name == "occupancy":
        limit = limit.sum(axis=0)
    assert_exact(answer, limit, scale=1e3)


def test_undiscounted_ignores_gamma_without_a_horizon():
    mdp = examples.referee(gamma=0.5, horizon=None)
    expected = exact.gradient(mdp.replace(gamma=1.0), *uniform(mdp))
    assert_exact(exact.gradient(mdp, *uniform(mdp), objective=Undiscounted()), expected)


def test_a_hand_solve():
    """One state: action 0 pays 1 and goes on, action 1 pays 5 and ends. With p = π(0): V = (p + 5(1 − p)) / (1 − γp)."""
    mdp = FiniteMDP(
        [[[1.0], [1.0]]],
        [[[0], [0]]],
        [[[1.0], [5.0]]],
        [[[False], [True]]],
        initial=[1.0],
        gamma=0.5,
        horizon=None,
    )
    policy, theta = TabularSoftmax(1, 2), np.log([0.75, 0.25])
    V = (0.75 + 1.25) / (1 - 0.375)
    assert_exact(exact.objective(mdp, policy, theta), V)
    assert_exact(exact.values(mdp, policy, theta), [V])
    assert_exact(exact.action_values(mdp, policy, theta), [[1 + 0.5 * V, 5.0]])
    assert_exact(exact.occupancy(mdp, policy, theta), [1 / 0.625])
    slope = (-4 * 0.625 + 0.5 * 2.0) / 0.625**2 * 0.75 * 0.25  # dV/dp · dp/dθ₀
    assert_exact(exact.gradient(mdp, policy, theta), [slope, -slope])


# Models that do not end.


def endless(*, start=(1.0, 0.0), gamma=1.0):
    """State 0 ends, though its next state is said to be 1; state 1 never does."""
    return FiniteMDP(
        [[[1.0]], [[1.0]]],
        [[[1]], [[1]]],
        [[[2.0]], [[1.0]]],
        [[[True]], [[False]]],
        initial=start,
        gamma=gamma,
        horizon=None,
    )


@pytest.mark.parametrize("name", QUANTITIES + SECOND)
def test_a_start_that_never_terminates_is_refused(name):
    mdp = endless(start=(0.5, 0.5))
    message = "horizon=None with gamma=1, but from state 1, which the start can reach, the policy never terminates: give a horizon"
    with pytest.raises(ValueError, match=message):
        getattr(exact, name)(mdp, *uniform(mdp))


@pytest.mark.parametrize("name", QUANTITIES + SECOND)
def test_discounting_makes_every_model_proper(name):
    mdp = endless(start=(0.5, 0.5), gamma=0.5)
    assert np.isfinite(getattr(exact, name)(mdp, *uniform(mdp))).all()
    with pytest.raises(ValueError, match="never terminates"):
        getattr(exact, name)(mdp, *uniform(mdp), objective=Undiscounted())


@pytest.mark.parametrize("name", ["values", "action_values", "advantages"])
def test_values_of_states_that_never_terminate_are_refused_even_out_of_reach(name):
    with pytest.raises(
        ValueError,
        match="state 1 need not terminate, so its value at gamma=1 has no limit: give a horizon",
    ):
        getattr(exact, name)(endless(), *uniform(endless()))


def test_what_is_known_of_the_states_without_numbers():
    """0 ends or goes to 1, which ends; 2 goes to 3 or ends; 3 never ends; an end that leads to 3 leads nowhere."""
    mdp = FiniteMDP(
        np.full((4, 1, 2), 0.5),
        [[[3, 1]], [[3, 3]], [[3, 0]], [[3, 3]]],
        np.ones((4, 1, 2)),
        [[[True, False]], [[True, True]], [[False, True]], [[False, False]]],
        initial=[1.0, 0, 0, 0],
        gamma=1.0,
        horizon=None,
    )
    possible = graph.possible_outcomes(mdp, np.ones((4, 1)))
    assert possible.all() and not graph.possible_outcomes(mdp, np.zeros((4, 1))).any()
    assert graph.reachable(mdp, possible).tolist() == [True, True, False, False]
    assert graph.can_end(mdp, possible).tolist() == [True, True, True, False]
    assert graph.surely_ends(mdp, possible).tolist() == [True, True, False, False]
    assert graph.reachable(mdp.replace(initial=[0, 0, 1.0, 0]), possible).tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_a_state_out_of_reach_that_never_terminates_makes_nothing_singular():
    problem = endless(), *uniform(endless())
    assert exact.objective(*problem) == 2.0
    assert exact.occupancy(*problem).tolist() == [1.0, 0.0]
    assert exact.gradient(*problem).tolist() == [0.0, 0.0]
    assert exact.natural_gradient(*problem).tolist() == [0.0, 0.0]
    assert not exact.hessian(*problem).any() and not exact.fisher_information(*problem).any()


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_states_out_of_reach_do_not_matter_to_the_objective_and_its_derivatives(gamma):
    """The referee, with a state that stays for ever and one that may lead there."""
    inner = examples.referee(gamma=gamma, horizon=None)
    fields = {}
    for name, extra in (
        ("probability", [0.5, 0.5]),
        ("next_state", [3, 3]),
        ("reward", [7.0, -7.0]),
        ("terminated", [False, False]),
    ):
        fields[name] = np.concatenate([getattr(inner, name), np.tile(extra, (2, 3, 1))])
    fields["next_state"][4] = [0, 3]
    outer = FiniteMDP(**fields, initial=[*inner.initial, 0, 0], gamma=gamma, horizon=None)
    theta = np.sin(np.arange(15.0))
    small, large = (
        (inner, TabularSoftmax(3, 3), theta[:9]),
        (outer, TabularSoftmax(5, 3), theta),
    )
    assert_exact(exact.objective(*large), exact.objective(*small))
    assert_exact(exact.occupancy(*large), np.append(exact.occupancy(*small), [0, 0]))
    assert_exact(exact.gradient(*large), np.append(exact.gradient(*small), np.zeros(6)))
    for name in ("hessian", "fisher_information"):
        assert_exact(getattr(exact, name)(*large), np.pad(getattr(exact, name)(*small), (0, 6)))


def test_a_policy_that_cannot_take_the_way_out_is_refused():
    mdp = examples.aima_three_state()
    with pytest.raises(
        ValueError,
        match="from state 0, which the start can reach, the policy never terminates",
    ):
        exact.gradient(mdp, *deterministic(mdp, [0, 0, 0]))


def test_an_outcome_that_ends_with_probability_zero_is_no_way_out():
    mdp = FiniteMDP(
        [[[1.0, 0.0]]],
        [[[0, 0]]],
        [[[1.0, 1.0]]],
        [[[False, True]]],
        initial=[1.0],
        gamma=1.0,
        horizon=None,
    )
    with pytest.raises(ValueError, match="never terminates"):
        exact.objective(mdp, *uniform(mdp))


def patience():
    """One state: action 0 pays 1 and stays, action 1 pays 5 and ends. J = e^gap + 5 for a logit gap."""
    return FiniteMDP(
        [[[1.0], [1.0]]],
        [[[0], [0]]],
        [[[1.0], [5.0]]],
        [[[False], [True]]],
        initial=[1.0],
        gamma=1.0,
        horizon=None,
    )


GAPS = (5.0, 20.0, 36.0, 40.0, 100.0, 300.0)


@pytest.mark.parametrize("gap", [*GAPS, 700.0])
def test_answers_for_long_episodes_keep_all_their_digits(gap):
    """The way out is taken once in e^gap steps, and 1 − γP would round to zero."""
    problem = patience(), TabularSoftmax(1, 2), [gap, 0.0]
    length, e = np.exp(gap), np.array([1.0, -1.0])
    for name, expected in {
        "objective": length + 5,
        "values": [length + 5],
        "action_values": [[length + 6, 5.0]],
        "occupancy": [length + 1],
        "gradient": length * e,
    }.items():
        np.testing.assert_allclose(getattr(exact, name)(*problem), expected, rtol=EXACT, err_msg=name)
    advantages = exact.advantages(*problem)[0]
    np.testing.assert_allclose(advantages[1], -length, rtol=EXACT)
    assert abs(advantages[0] - 1) <= EXACT * length  # a difference of V's own size


@pytest.mark.parametrize("gap", [*GAPS, 700.0])
def test_second_derivatives_for_long_episodes_keep_all_their_digits(gap):
    problem = patience(), TabularSoftmax(1, 2), [gap, 0.0]
    length, e = np.exp(gap), np.array([1.0, -1.0])
    np.testing.assert_allclose(exact.hessian(*problem), length * np.outer(e, e), rtol=EXACT)
    fisher = (length + 1) * (1 / (1 + 1 / length)) * (1 / (1 + length))  # visits times the variance of one choice
    np.testing.assert_allclose(exact.fisher_information(*problem), fisher * np.outer(e, e), rtol=EXACT)
    np.testing.assert_allclose(exact.natural_gradient(*problem), length * e / (2 * fisher), rtol=EXACT)


@pytest.mark.parametrize("seed", range(12))
def test_several_states_with_rare_ways_out_against_fractions(seed):
    """Entry by entry, whatever their sizes: V and d of four states whose logits are up to 40 apart."""
    rng = np.random.default_rng(seed)
    S, A = 4, 3
    next_state, terminated = rng.integers(S, size=(S, A, 1)), np.zeros((S, A, 1), dtype=bool)
    terminated[:, -1] = True
    reward = rng.uniform(0.5, 1.0, size=(S, A, 1))  # of one sign, so that nothing cancels
    mdp = FiniteMDP(
        np.ones((S, A, 1)), next_state, reward, terminated, initial=np.full(S, 0.25), gamma=1.0, horizon=None
    )
    policy, theta = TabularSoftmax(S, A), rng.uniform(0, 40, size=(S, A)) - np.array([0.0, 0.0, 20.0])
    pi = [[Fraction(p) for p in row] for row in policy.probabilities(theta.ravel()).tolist()]
    matrix = [[Fraction(0)] * S for _ in range(S)]  # I − P, its diagonal as what leaves a state
    for s, a in itertools.product(range(S), range(A)):
        target = int(next_state[s, a, 0])
        if terminated[s, a, 0] or target != s:
            matrix[s][s] += pi[s][a]
            if not terminated[s, a, 0]:
                matrix[s][target] -= pi[s][a]
    r = [sum(pi[s][a] * Fraction(float(reward[s, a, 0])) for a in range(A)) for s in range(S)]
    V = solved(matrix, r)
    d = solved([list(column) for column in zip(*matrix, strict=True)], [Fraction(1, 4)] * S)
    np.testing.assert_allclose(exact.values(mdp, policy, theta.ravel()), np.array(V, dtype=float), rtol=EXACT)
    np.testing.assert_allclose(exact.occupancy(mdp, policy, theta.ravel()), np.array(d, dtype=float), rtol=EXACT)


def solved(matrix, right):
    """The solution of a linear system in fractions: Gauss and Jordan."""
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    n = len(rows)
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k])
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(n):
            if i != k:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[-1] for row in rows]


def test_ways_out_that_underflow_are_refused():
    """e^-746 is zero in float64, and with it the chance of ever ending."""
    with pytest.raises(ValueError, match=r"never terminates|underflows"):
        exact.objective(patience(), TabularSoftmax(1, 2), [746.0, 0.0])


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_batch_of_policies_is_judged_one_by_one(name):
    """Two policies that end, one of which never ends from a state out of reach."""
    mdp = FiniteMDP(
        [[[1.0], [1.0]]] * 2,
        [[[0], [0]], [[1], [1]]],
        [[[2.0], [1.0]]] * 2,
        [[[True], [True]], [[True], [False]]],
        initial=[1.0, 0.0],
        gamma=1.0,
        horizon=None,
    )
    policy = TabularSoftmax(2, 2)
    batch = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, -np.inf, 0.0]])
    if name in ("values", "action_values", "advantages"):
        with pytest.raises(ValueError, match="state 1 need not terminate, so its value at gamma=1 has no limit"):
            getattr(exact, name)(mdp, policy, batch)
    else:
        answer = getattr(exact, name)(mdp, policy, batch)
        assert_exact(answer, [getattr(exact, name)(mdp, policy, theta) for theta in batch])


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_batch_of_policies_may_end_in_different_ways(name):
    """Of the two actions one policy takes only the first, the other only the second; each can end."""
    mdp = examples.bandit(means=[1.0, 3.0]).replace(horizon=None)
    answer = getattr(exact, name)(mdp, TabularSoftmax(1, 2), [[0.0, -np.inf], [-np.inf, 0.0]])
    expected = [getattr(exact, name)(mdp, TabularSoftmax(1, 2), theta) for theta in ([0.0, -np.inf], [-np.inf, 0.0])]
    assert_exact(answer, expected, scale=3.0)


# Fisher information and natural gradient.


@given(problems.problems(horizons=(1, 2, 3)))
def test_fisher_information_is_the_mean_outer_product_of_trajectory_scores(problem):
    mdp, policy, theta = problem
    psi = score_by_loops(policy, theta)
    F = np.zeros((policy.n_parameters, policy.n_parameters))
    for p, steps, _, _ in reference.trajectories(mdp, table(policy, theta)):
        total = sum(psi[s, a] for s, a, _ in steps)
        F += float(p) * np.outer(total, total)
    actual = exact.fisher_information(*problem, objective=Undiscounted())
    assert_exact(actual, F, scale=mdp.horizon**2 * np.abs(psi).max() ** 2)


@given(problems.problems(horizons=(1, 2, 3)))
def test_discounted_fisher_information_counts_each_step_by_its_discount(problem):
    mdp, policy, theta = problem
    psi, d = (
        score_by_loops(policy, theta),
        reference.occupancy(mdp, table(policy, theta)),
    )
    F = np.zeros((policy.n_parameters, policy.n_parameters))
    for t, s, a in itertools.product(range(mdp.horizon), range(mdp.n_states), range(mdp.n_actions)):
        F += float(d[t][s]) * table(policy, theta)[s][a] * np.outer(psi[s, a], psi[s, a])
    assert_exact(
        exact.fisher_information(*problem),
        F,
        scale=mdp.horizon * np.abs(psi).max() ** 2,
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_natural_gradient_of_a_bandit_is_its_rewards_minus_their_mean(temperature):
    """At temperature τ the least solution is τ (r − mean of r)."""
    mdp = examples.bandit(means=[1.0, 2.0, -0.5])
    g = exact.natural_gradient(mdp, TabularSoftmax(1, 3, temperature=temperature), [0.3, -0.2, 0.5])
    assert_exact(g, temperature * (np.array([1.0, 2.0, -0.5]) - 2.5 / 3), scale=10.0)


def test_natural_gradient_solves_the_fisher_system_and_is_the_least_solution():
    mdp, policy, theta = PROBLEMS["referee"]
    x = exact.natural_gradient(mdp, policy, theta)
    assert_exact(
        exact.fisher_information(mdp, policy, theta) @ x,
        exact.gradient(mdp, policy, theta),
        scale=50.0,
    )
    assert_exact(x.reshape(3, 3).sum(axis=1), np.zeros(3), scale=50.0)


def test_directions_that_hardly_matter_are_kept():
    """Arm 1 is taken once in e^14 pulls, so an eigenvalue of F is near 1e-6; the natural gradient is the same."""
    mdp = examples.bandit(means=[1.0, 2.0, -0.5])
    g = exact.natural_gradient(mdp, TabularSoftmax(1, 3), [0.0, -14.0, 1.0])
    assert np.abs(g - (np.array([1.0, 2.0, -0.5]) - 2.5 / 3)).max() < DIFFERENCE


@pytest.mark.parametrize("horizon", [1, 4, None])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("spread", [20.0, 30.0, 38.0])
def test_natural_gradient_of_any_table_is_its_mean_action_values_less_their_mean(spread, temperature, horizon):
    """τ (Q̄ − mean of Q̄), Q̄(s, a) the mean of Q_t(s, a) over the visits of s: also for actions taken once in e^38 times."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        mdp = random_mdp(n_actions=3, horizon=horizon, start="uniform", rng=seed)
        policy = TabularSoftmax(3, 3, temperature=temperature)
        theta = temperature * rng.permuted(np.tile([0.0, spread, spread * rng.random()], (3, 1)), axis=1).ravel()
        d, Q = exact.occupancy(mdp, policy, theta), exact.action_values(mdp, policy, theta)
        mean = Q if horizon is None else np.einsum("ts,tsa->sa", d, Q) / d.sum(axis=0)[:, None]
        expected = temperature * (mean - mean.mean(axis=1, keepdims=True)).ravel()
        actual = exact.natural_gradient(mdp, policy, theta)
        assert np.abs(actual - expected).max() < DIFFERENCE * np.abs(expected).max(), seed


def test_damping_is_added_to_the_diagonal():
    """Bandit at θ = 0 with two arms: F = ¼ [1 −1; −1 1], ∇J = ¼ (−1, 1), hence ± ¼ / (½ + λ)."""
    mdp = examples.bandit(means=[0.0, 1.0])
    for damping in (0.25, 2.0):
        g = exact.natural_gradient(mdp, *uniform(mdp), damping=damping)
        assert_exact(g, np.array([-0.25, 0.25]) / (0.5 + damping))


def test_little_damping_is_almost_none():
    mdp, policy, theta = PROBLEMS["referee"]
    g, damped = (
        exact.natural_gradient(mdp, policy, theta),
        exact.natural_gradient(mdp, policy, theta, damping=1e-9),
    )
    assert np.abs(g - damped).max() < DIFFERENCE * np.abs(g).max()


@given(problems.problems(horizons=(1, 2)))
def test_the_natural_gradient_points_uphill(problem):
    g, natural = exact.gradient(*problem), exact.natural_gradient(*problem, damping=0.1)
    assert g @ natural >= -EXACT * gradient_scale(problem) ** 2


# Answers known on paper, through `exact.values`.


def test_values_of_the_random_walk():
    mdp = examples.random_walk()
    assert_exact(exact.values(mdp, *uniform(mdp))[1:-1], np.arange(1, 6) / 6)


def test_values_of_the_4x4_gridworld():
    mdp = examples.gridworld_4x4()
    expected = [
        0,
        -14,
        -20,
        -22,
        -14,
        -18,
        -20,
        -20,
        -20,
        -20,
        -18,
        -14,
        -22,
        -20,
        -14,
        0,
    ]
    assert_exact(exact.values(mdp, *uniform(mdp)), expected, scale=200.0)


def test_values_of_the_5x5_gridworld():
    mdp = examples.gridworld_5x5()
    V = exact.values(mdp, *uniform(mdp)).reshape(5, 5)
    assert V.round(1)[0].tolist() == [3.3, 8.8, 4.4, 5.3, 1.5]
    assert V.round(1)[4].tolist() == [-1.9, -1.3, -1.2, -1.4, -2.0]


def test_values_of_the_short_corridor():
    mdp = examples.short_corridor()
    p = 2 - np.sqrt(2)
    policy, theta = LinearSoftmax(examples.action_features(4, 2)), np.log([p, 1 - p])
    assert_exact(exact.values(mdp, policy, theta)[0], -(6 + 4 * np.sqrt(2)), scale=100.0)
    assert_exact(exact.gradient(mdp, policy, theta), [0.0, 0.0], scale=100.0)
    assert_exact(
        exact.gradient(mdp, policy, [0.0, 0.0])[0],
        2 * (0.25 - 2 + 2) / 0.25,
        scale=100.0,
    )


def test_values_of_the_three_state_exercise():
    mdp = examples.aima_three_state()
    assert_exact(exact.values(mdp, *deterministic(mdp, [1, 1, 0]))[:2], [-10, -20])
    assert_exact(exact.values(mdp, *deterministic(mdp, [1, 0, 0]))[:2], [-10, -12.5])
    assert_exact(exact.values(mdp, *uniform(mdp))[:2], [-500 / 17, -520 / 17])


def test_values_of_the_recycling_robot():
    mdp = examples.recycling_robot()
    high = 2 / (1 - 0.9 * 0.75 - 0.81 * 0.25)
    assert_exact(exact.values(mdp, *deterministic(mdp, [0, 2])), [high, 0.9 * high])
    assert_exact(exact.values(mdp, *deterministic(mdp, [1, 1])), [10.0, 10.0])


def test_values_of_the_three_state_chain_and_of_the_river():
    chain, river = examples.baxter_bartlett(), examples.river_swim()
    assert_exact(exact.values(chain, *deterministic(chain, [1, 1, 1])), [8.0] * 3)
    assert_exact(exact.values(chain, *uniform(chain)), [5.0] * 3)
    assert_exact(exact.values(river, *deterministic(river, [0] * 6)), 100 * 0.95 ** np.arange(6))


def test_values_and_gradient_of_the_delayed_chain():
    mdp = examples.delayed_chain(length=4, gamma=0.5)
    policy, theta = TabularSoftmax(5, 2), np.sin(np.arange(10.0))
    p = np.array(table(policy, theta))[:4, 0]
    J = 0.125 * p.prod()
    g = J * (1 - p)
    assert_exact(exact.objective(mdp, policy, theta), J)
    assert_exact(exact.gradient(mdp, policy, theta), [*np.stack([g, -g], axis=1).ravel(), 0, 0])


def test_objective_of_the_referee_and_of_the_copy_task():
    referee, copy = examples.referee(), examples.copy_task()
    assert_exact(exact.objective(referee, *uniform(referee)), 1993878359 / 960000000)
    assert_exact(exact.objective(copy, *uniform(copy)), 2 / 27)
    assert count_trajectories(referee) == 1363


def test_the_objective_of_the_cliff_is_the_return_of_a_path():
    """The shortest path returns −13, the safe one −17."""
    mdp = examples.cliff()
    up, right, down = 0, 1, 2
    short, safe = np.full(48, right), np.full(48, right)
    short[36], short[35], safe[[36, 24, 12]], safe[[11, 23, 35]] = up, down, up, down
    assert exact.objective(mdp, *deterministic(mdp, short)) == -13
    assert exact.objective(mdp, *deterministic(mdp, safe)) == -17


# Refusals, and large models.


@pytest.mark.parametrize("name", QUANTITIES + SECOND)
@pytest.mark.parametrize(("S", "A"), [(2, 3), (3, 2), (1, 3), (3, 1), (1, 1)])
def test_a_policy_for_another_model_is_refused(name, S, A):
    mdp = examples.referee()
    with pytest.raises(
        ValueError,
        match=f"policy has n_states={S}, n_actions={A}, but mdp has n_states=3, n_actions=3",
    ):
        getattr(exact, name)(mdp, TabularSoftmax(S, A), np.zeros(S * A))


@pytest.mark.parametrize("name", QUANTITIES + SECOND)
def test_bad_parameters_are_refused(name):
    with pytest.raises(ValueError, match=r"theta has shape \(5,\)"):
        getattr(exact, name)(examples.referee(), TabularSoftmax(3, 3), np.zeros(5))
    with pytest.raises(ValueError, match=r"theta\[2\]=nan"):
        getattr(exact, name)(examples.referee(), TabularSoftmax(3, 3), [0, 0, np.nan, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("name", ["fisher_information", "natural_gradient", "hessian"])
def test_second_derivatives_refuse_a_batch(name):
    with pytest.raises(ValueError, match=r"theta has shape \(2, 9\)"):
        getattr(exact, name)(examples.referee(), TabularSoftmax(3, 3), np.zeros((2, 9)))


def test_hessian_refuses_complex_parameters_and_no_columns():
    with pytest.raises(ValueError, match=r"theta has shape \(9,\) and dtype complex128"):
        exact.hessian(examples.referee(), TabularSoftmax(3, 3), np.zeros(9, dtype=complex))
    with pytest.raises(ValueError, match="columns=0 is out of range; it must be at least 1"):
        exact.hessian(examples.referee(), TabularSoftmax(3, 3), np.zeros(9), columns=0)


@pytest.mark.parametrize(("damping", "error"), [(-1.0, ValueError), (np.nan, ValueError), ("a", TypeError)])
def test_bad_damping_is_refused(damping, error):
    mdp = examples.bandit(means=[0.0, 1.0])
    with pytest.raises(error, match="damping="):
        exact.natural_gradient(mdp, *uniform(mdp), damping=damping)


def test_nothing_of_the_size_of_all_pairs_of_states_is_built():
    """50 000 states: an array (S, S) would take 20 GB."""
    S = 50_000
    state = np.arange(S)[:, None]
    mdp = FiniteMDP(
        np.ones((S, 2, 1)),
        np.minimum(state + [0, 1], S - 1)[..., None],
        np.tile([[[0.0], [1.0]]], (S, 1, 1)),
        np.zeros((S, 2, 1), dtype=bool),
        initial=np.eye(1, S)[0],
        gamma=0.5,
        horizon=10,
    )
    J = sum(0.5**t * 0.5 for t in range(10))
    assert_exact(exact.objective(mdp, *uniform(mdp)), J)
    g = exact.gradient(mdp, *uniform(mdp))  # action 1 is worth its reward of 1, and leads to the same future
    d = np.array([sum(0.5**t * count for t, count in enumerate(row)) for row in binomial(10)])
    assert_exact(g.reshape(S, 2)[:10], 0.25 * d[:, None] * [-1.0, 1.0])
    assert not g[20:].any()


def binomial(T):
    """P(s_t = s) of a walk that steps right half the time: rows s, columns t."""
    return [[math.comb(t, s) * 0.5**t for t in range(T)] for s in range(T)]


def test_the_recursions_run_backwards_and_forwards():
    mdp = examples.referee(horizon=3)
    pi = np.full((3, 3), 1 / 3)
    assert [t for t, _, _ in bellman.backward(mdp, pi, mdp.expected_reward, 0.9)] == [
        2,
        1,
        0,
    ]
    assert len(list(bellman.forward(mdp, pi, 0.9))) == 3


# The merged chain against the equations step by step.


def hub(S=150):
    """Every state steps to the next one or back to state 0, which is entered from everywhere; the last one ends."""
    s = np.arange(S)[:, None, None]
    next_state = np.concatenate(
        [np.broadcast_to(np.minimum(s + 1, S - 1), (S, 2, 1)), np.zeros((S, 2, 1), int)], axis=2
    )
    p = np.array([[[0.75, 0.25], [0.4, 0.6]]]) * np.ones((S, 1, 1))
    reward = np.sin(np.arange(4 * S)).reshape(S, 2, 2)
    return FiniteMDP(p, next_state, reward, next_state == S - 1, initial=np.eye(S)[3], gamma=0.95, horizon=40)


def eight_at_a_time(S, T):
    return min(8, 2 ** max(T - 1, 1).bit_length() // 2)


def one_at_a_time(S, T):
    return 1


WAYS = {
    "by powers": (chains._by_powers, {}),
    "by powers, a row at a time": (chains._by_powers, {"most_at_a_time": one_at_a_time}),
    "by powers, a part of a row at a time": (
        chains._by_powers,
        {"most_at_a_time": one_at_a_time, "ONE_THREAD": 2**12, "ONE_THREAD_ROW": 200},
    ),
    "by powers, in blocks": (
        chains._by_powers,
        {"most_at_a_time": eight_at_a_time, "ONE_THREAD": 2**12, "ONE_THREAD_ROW": 200},
    ),
    "by double steps": (chains._by_double_steps, {}),
    "by powers of double steps": (chains._by_double_powers, {}),
    "together": (chains._together, {}),
    "together, too many for one thread": (chains._together, {"ONE_THREAD_ROW": 0}),
    "by steps": (chains._by_steps, {}),
}


@contextlib.contextmanager
def along(way):
    """Make all sweeps without a batch go this way, as far as the model allows."""
    function, constants = WAYS[way]

    def wanted(mdp):
        links, least = mdp.neighbours, {chains._together: 1, chains._by_double_steps: 2, chains._by_double_powers: 2}
        if function not in least:
            return function
        gathers = len(links.entered_by) and (function is chains._together or len(links.twice.neighbours.entered_by))
        return function if gathers and (mdp.horizon or 0) >= least[function] else chains._by_steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "quickest", wanted)
        for name, value in constants.items():
            patch.setattr(products if hasattr(products, name) else chains, name, value)
        yield


def assert_the_chain_gives_what_the_steps_give(mdp, pi):
    r = np.cos(np.arange(pi.size)).reshape(pi.shape) + mdp.expected_reward.reshape(pi.shape[:2] + (1,) * (pi.ndim - 2))
    r, gamma = r.astype(pi.dtype), mdp.gamma
    expected = chains.visited_values_by_outcomes(mdp, pi, r, gamma)
    scale = (mdp.horizon or 1) ** 2 * np.abs(r).max()
    assert_exact(chains.visited_values(mdp, pi, r, gamma), expected, scale)


@given(problems.problems(extreme=True), st.sampled_from([0, 1, 3]))
def test_the_merged_chain_gives_what_the_steps_give(problem, n_policies):
    mdp, policy, theta = problem
    pi = policy.probabilities(theta if n_policies == 0 else np.tile(theta, (n_policies, 1)))
    assert_the_chain_gives_what_the_steps_give(mdp, bellman.state_first(pi))
    for way in WAYS:
        with along(way):
            assert_the_chain_gives_what_the_steps_give(mdp, bellman.state_first(pi))


@pytest.mark.parametrize(
    "mdp",
    [hub(), examples.frozen_lake(map="8x8", gamma=0.99, horizon=37), random_mdp(n_states=130, horizon=9, rng=1)],
    ids=["hub", "lake", "random"],
)
def test_long_sweeps_over_merged_chains(mdp):
    """By powers, by gathering, and by adding up where too many states lead to one (the hub)."""
    pi = np.random.default_rng(0).dirichlet(np.ones(mdp.n_actions), size=mdp.n_states)
    for way in WAYS:
        with along(way):
            for policies in (pi, pi * (1 + 1e-3j)):
                assert_the_chain_gives_what_the_steps_give(mdp, policies)
    assert_the_chain_gives_what_the_steps_give(mdp, np.stack([pi, pi[::-1]], axis=-1))
    links = mdp.neighbours
    into, pair, entered_by, entered_from = links.into, links.pair, links.entered_by, links.entered_from
    s, a, k = np.nonzero(mdp.continuation)
    assert np.array_equal(into.ravel()[pair[s, a, k]], mdp.next_state[s, a, k])
    assert len(into) <= mdp.n_actions * mdp.n_outcomes and len(entered_by) <= 2 * len(into) + 8
    assert (len(entered_by) == 0) == (mdp.n_states == 150)
    for i, j in zip(*np.nonzero(entered_by < into.size), strict=True):
        assert into.ravel()[entered_by[i, j]] == j and entered_by[i, j] % mdp.n_states == entered_from[i, j]
    beside, between = links.adjacent
    for way, (before, after) in enumerate([(beside, np.arange(mdp.n_states)), (np.arange(mdp.n_states), beside)]):
        before, after = np.broadcast_arrays(before, after)
        there = between[..., way] < into.size
        assert np.array_equal(between[there][:, way] % mdp.n_states, before[there])
        assert np.array_equal(into.ravel()[between[there][:, way]], after[there])
    assert not pickle.loads(pickle.dumps(mdp)).__dict__.keys() & {"neighbours", "continuation"}
    tables = [into, pair, entered_by, entered_from, links.cells, links.leads, beside, between, *links.twice[1:]]
    assert not any(table.flags.writeable for table in tables)


@pytest.mark.parametrize(("sizes", "way"), [
    ((64, 100, 4, 4, 9, 9), "_by_double_powers"), ((100, 100, 4, 4, 9, 9), "_by_double_steps"), ((64, 20, 4, 4, 9, 9), "_together"),  # grids
    ((49, 100, 4, 4, 9, 9), "_by_double_powers"), ((36, 100, 4, 4, 9, 9), "_by_powers"), ((144, 100, 4, 4), "_together"), ((64, 10**5, 4), "_by_powers"), ((9, 1, 1, 1, 1, 1), "_by_steps"), ((9, 2, 1, 1, 1, 1), "_by_powers"),
    ((400, 1000, 4, 4), "_together"), ((400, 10**4, 4), "_by_steps"), ((64, 100, 4), "_by_powers"),
    ((100, 100, 12, 24), "_together"), ((80, 100, 12, 24), "_by_powers"), ((300, 100, 12, 34), "_together"), ((1000, 50, 12, 38), "_by_steps"),  # at random
    ((200, 100, 200, 200), "_by_powers"), ((2000, 30, 2000), "_by_powers"), ((150, 40, 2), "_by_steps"),
    ((10**5, 100, 4), "_by_steps"), ((1, 10**6, 1, 1), "_by_powers"), ((9, 0, 1, 1, 1, 1), "_by_steps"),
])  # fmt: skip
def test_the_quickest_way_by_sizes(sizes, way):
    assert chains.quickest_of(*sizes).__name__ == way


@pytest.mark.parametrize("S", [1, 16, 64, 130])
@pytest.mark.parametrize("T", [1, 2, 3, 10, 37, 100, chains.SUMS + 1])
def test_rows_are_those_of_single_steps_however_many_are_taken_at_a_time(monkeypatch, S, T):
    rng = np.random.default_rng(0)
    P, r, start = rng.dirichlet(np.ones(S), size=S), rng.normal(size=S), np.eye(S)[0]
    expected = [start], [np.zeros(S), r]
    for _ in range(T - 1):
        expected[0].insert(0, expected[0][0] @ P)
        expected[1].append(r + P @ expected[1][-1])
    powers = [2**k for k in range(max(T - 1, 1).bit_length())]
    assert chains.most_at_a_time(S, T) in powers
    for most in powers:
        monkeypatch.setattr(chains, "most_at_a_time", lambda S, T, most=most: most)
        for found, rows in zip(chains._rows(P, r, start, T), expected, strict=True):
            assert_exact(found, np.array(rows), T)


def test_a_tree_is_not_gathered_by_two_steps():
    """Eleven states lead to the root and eleven to each of those: the root is entered from few by one step, from many by two."""
    parent = np.concatenate([[0], np.zeros(11, int), np.repeat(np.arange(1, 12), 11)])[:, None]
    S = len(parent)
    next_state = np.stack([parent, np.arange(S)[:, None]], axis=1)  # up, or stay
    reward = np.sin(np.arange(2.0 * S)).reshape(S, 2, 1)
    mdp = FiniteMDP(np.ones((S, 2, 1)), next_state, reward, np.zeros((S, 2, 1), bool),
                    initial=np.full(S, 1 / S), gamma=0.9, horizon=100)  # fmt: skip
    links = mdp.neighbours
    assert len(links.entered_by) and not len(links.twice.neighbours.entered_by)
    assert chains.quickest(mdp) is chains._together
    assert_the_chain_gives_what_the_steps_give(mdp, np.random.default_rng(0).dirichlet(np.ones(2), size=S))


@pytest.mark.parametrize("T", [2, 3, 10, 37])
@pytest.mark.parametrize("way", [function for function, _ in WAYS.values() if function is not chains._by_steps])
def test_every_way_gives_visits_and_pairs_and_values(way, T):
    mdp = examples.frozen_lake(map="4x4", gamma=0.9)
    links, rng = mdp.neighbours, np.random.default_rng(0)
    pi, r, start = rng.dirichlet(np.ones(4), size=16), rng.normal(size=16), rng.dirichlet(np.ones(16))
    P = bellman.summed(links.pair, links.into.size + 1)(pi[:, :, None] * mdp.continuation)
    expected = chains._by_steps(P, r, start, T, links)
    for found, by_steps in zip(way(P, r, start, T, links), expected, strict=True):
        led = links.leads if found.ndim == 2 else ...  # nothing reads the others
        assert_exact(found[led], by_steps[led], T**2)
    dense = np.zeros((16, 16))
    np.add.at(dense.ravel(), links.cells, P[:-1].reshape(links.into.shape))
    values = sum(np.linalg.matrix_power(dense, t) @ r for t in range(T))
    assert_exact(expected[2], values, T)
    assert_exact(expected[0], sum(start @ np.linalg.matrix_power(dense, t) for t in range(T)), T)


@pytest.mark.parametrize(("way", "T"), [("by powers", 400), ("by powers, a row at a time", chains.SUMS)])
def test_dense_chains_keep_to_one_thread(monkeypatch, way, T):
    """All products of matrices go through `products`, in sizes that BLAS does not share among threads."""
    mdp, sizes = random_mdp(n_states=80, horizon=T, rng=0), []

    def recording(function):
        def product(x, y, out):
            sizes.append(out.size * x.shape[-1])
            return function(x, y, out)

        return product

    monkeypatch.setattr(products, "dot", recording(products.dot))
    monkeypatch.setattr(products.np, "matmul", recording(np.matmul))
    with along(way):
        assert_the_chain_gives_what_the_steps_give(mdp, np.full((80, mdp.n_actions), 1 / mdp.n_actions))
    assert max(sizes) <= products.ONE_THREAD
    rows, squares, sums = 2 * (T - 1) * 80**2, chains.most_at_a_time(80, T).bit_length() - 1, (T + 1) * T * 80
    first = rows + squares * 80**3 if way == "by powers" else sums  # single rows are counted elsewhere
    assert (squares > 1 or T < 400) and sum(sizes) == first + T * 80**2


def test_no_policies_have_no_gradients():
    model, nobody = examples.referee(horizon=3), np.zeros((0, 9))
    assert exact.gradient(model, TabularSoftmax(3, 3), nobody).shape == (0, 9)
    assert exact.occupancy(model, TabularSoftmax(3, 3), nobody).shape == (0, 3, 3)


def test_the_quickest_way_of_a_model():
    bandits = random_mdp(n_states=100, n_actions=2, horizon=1, rng=0)
    assert chains.quickest(bandits) is chains._by_steps and "adjacent" not in vars(bandits.neighbours)
    lake, at_random = (
        examples.frozen_lake(map="8x8", horizon=100),
        random_mdp(n_states=1000, n_actions=6, horizon=100, rng=0),
    )
    assert (
        chains.quickest(lake) is chains._by_double_powers
        and chains.quickest(lake.replace(horizon=20)) is chains._together
    )
    assert chains.quickest(at_random) is chains.quickest(hub(250)) is chains._by_steps
    assert chains.quickest(hub().replace(horizon=0)) is chains._by_steps


def test_a_changed_model_keeps_the_tables_it_can_and_no_others():
    model = examples.referee()
    tables = ("neighbours", "continuation")
    kept = [getattr(model, name) for name in tables]
    assert all(
        getattr(model.replace(gamma=0.5, reward=-model.reward), name) is x for name, x in zip(tables, kept, strict=True)
    )
    moved = model.probability.copy()
    moved[:, 1] = [0.0, 1.0]  # a successor less
    for change in ({"probability": moved}, {"next_state": model.next_state[::-1]}, {"terminated": ~model.terminated}):
        changed = model.replace(**change)
        fresh = pickle.loads(pickle.dumps(changed))  # nothing derived
        assert np.array_equal(changed.continuation, fresh.continuation)
        for name in ("into", "pair", "entered_by", "entered_from"):
            assert np.array_equal(getattr(changed.neighbours, name), getattr(fresh.neighbours, name))
        assert not np.array_equal(changed.neighbours.pair, model.neighbours.pair)
    magnitudes = model.magnitudes
    assert magnitudes.neighbours is kept[0] and not magnitudes.reward.flags.writeable
    for mdp in (model, model.replace(reward=-model.reward)):
        assert mdp.expected_reward is mdp.expected_reward  # kept by the model, but not by the other
        by_hand = np.einsum("sak,sak->sa", model.probability, np.abs(model.reward))
        np.testing.assert_allclose(mdp.magnitudes.expected_reward, by_hand, rtol=EXACT)


ENDLESS = FiniteMDP([[[1 - 1e-9, 1e-9]] * 2], [[[0, 0]] * 2], [[[1e300, 1e300], [0.0, 5e299]]], [[[False, True]] * 2],
                    initial=[1.0], gamma=1.0, horizon=None)  # fmt: skip
FORK = FiniteMDP(np.ones((3, 2, 1)), [[[1], [2]], [[1], [1]], [[2], [2]]], [[[0.0], [0.0]], [[1e300]] * 2, [[-1e300]] * 2],
                 np.zeros((3, 2, 1), bool), initial=[1.0, 0.0, 0.0], gamma=1.0, horizon=10**6)  # fmt: skip


@pytest.mark.parametrize(("function", "mdp"), [
    (exact.objective, ENDLESS), (exact.values, ENDLESS), (exact.action_values, ENDLESS), (exact.advantages, ENDLESS),
    (exact.gradient, ENDLESS), (exact.hessian, ENDLESS), (exact.natural_gradient, ENDLESS), (exact.gradient, FORK),
])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_what_leaves_float64_is_refused(function, mdp):
    """Rewards are below the limit; their sum over an episode, or over its steps, is not a number."""
    theta = np.sin(np.arange(2.0 * mdp.n_states))
    with pytest.raises(ValueError, match="leaves float64: rewards, added up over an episode, are too large; divide"):
        function(mdp, TabularSoftmax(mdp.n_states, 2), theta)
    smaller = mdp.replace(reward=mdp.reward / 1e20)
    assert np.isfinite(function(smaller, TabularSoftmax(mdp.n_states, 2), theta)).all()
