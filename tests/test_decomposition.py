"""Where variance and bias come from, against conditional expectations over all listed histories and batches."""

import json

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import (
    GAE,
    Constant,
    Discounted,
    EntropyBonus,
    EntropyRegularised,
    Estimator,
    FiniteMDP,
    GroupMean,
    KLPenalty,
    KLRegularised,
    LinearSoftmax,
    NStep,
    PerComponent,
    PerDecisionRatio,
    PerLength,
    Problem,
    RewardToGo,
    TabularSoftmax,
    TokenRatio,
    TooLargeError,
    TotalReturn,
    TrajectoryRatio,
    Undiscounted,
    VTrace,
    algorithms,
    assert_unbiased,
    enumerate_trajectories,
    exact,
    examples,
    judge,
    moments,
)
from reinforce_np.command_line import main
from reinforce_np.exact import contributions, decomposition, largest_contributions, largest_pairs, variance_parts

EXACT = 1e-12
RNG = np.random.default_rng(3)
MDP, POLICY = examples.referee(horizon=3), TabularSoftmax(3, 3, temperature=0.7)
THETA = RNG.normal(size=9)
BEHAVIOUR = POLICY.probabilities(THETA + 0.5 * RNG.normal(size=9))
WRONG = RNG.normal(size=3)
BANDIT = Problem(examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5]), group_size=2)

TRACES = {
    "reward-to-go": (Estimator(RewardToGo()), None),
    "baseline V": (Estimator(RewardToGo(exact.values(MDP, POLICY, THETA))), None),
    "GAE": (Estimator(GAE(WRONG, 0.6)), None),
    "actor-critic": (Estimator(NStep(WRONG, 1)), None),
    "score without discount": (Estimator(RewardToGo(WRONG), discounted_score=False), None),
    "per decision": (Estimator(RewardToGo(WRONG), ratio=PerDecisionRatio()), BEHAVIOUR),
    "per token": (Estimator(GAE(WRONG, 0.5), ratio=TokenRatio()), BEHAVIOUR),
    "V-trace": (Estimator(GAE(WRONG, 0.8), ratio=VTrace(1.1, 0.9)), BEHAVIOUR),
    "penalties": (
        Estimator(
            RewardToGo(), penalty=(KLPenalty(BEHAVIOUR, 0.3), EntropyBonus(0.2, "loss", False)), normaliser=Constant(2)
        ),
        None,
    ),
    "2 steps": (Estimator(NStep(WRONG, 2)), None),
    "3 steps, per token": (Estimator(NStep(WRONG, 3), ratio=TokenRatio(), discounted_score=False), BEHAVIOUR),
    "reward-to-go, whole ratio": (Estimator(RewardToGo(WRONG), ratio=TrajectoryRatio()), BEHAVIOUR),
    "2 steps, whole ratio": (Estimator(NStep(WRONG, 2), ratio=TrajectoryRatio()), BEHAVIOUR),
    "whole return": (Estimator(TotalReturn(0.7), normaliser=Constant(3)), None),
    "whole return, per token": (Estimator(TotalReturn(0.7), ratio=TokenRatio()), BEHAVIOUR),
    "whole return, whole ratio": (Estimator(TotalReturn(0.7), ratio=TrajectoryRatio()), BEHAVIOUR),
    "whole return, KL": (Estimator(TotalReturn(), penalty=KLPenalty(BEHAVIOUR, 0.3)), None),
}
LISTED = {
    "per length": (Estimator(TotalReturn(), normaliser=PerLength()), None),
    "per component": (Estimator(PerComponent(TotalReturn(), np.linspace(0, 1, 9))), None),
    "whole return, entropy in the loss": (Estimator(TotalReturn(), penalty=EntropyBonus(0.2, "loss", False)), None),
    "any function": (lambda t, theta: (t.rewards[0].sum() * t.lengths[0]) * theta + t.final_states[0], None),
}
ESTIMATORS = TRACES | LISTED


def listed(estimator, behaviour):
    """Return all trajectories, their probabilities, and the estimate of each."""
    trajectories, p = enumerate_trajectories(MDP, POLICY, THETA, behaviour=behaviour)
    if isinstance(estimator, Estimator):
        alone = np.arange(len(p))
        batch = estimator.batch(trajectories, MDP, POLICY, THETA, labels=alone)
        return trajectories, p, estimator.contract(batch, alone, len(p))
    return trajectories, p, np.array([estimator(trajectories.take([n]), THETA) for n in range(len(p))])


def variance_of_means(p, X, finer, coarser):
    """Return Σ p ‖E[X | finer] − E[X | coarser]‖², by the coarser history, from labels of histories."""

    def mean(labels):
        _, index = np.unique(labels, return_inverse=True)
        total, mass = np.zeros((index.max() + 1, X.shape[1])), np.bincount(index, weights=p)
        np.add.at(total, index, p[:, None] * X)
        return (total / mass[:, None])[index]

    return p * ((mean(finer) - mean(coarser)) ** 2).sum(axis=1)


def histories(trajectories):
    """Yield for every t the labels of the history up to s_t, up to a_t, and up to what came of it."""
    T = trajectories.n_steps
    past = [f"{s}" for s in trajectories.states[:, 0]]
    for t in range(T):
        live = t < trajectories.lengths
        action = [h + (f"a{a}" if on else "") for h, a, on in zip(past, trajectories.actions[:, t], live, strict=True)]
        after = np.where(
            t + 1 < trajectories.lengths, trajectories.states[:, min(t + 1, T - 1)], trajectories.final_states
        )
        ended = trajectories.terminated & (t + 1 == trajectories.lengths)
        outcome = [
            h + (f"r{r}s{s}{e}" if on else "")
            for h, r, s, e, on in zip(action, trajectories.rewards[:, t], after, ended, live, strict=True)
        ]
        yield live, past, action, outcome
        past = outcome


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_part_against_all_histories(name):
    estimator, behaviour = ESTIMATORS[name]
    parts = variance_parts(estimator, MDP, POLICY, THETA, behaviour=behaviour)
    assert parts.route == ("recursion" if name in TRACES else "enumeration")
    trajectories, p, X = listed(estimator, behaviour)
    scale = parts.total
    first = variance_of_means(p, X, [str(s) for s in trajectories.states[:, 0]], [""] * len(p)).sum()
    assert abs(parts.start - first) <= EXACT * scale
    for t, (live, past, action, outcome) in enumerate(histories(trajectories)):
        cell = trajectories.states[live, t], trajectories.actions[live, t]
        for part, finer, coarser in ((parts.action, action, past), (parts.transition, outcome, action)):
            expected = np.zeros(part[t].shape)
            np.add.at(expected, cell, variance_of_means(p, X, finer, coarser)[live])
            assert np.abs(part[t] - expected).max() <= EXACT * scale


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_parts_add_up_to_the_total_variance(name):
    estimator, behaviour = ESTIMATORS[name]
    parts = variance_parts(estimator, MDP, POLICY, THETA, behaviour=behaviour)
    total = moments(estimator, MDP, POLICY, THETA, behaviour=behaviour).total_variance
    assert abs(parts.total - total) <= EXACT * total
    shares = parts.shares
    assert abs(shares["start"] + shares["first action"] + shares["first transition"] + shares["future"] - 1) <= EXACT
    assert abs(shares["start"] + shares["all actions"] + shares["all transitions"] - 1) <= EXACT
    assert abs(parts.start + parts.pairs.sum() - parts.total) <= EXACT * total


def test_parts_of_a_model_too_large_to_list():
    walk = examples.gridworld_4x4().replace(horizon=20)
    policy, theta = TabularSoftmax(16, 4), np.linspace(-1, 1, 64)
    for estimator in (Estimator(NStep(np.ones(16), 5)), Estimator(TotalReturn(-10.0))):
        parts = variance_parts(estimator, walk, policy, theta)
        assert_exact(parts.total, moments(estimator, walk, policy, theta).total_variance)


def test_parts_that_must_be_zero():
    """One start and certain outcomes leave the actions alone; a baseline V leaves the first draws what they decide."""
    chain = examples.delayed_chain()
    policy = TabularSoftmax(chain.n_states, 2)
    parts = variance_parts(Estimator(RewardToGo()), chain, policy, np.linspace(-1, 1, policy.n_parameters))
    assert parts.start == 0
    assert not parts.transition.any()
    assert parts.action.sum() > 0


def test_what_has_no_split_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="the draws of a batch have no order"):
        variance_parts(Estimator(RewardToGo()), Problem(MDP, POLICY, THETA, group_size=2))
    with pytest.raises(TooLargeError, match="has a cycle"):
        variance_parts(Estimator(RewardToGo()), MDP.replace(horizon=None), POLICY, THETA)
    with pytest.raises(TooLargeError, match="enumeration refused"):
        variance_parts(LISTED["any function"][0], MDP, POLICY, THETA, limit=100)
    monkeypatch.setattr(decomposition, "LIMIT", 3 * 3 * 9 - 1)
    with pytest.raises(TooLargeError, match="above the limit"):
        variance_parts(Estimator(RewardToGo()), MDP, POLICY, THETA)


CARRIED = ["reward-to-go", "score without discount", "V-trace", "2 steps", "any function"]


@pytest.mark.parametrize("name", CARRIED)
def test_contributions_are_those_of_the_listed_trajectories(name):
    estimator, behaviour = ESTIMATORS[name]
    trajectories, p, X = listed(estimator, behaviour)
    found = largest_contributions(estimator, MDP, POLICY, THETA, n=len(p), behaviour=behaviour)
    assert abs(found.variance_share.sum() - 1) <= EXACT
    biased = name != "reward-to-go"
    assert abs(found.bias_share.sum() - biased) <= 1e-9
    few = largest_contributions(estimator, MDP, POLICY, THETA, n=3, behaviour=behaviour)
    assert len(few) == len(few.trajectories) == 3
    assert few.variance_share.tolist() == found.variance_share[:3].tolist()
    order = np.argsort(-p * ((X - p @ X) ** 2).sum(axis=1), kind="stable")
    if not biased:
        assert few.probability.tolist() == p[order[:3]].tolist()
        assert few.trajectories.actions.tolist() == trajectories.actions[order[:3]].tolist()


def test_a_baseline_is_no_mistake():
    """What carries the bias is the same with and without one; nor is a ratio, or a penalty of the objective."""
    plain, with_baseline = (
        largest_contributions(
            Estimator(RewardToGo(b), discounted_score=False), MDP, POLICY, THETA, n=10_000, by_bias=True
        )
        for b in (0.0, 3.0)
    )
    assert_exact(with_baseline.bias_share, plain.bias_share)
    assert np.abs(with_baseline.variance_share - plain.variance_share).max() > 1e-3
    penalty = KLPenalty(BEHAVIOUR, 0.3)
    right = Estimator(RewardToGo(0.5), penalty=penalty, ratio=TrajectoryRatio())
    objective = {"objective": KLRegularised(BEHAVIOUR, 0.3), "behaviour": BEHAVIOUR}
    assert judge(right, MDP, POLICY, THETA, **objective).kind == "unbiased"

    def wrong_in_the_end(trajectories, theta):
        rare = trajectories.terminated[0] and trajectories.lengths[0] == 3
        return right.gradient(trajectories, MDP, POLICY, theta) + np.where(rare, np.arange(9.0), 0.0)

    found = largest_contributions(wrong_in_the_end, MDP, POLICY, THETA, n=10_000, by_bias=True, **objective)
    guilty = (found.trajectories.lengths == 3) & found.trajectories.terminated
    assert guilty[:5].all()
    assert found.bias_share[guilty].sum() > 0.9
    assert np.abs(found.bias_share[~guilty]).max() < 0.01


@pytest.mark.parametrize(
    "objective",
    [Discounted(), Undiscounted(), KLRegularised(BEHAVIOUR, 0.3), EntropyRegularised(0.2), lambda p: Discounted()],
)
def test_shares_of_the_bias_sum_to_one_for_every_objective(objective):
    estimator = Estimator(GAE(WRONG, 0.6))
    found = largest_contributions(estimator, MDP, POLICY, THETA, n=10_000, objective=objective)
    assert_exact(found.bias_share.sum(), 1.0)
    pairs = largest_pairs(estimator, MDP, POLICY, THETA, n=9, objective=objective)
    assert_exact(pairs.bias_share.sum(), 1.0)
    parts = variance_parts(estimator, MDP, POLICY, THETA)
    assert_exact(pairs.variance_share.sum(), 1 - parts.shares["start"])
    assert_exact(pairs.variance_share, parts.pairs[pairs.states, pairs.actions] / parts.total)


def test_contributions_of_batches():
    estimator = Estimator(GroupMean())
    ours = largest_contributions(estimator, BANDIT, n=100, by_bias=True)
    assert ours.batch_size == 2 and len(ours) == 6
    assert_exact(ours.probability.sum(), 1.0)
    assert_exact(ours.bias_share.sum(), 1.0)
    assert np.all(np.diff(np.abs(ours.bias_share)) <= 0)
    assert np.abs(largest_contributions(estimator, BANDIT, factor=0.5).bias_share).max() == 0

    def theirs(trajectories, theta):
        return estimator.gradient(trajectories, BANDIT.mdp, BANDIT.policy, theta)

    found = largest_contributions(theirs, BANDIT, n=100, by_bias=True)
    assert_exact(found.bias_share, ours.bias_share)  # both orders of a batch together
    assert_exact(found.variance_share, ours.variance_share)

    def first_only(trajectories, theta):
        return theirs(trajectories, theta) + trajectories.actions[0, 0]

    apart = largest_contributions(first_only, BANDIT, n=100)
    assert len(apart) == 9  # the order matters
    assert_exact(apart.bias_share.sum(), 1.0)


RIGHT = {
    "whole return": (Estimator(TotalReturn(0.7)), Problem(MDP, POLICY, THETA)),
    "lambda-return of the true values": (
        Estimator(GAE(exact.values(MDP, POLICY, THETA), 0.7)),
        Problem(MDP, POLICY, THETA),
    ),
    "per decision": (
        Estimator(RewardToGo(WRONG[0]), ratio=PerDecisionRatio()),
        Problem(MDP, POLICY, THETA, behaviour=BEHAVIOUR),
    ),
    "whole ratio": (
        Estimator(TotalReturn(0.7), ratio=TrajectoryRatio()),
        Problem(MDP, POLICY, THETA, behaviour=BEHAVIOUR),
    ),
    "leave-one-out": (algorithms.rloo(), BANDIT),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_added_to_a_right_estimator_stands_alone(name):
    """What the right ones do differently by chance is no mistake: the shares point at what was added, and at nothing else."""
    right, problem = RIGHT[name]

    def with_mistake(trajectories, theta):
        rare = np.all(trajectories.actions == 2)
        return right.gradient(trajectories, problem.mdp, problem.policy, theta) + 0.1 * rare * np.arange(len(theta))

    found = largest_contributions(with_mistake, problem, n=10_000, by_bias=True)
    guilty = np.all(found.trajectories.actions.reshape(len(found), -1) == 2, axis=1)
    assert 0 < found.probability[guilty].sum() < 0.05
    assert_exact(found.bias_share.sum(), 1.0)
    assert np.abs(found.bias_share[~guilty]).max() <= contributions.NEAR
    if name == "leave-one-out":
        assert found.words(0) == "s0 a2 r5, end; s0 a2 r5, end"
        assert str(found).splitlines()[1].startswith("+100.0%")


def test_the_two_routes_agree_where_rewards_do_not_tell_outcomes_apart():
    blind = MDP.replace(reward=np.broadcast_to(MDP.reward.mean(axis=2, keepdims=True), MDP.reward.shape))
    estimator = Estimator(GAE(WRONG, 0.6))
    parts = variance_parts(estimator, blind, POLICY, THETA)
    listed = variance_parts(lambda t, theta: estimator.gradient(t, blind, POLICY, theta), blind, POLICY, THETA)
    assert (parts.route, listed.route) == ("recursion", "enumeration")
    for name in ("start", "action", "transition"):
        assert_exact(getattr(listed, name), getattr(parts, name), parts.total)


def test_pairs_of_a_policy_with_features():
    features = np.random.default_rng(0).normal(size=(3, 3, 4))
    policy, theta = LinearSoftmax(features), np.linspace(-1, 1, 4)
    found = largest_pairs(Estimator(RewardToGo(), discounted_score=False), MDP, policy, theta, n=9)
    assert_exact(found.bias_share.sum(), 1.0)
    assert np.all(largest_pairs(Estimator(RewardToGo()), MDP, policy, theta, n=9).bias_share == 0)


def parts_command(capsys, *argv):
    code = main(["variance", "parts", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_shows_what_the_library_says(capsys):
    code, out, _ = parts_command(capsys, "--json", "--estimator", "2-step", "--top", "2")
    document = json.loads(out)
    policy, theta = TabularSoftmax(3, 3), np.array(document["theta"])
    critic = exact.values(MDP, policy, np.zeros(9))
    estimator = Estimator(NStep(critic, 2))
    (row,) = (row for row in document["parts"] if row["name"] == "2-step")
    assert code == 0 and row["verdict"] == "biased"
    assert row["shares"] == variance_parts(estimator, MDP, policy, theta).shares
    pairs = largest_pairs(estimator, MDP, policy, theta, n=2)
    assert [(pair["state"], pair["action"]) for pair in document["pairs"]] == [
        *zip(pairs.states, pairs.actions, strict=True)
    ]
    top = largest_contributions(estimator, MDP, policy, theta, n=2)
    assert [t["steps"] for t in document["trajectories"]] == [top.words(0), top.words(1)]
    code, out, _ = parts_command(capsys, "--mdp", "gridworld_4x4", "--horizon", "12", "--top", "1")
    assert code == 0 and "not listed: enumeration refused" in out and "state 8, action" in out
    code, _, err = parts_command(capsys, "--estimator", "ppo")
    assert code == 2 and "--estimator ppo: pass one of total-return" in err
    code, _, err = parts_command(capsys, "--top", "0")
    assert code == 2 and "pass at least 1" in err


def deterministic(first, second, ends, gamma):
    """Two states, two actions; `first` and `second` are where the actions lead and what they pay, `ends` which of them end."""
    return FiniteMDP(
        np.ones((2, 2, 1)), np.array(first)[..., None], np.array(second, dtype=float)[..., None], np.array(ends)[..., None],
        initial=[1.0, 0.0], gamma=gamma, horizon=2,
    )  # fmt: skip


@pytest.mark.parametrize("scale", [1e-50, 1.0, 1e50])
def test_what_is_rounding_of_a_temporal_difference_is_no_noise(scale):
    """Where outcomes are certain δ − A is zero but for rounding, whose mean would be that of a piece of length one."""
    estimator, policy = Estimator(GAE(0.0, 0.0)), TabularSoftmax(2, 2)
    shared = deterministic([[0, 1], [1, 1]], [[-scale, -scale], [scale, scale]], [[False, False], [False, True]], 1.0)
    theta = np.array([0.6, 1.5, -1.5, 1.0])
    shares = largest_contributions(estimator, shared, policy, theta, n=100).bias_share
    assert len(shares) == 4 and abs(shares.sum() - 1.0) < 1e-6 and np.all(shares > 0.05)
    alone = deterministic([[1, 1], [1, 1]], -scale * np.ones((2, 2)), [[False, True], [False, False]], 0.9)
    with pytest.raises(AssertionError) as convicted:
        assert_unbiased(estimator, alone, policy, [-0.3, -0.4, 0.3, -0.9])
    assert "of bias" in str(convicted.value)


def test_a_factor_that_leaves_float64_is_refused():
    with pytest.raises(ValueError, match="float64"):
        largest_contributions(algorithms.reinforce(), MDP, POLICY, np.zeros(9), factor=1e-308)


def test_states_in_which_no_action_is_drawn_need_no_behaviour():
    """One step: where it leads nobody acts, and nothing is never seen."""
    mdp = deterministic([[1, 1], [1, 1]], [[1.0, 0.0], [0.0, 0.0]], [[False, False], [False, False]], 1.0)
    estimator, behaviour = Estimator(TotalReturn(), ratio=TrajectoryRatio()), np.array([[0.5, 0.5], [1.0, 0.0]])
    given = estimator, mdp.replace(horizon=1), TabularSoftmax(2, 2), np.zeros(4)
    assert judge(*given, behaviour=behaviour).kind == "unbiased"
    with pytest.raises(ValueError, match="never seen"):
        judge(estimator, mdp, *given[2:], behaviour=behaviour)


@pytest.mark.parametrize("shape", [(1,), (4,), (12,), (2, 9)])
@pytest.mark.parametrize("covariance", [False, True])
def test_a_baseline_per_component_fits_the_policy_by_any_route(shape, covariance):
    estimator = Estimator(PerComponent(TotalReturn(), np.zeros(shape)))
    for route in (None, "enumeration"):
        with pytest.raises(ValueError, match=r"it must be \(9,\) or \(3, 9\)"):
            moments(estimator, MDP, POLICY, np.zeros(9), covariance=covariance, route=route)
