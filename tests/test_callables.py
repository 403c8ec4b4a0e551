"""Anybody's estimator: every batch in every order, and functions that cannot be judged refused by name."""

import functools
import itertools

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import (
    FiniteMDP,
    Problem,
    RewardToGo,
    TabularSoftmax,
    TooLargeError,
    algorithms,
    confirm,
    confirm_stream,
    enumerate_trajectories,
    enumeration,
    exact,
    examples,
    find_counterexample,
    judge,
    moments,
    moments_by_enumeration,
    numpy_loss,
)
from reinforce_np.estimators import Estimator
from reinforce_np.exact import callables, listing
from reinforce_np.training import SGD, train

MDP = examples.referee(horizon=2)
POLICY = TabularSoftmax(3, 3)
THETA = np.linspace(-1, 1, 9)
PROBLEM = Problem(MDP, POLICY, THETA)
REINFORCE = algorithms.reinforce()
PAIR = Problem(examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5]), group_size=3)


def scores(trajectories, theta, policy):
    """Σψ of each trajectory, by loops."""
    psi = policy.score(theta)
    return np.array(
        [
            sum(psi[s, a] for s, a in zip(states[:n], actions[:n], strict=True))
            for states, actions, n in zip(trajectories.states, trajectories.actions, trajectories.lengths, strict=True)
        ]
    )


def returns(trajectories, gamma):
    return (trajectories.rewards * trajectories.mask * gamma ** np.arange(trajectories.n_steps)).sum(axis=1)


def whole_return(trajectories, theta, problem):
    return (scores(trajectories, theta, problem.policy) * returns(trajectories, problem.gamma)[:, None]).mean(axis=0)


def first_as_baseline(trajectories, theta, problem):
    """The first rollout is the baseline of the others: in this order, and in no other."""
    z, R = scores(trajectories, theta, problem.policy), returns(trajectories, problem.gamma)
    return (z[1:] * (R[1:] - R[0])[:, None]).sum(axis=0) / len(R)


def running_mean(trajectories, theta, problem):
    """Each return minus the mean of those before it."""
    z, R = scores(trajectories, theta, problem.policy), returns(trajectories, problem.gamma)
    before = np.concatenate([[0.0], np.cumsum(R)[:-1] / np.arange(1, len(R))])
    return (z * (R - before)[:, None]).mean(axis=0)


def by_brute_force(f, problem):
    """Mean and covariance over all tuples of trajectories, drawn independently after a shared first state."""
    t, p = enumerate_trajectories(problem.mdp, problem.policy, problem.theta)
    size = problem.group_size
    found, weights = [], []
    for row in itertools.product(range(len(p)), repeat=size):
        if len({t.states[i, 0] for i in row}) == 1:
            start = problem.mdp.initial[t.states[row[0], 0]]
            found.append(f(t.take(list(row)), problem.theta, problem))
            weights.append(start * np.prod(p[list(row)] / start))
    found, weights = np.array(found), np.array(weights)
    mean = weights @ found
    return mean, (weights[:, None] * (found - mean)).T @ (found - mean)


@pytest.mark.parametrize("f", [whole_return, first_as_baseline, running_mean])
@pytest.mark.parametrize("problem", [PAIR, PROBLEM.replace(mdp=MDP.replace(horizon=1), group_size=2)])
def test_every_batch_in_every_order(f, problem):
    found = moments(f, problem)
    mean, covariance = by_brute_force(f, problem)
    assert_exact(found.mean, mean)
    assert_exact(found.covariance, covariance)
    assert found.route == "enumeration"


def test_batches_are_counted_before_anything_is_listed(monkeypatch):
    """Exactly where they can be listed, and in no time where they cannot: what looks the same is one."""
    rng, shape = np.random.default_rng(0), (3, 3, 4)  # many outcomes are alike, or differ in where they lead only
    alike = MDP.replace(
        probability=np.full(shape, 0.25),
        next_state=rng.integers(2, size=shape),
        reward=np.zeros(shape),
        terminated=rng.random(shape) < 0.5,
    )
    bootstrapped = algorithms.actor_critic(np.arange(3.0))
    for mdp in (alike, alike.replace(horizon=4), examples.referee(horizon=3), MDP.replace(horizon=0)):
        for estimator in (whole_return, REINFORCE, bootstrapped):
            listed, _ = exact.batches.distinguishable(estimator, *enumerate_trajectories(mdp, POLICY, THETA))
            first = listed.states[:, 0] if mdp.horizon else listed.final_states
            counted = exact.batches.n_distinguishable(estimator, PROBLEM.replace(mdp=mdp), limit=2**22)
            assert counted == np.bincount(first, minlength=3)[mdp.initial > 0].tolist()
    monkeypatch.setattr(enumeration, "enumerate_trajectories", None)
    huge = PROBLEM.replace(mdp=examples.referee(horizon=9), group_size=10**5)  # 1,661,128 trajectories
    with pytest.raises(TooLargeError, match=r"group_size=100000 from 1\d{6} trajectories need more than 1e\+15 evalu"):
        judge(whole_return, huge)


@pytest.mark.parametrize("in_order", [False, True])
def test_counting_batches_stops_early_and_never_too_early(in_order):
    for sizes, prompts, group_size in (([1], 3, 4), ([2, 0], 2, 9), ([3, 5, 1], 2, 3), ([7], 1, 5)):
        n = listing.n_batches(sizes, prompts, group_size, in_order=in_order)
        for most in (1, 28, n - 1, n, 10 * n):
            found = listing.n_batches(sizes, prompts, group_size, in_order=in_order, most=most)
            assert found == n if n <= most else found > most


def test_verdicts_on_functions_of_one_trajectory():
    assert judge(whole_return, PROBLEM).kind == "unbiased"
    assert judge(lambda t, theta: 2 * whole_return(t, theta, PROBLEM), PROBLEM).factor == pytest.approx(2)
    backwards = judge(lambda t, theta: -whole_return(t, theta, PROBLEM), PROBLEM)
    assert (backwards.kind, backwards.factor) == ("proportional", pytest.approx(-1))
    assert judge(lambda t, theta: whole_return(t, theta, PROBLEM) + 1e-6, PROBLEM).kind == "biased"


def test_the_order_of_a_batch_is_never_ignored_unless_it_is_declared():
    right = judge(first_as_baseline, PAIR)
    assert (right.kind, right.factor) == ("proportional", pytest.approx(2 / 3))
    assert right.moments.n_batches == 27
    fair = moments(whole_return, PAIR, exchangeable=True)
    assert fair.n_batches == 10
    assert_exact(fair.covariance, moments(whole_return, PAIR).covariance)


def first_and_last(trajectories, theta, problem):
    """The same backwards."""
    z, R = scores(trajectories, theta, problem.policy), returns(trajectories, problem.gamma)
    return R[0] * z[0] + R[-1] * z[-1]


def neighbour(trajectories, theta, problem):
    """The return of the one before as the baseline, for the first that of the last: the same moved on."""
    z, R = scores(trajectories, theta, problem.policy), returns(trajectories, problem.gamma)
    return (R - np.roll(R, 1)) @ z


def first_of_each_group(trajectories, theta, problem):
    return scores(trajectories, theta, problem.policy)[:: problem.group_size].sum(axis=0)


def first_group(trajectories, theta, problem):
    n = problem.group_size
    return returns(trajectories, problem.gamma)[:n] @ scores(trajectories, theta, problem.policy)[:n]


def interleaved(trajectories, theta, problem):
    """RLOO with the axes of the groups confused."""
    z, R = scores(trajectories, theta, problem.policy), returns(trajectories, problem.gamma)
    R = R.reshape(problem.group_size, problem.prompts)
    return ((R - (R.sum(axis=0) - R) / (len(R) - 1)).ravel()[:, None] * z).mean(axis=0)


def both_neighbours(trajectories, theta, problem):
    z, R = scores(trajectories, theta, problem.policy), returns(trajectories, problem.gamma)
    return ((R - (np.roll(R, 1) + np.roll(R, -1)) / 2)[:, None] * z).mean(axis=0)


def palindrome(trajectories, theta, problem):
    n = len(trajectories)
    weight = 1.0 + np.minimum(np.arange(n), np.arange(n)[::-1])
    return (weight * returns(trajectories, problem.gamma)) @ scores(trajectories, theta, problem.policy)


DEPENDENT = [
    (first_as_baseline, 1, 2),
    (first_and_last, 1, 3),
    (neighbour, 1, 3),
    (first_of_each_group, 2, 2),
    (first_group, 2, 2),
    (interleaved, 2, 2),
    (interleaved, 2, 3),
    (both_neighbours, 1, 4),
    (both_neighbours, 4, 1),
    (palindrome, 2, 2),
]


@pytest.mark.parametrize("function, prompts, group_size", DEPENDENT, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_false_declaration_is_refused(function, prompts, group_size):
    """Else only sorted batches would be looked at, and the verdict be another."""
    problem = PAIR.replace(prompts=prompts, group_size=group_size)
    message = rf"exchangeable=True, but {function.__name__} depends on the order of its batch: component . is .*, and .* in the order .*; leave exchangeable out"
    for ask in (judge, moments, exact.largest_contributions, functools.partial(confirm, n=100, rng=0)):
        with pytest.raises(ValueError, match=message):
            ask(function, problem, exchangeable=True)


def rloo_by_groups(trajectories, theta, problem):
    """By the labels of the groups, wherever their members are."""
    z, R, groups = (
        scores(trajectories, theta, problem.policy),
        returns(trajectories, problem.gamma),
        trajectories.groups,
    )
    same = groups[:, None] == groups
    return ((R - (same @ R - R) / (same.sum(axis=1) - 1))[:, None] * z).mean(axis=0)


@pytest.mark.parametrize("prompts, group_size", [(1, 3), (2, 2), (3, 2), (2, 3)])
def test_groups_are_not_torn_apart(prompts, group_size):
    """Two prompts, so that members of another group are worth something else."""
    mdp = FiniteMDP(np.ones((2, 2, 1)), np.zeros((2, 2, 1), int), [[[0.0], [1.0]], [[5.0], [2.0]]], np.ones((2, 2, 1), bool),
                    initial=[0.5, 0.5], gamma=1.0, horizon=1)  # fmt: skip
    problem = Problem(
        mdp, TabularSoftmax(2, 2), np.array([0.1, -0.3, 0.4, 0.2]), prompts=prompts, group_size=group_size
    )
    listed, declared = (judge(rloo_by_groups, problem, exchangeable=exchangeable) for exchangeable in (False, True))
    assert listed.kind == declared.kind == "unbiased" and declared.moments.n_batches < listed.moments.n_batches
    assert_exact(declared.moments.covariance, listed.moments.covariance)


@pytest.mark.parametrize("seed", range(8))
def test_one_batch_that_tells_is_enough(seed):
    """Two arms and two trajectories: of three batches only (0, 1) has another order."""
    means = np.random.default_rng(seed).normal(size=2)
    problem = Problem(examples.bandit(means=means), TabularSoftmax(1, 2), np.array([0.5, -0.5]), group_size=2)
    with pytest.raises(ValueError, match="depends on the order"):
        judge(first_as_baseline, problem, exchangeable=True)


def test_what_is_zero_but_for_rounding_is_no_false_declaration():
    """From state 0 all answers are worth 0.6, summed in two orders: only rounding is left in its groups."""

    def chain(rewards, s):
        return [(s + t, a, s + t + 1, r) for t, r in enumerate(rewards) for a in (0, 1)]

    cells = [
        (0, 0, 1, 0.1),
        (0, 1, 3, 0.3),
        *chain([0.2, 0.3], 1),
        *chain([0.2, 0.1], 3),
        (5, 0, 5, 0.0),
        (5, 1, 5, 1.0),
    ]
    next_state, reward, ends = np.zeros((6, 2, 1), int), np.zeros((6, 2, 1)), np.zeros((6, 2, 1), bool)
    for s, a, target, r in cells:
        next_state[s, a], reward[s, a], ends[s, a] = min(target, 5), r, s in (2, 4, 5)
    mdp = FiniteMDP(np.ones((6, 2, 1)), next_state, reward, ends, initial=[0.5, 0, 0, 0, 0, 0.5], gamma=1.0, horizon=3)
    problem = Problem(mdp, TabularSoftmax(6, 2), np.linspace(-0.4, 0.5, 12), group_size=3)

    def rloo(trajectories, theta):
        z, R = scores(trajectories, theta, problem.policy), returns(trajectories, 1.0)
        return ((R - (R.sum() - R) / (len(R) - 1))[:, None] * z).mean(axis=0)

    assert judge(rloo, problem).kind == judge(rloo, problem, exchangeable=True).kind == "unbiased"


def leave_one_out_in_float32(trajectories, theta, problem):
    """RLOO, the sums in single precision: returns far from zero cancel."""
    z, R = (
        f.astype(np.float32)
        for f in (scores(trajectories, theta, problem.policy), returns(trajectories, problem.gamma))
    )
    return (z * (R - (R.sum() - R) / np.float32(len(R) - 1))[:, None]).mean(axis=0)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
def test_rounding_is_no_false_declaration(offset):
    problem = PAIR.replace(mdp=examples.bandit(means=[offset + 0.1, offset + 1.3, offset + 2.7]), group_size=4)

    def in_double(trajectories, theta):
        return leave_one_out_in_float32(trajectories, theta, problem).astype(np.float64)

    for f, options in ((leave_one_out_in_float32, {}), (in_double, {"precision": np.float32})):
        assert judge(f, problem, **options).kind == judge(f, problem, exchangeable=True, **options).kind == "unbiased"
        assert confirm(f, problem, n=100, exchangeable=True, rng=0, **options)


def test_a_function_and_an_estimator_that_are_the_same_have_the_same_moments():
    for estimator, f in ((Estimator(RewardToGo()), None), (algorithms.rloo(), None)):
        problem = PROBLEM.replace(mdp=MDP.replace(horizon=1), group_size=2)
        f = lambda t, theta, e=estimator: e.gradient(t, MDP, POLICY, theta)  # noqa: E731
        ours = moments_by_enumeration(estimator, problem.mdp, POLICY, THETA, group_size=2)
        theirs = moments(f, problem)
        assert_exact(theirs.mean, ours.mean)
        assert_exact(theirs.covariance, ours.covariance)
        assert theirs.n_batches > ours.n_batches


def test_the_three_forms():
    plain = judge(lambda trajectories, theta: whole_return(trajectories, theta, PROBLEM), PROBLEM)
    with_problem = judge(whole_return, MDP, POLICY, THETA)
    made = judge(lambda problem: lambda t, theta: whole_return(t, theta, problem), PROBLEM)
    estimator = judge(lambda problem: Estimator(RewardToGo(np.ones(problem.mdp.n_states))), PROBLEM)
    assert {plain.kind, with_problem.kind, made.kind, estimator.kind} == {"unbiased"}
    assert estimator.moments.route == "recursion"
    for wrong in (3, Estimator, lambda: 0, lambda a, b, c, d: 0, lambda problem: problem):
        with pytest.raises(TypeError, match="pass an Estimator such as"):
            judge(wrong, PROBLEM)
    with pytest.raises(TypeError, match="given twice"):
        judge(whole_return, PROBLEM, POLICY, THETA)
    with pytest.raises(TypeError, match="or a Problem"):
        judge(whole_return, MDP, POLICY)


def test_functions_that_cannot_be_judged_are_refused_by_name():
    with pytest.raises(ValueError, match=r"whole_return returned an array of shape \(9, 1\)"):
        judge(column(whole_return), PROBLEM)
    with pytest.raises(ValueError, match=r"returned None; an estimate must be returned"):
        judge(lambda t, theta: None, PROBLEM)
    calls = itertools.count()
    with pytest.raises(ValueError, match="keeps a state between calls or draws random numbers"):
        judge(lambda t, theta: theta * next(calls), PROBLEM)
    with pytest.raises(
        ValueError, match="keeps a state between calls or draws random numbers"
    ):  # not where all rows are one
        judge(one_at_random, PAIR)
    with pytest.raises(TypeError, match="objective='discounted' is no objective"):
        judge(whole_return, PROBLEM, objective="discounted")
    with pytest.raises(TooLargeError, match="or declare it exchangeable"):
        judge(whole_return, PROBLEM, group_size=8)
    with pytest.raises(ValueError, match="route='recursion' is for an Estimator"):
        moments(whole_return, PROBLEM, route="recursion")


def in_place(trajectories, theta, problem):
    trajectories.rewards -= 1.0
    return theta


@pytest.mark.parametrize(
    "asked",
    [
        lambda f: judge(f, PROBLEM),
        lambda f: confirm(f, PROBLEM, n=5, variance=1.0, rng=0),
        lambda f: find_counterexample(f),
        lambda f: train(
            (MDP, POLICY),
            lambda trajectories, theta: f(trajectories, theta, PROBLEM),
            SGD(0.1),
            iterations=1,
            batch_size=2,
        ),
        lambda f: judge(lambda trajectories, theta: theta.sort(), PROBLEM),
    ],
)
def test_arrays_that_were_given_are_not_written_to(asked):
    """NumPy's own words do not say whose array it is, nor what to do instead."""
    with pytest.raises(ValueError, match=r"writes into an array that is read-only .*rewards\.copy\(\)") as refusal:
        asked(in_place)
    assert "read-only" in str(refusal.value.__cause__) and refusal.value.__cause__.__cause__ is None


def test_functions_are_called_by_their_names():
    """Not by that of what the package wraps them in, wherever it speaks of them."""
    assert repr(numpy_loss(in_place)).startswith("<function in_place at")
    for f in (in_place, functools.partial(in_place), numpy_loss(in_place)):
        assert repr(callables.bound(f, PROBLEM)).startswith("<function in_place at")
        with pytest.raises(ValueError, match="how much estimator=in_place scatters"):
            confirm_stream(f, PROBLEM, limit=1, precision=np.float64)


RNG = np.random.default_rng(0)


def one_at_random(trajectories, theta):
    """Unbiased, if its mean could be listed."""
    return whole_return(trajectories.take([RNG.integers(len(trajectories))]), theta, PAIR)


def column(f):
    def whole_return(trajectories, theta):
        return f(trajectories, theta, PROBLEM)[:, None]

    return whole_return


def test_an_estimate_that_is_not_finite_is_undefined_and_says_where():
    def standardised(trajectories, theta):
        R = returns(trajectories, PAIR.gamma)
        return (scores(trajectories, theta, PAIR.policy) * ((R - R.mean()) / R.std())[:, None]).mean(axis=0)

    verdict = judge(standardised, PAIR)
    assert verdict.kind == "undefined" and verdict.moments is None
    assert str(verdict).endswith(
        "returned nan for component 0 of the batch of s0 a0 r0, end; s0 a0 r0, end; s0 a0 r0, end"
    )
    assert verdict.as_dict()["reason"] == verdict.reason
    with pytest.raises(callables.NotFiniteError):
        moments(standardised, PAIR)


@pytest.mark.parametrize("logit", [20.0, 33.0, 36.0, 38.0, 45.0])
def test_one_minus_pi_as_it_stands_convicts_nobody(logit):
    """Near a deterministic policy the plain score loses every digit of the action that is nearly certain."""

    def plain(trajectories, theta, problem, to_go=True):
        z = np.exp(theta.reshape(3, 3) - theta.reshape(3, 3).max(axis=1, keepdims=True))
        pi, estimate = z / z.sum(axis=1, keepdims=True), np.zeros((3, 3))
        discounted = trajectories.rewards[0] * trajectories.mask[0] * problem.gamma ** np.arange(2)
        for t in range(trajectories.lengths[0]):
            s, a = trajectories.states[0, t], trajectories.actions[0, t]
            estimate[s] += discounted[t if to_go else 1 :].sum() * (np.eye(3)[a] - pi[s])
        return estimate.ravel()

    def wrong(trajectories, theta, problem):
        return plain(trajectories, theta, problem, to_go=False)

    problem = PROBLEM.replace(theta=np.tile([logit, 0.0, -1.0], 3))
    assert judge(plain, problem).kind in ("unbiased", "undefined")
    assert judge(whole_return, problem).kind == "unbiased"
    assert judge(wrong, problem).kind == "biased"


@pytest.mark.parametrize(("size", "fits"), [(1e-160, 1e-150), (1e160, 1e150)])
def test_estimates_whose_squares_leave_float64_are_refused(size, fits):
    with pytest.raises(ValueError, match="have second moments that leave float64; divide rewards, baselines and pen"):
        judge(whole_return, PROBLEM.replace(mdp=MDP.replace(reward=size * MDP.reward)))
    assert judge(whole_return, PROBLEM.replace(mdp=MDP.replace(reward=fits * MDP.reward))).kind == "unbiased"


def test_single_precision_is_no_bias():
    def single(trajectories, theta):
        return whole_return(trajectories, theta, PROBLEM).astype(np.float32)

    assert judge(single, PROBLEM).kind == "unbiased"
    widened = judge(lambda t, theta: single(t, theta).astype(np.float64), PROBLEM)
    assert widened.kind == "biased" and "precision=np.float32" in str(widened)
    assert judge(lambda t, theta: single(t, theta).astype(np.float64), PROBLEM, precision=np.float32).kind == "unbiased"
    assert judge(lambda t, theta: single(t, theta) * np.float32(1.001), PROBLEM).kind == "proportional"


def test_the_objective_may_be_made_from_the_problem():
    problem = PROBLEM.replace(beta=0.5, reference=np.zeros(9))
    verdict = judge(whole_return, problem, objective=lambda p: exact.KLRegularised(p.reference, p.beta))
    assert verdict.kind == "biased"
    assert isinstance(verdict.objective, exact.KLRegularised)


@pytest.mark.parametrize(("given", "message"), [
    ({"precision": "foo"}, "precision='foo' is no dtype"), ({"precision": int}, "is no dtype of floating-point numbers"),
    ({"behaviour": [[0.5, 0.5], [1.0]]}, "behaviour"),
])  # fmt: skip
def test_what_numpy_refuses_is_refused_by_name(given, message):
    problem = examples.referee(horizon=2), TabularSoftmax(3, 3), np.zeros(9)
    with pytest.raises((ValueError, TypeError), match=message):
        judge(lambda trajectories, theta: np.zeros(9), *problem, **given)
