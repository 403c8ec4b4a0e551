"""Where the variance comes from, against conditional expectations over all listed histories."""

import numpy as np
import pytest

from reinforce_np import (
    GAE,
    Constant,
    EntropyBonus,
    Estimator,
    KLPenalty,
    NStep,
    PerDecisionRatio,
    RewardToGo,
    TabularSoftmax,
    TokenRatio,
    TooLargeError,
    TotalReturn,
    TrajectoryRatio,
    VTrace,
    enumerate_trajectories,
    exact,
    examples,
    moments,
)
from reinforce_np.exact import decomposition, largest_contributions, variance_parts

EXACT = 1e-12
RNG = np.random.default_rng(3)
MDP, POLICY = examples.referee(horizon=3), TabularSoftmax(3, 3, temperature=0.7)
THETA = RNG.normal(size=9)
BEHAVIOUR = POLICY.probabilities(THETA + 0.5 * RNG.normal(size=9))
WRONG = RNG.normal(size=3)

ESTIMATORS = {
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
}


def listed(estimator, behaviour):
    """Return all trajectories, their probabilities, and the estimate of each."""
    trajectories, p = enumerate_trajectories(MDP, POLICY, THETA, behaviour=behaviour)
    alone = np.arange(len(p))
    return (
        trajectories,
        p,
        estimator.contract(estimator.batch(trajectories, MDP, POLICY, THETA, labels=alone), alone, len(p)),
    )


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
    trajectories, p, X = listed(estimator, behaviour)
    scale = parts.total
    first = variance_of_means(p, X, [str(s) for s in trajectories.states[:, 0]], [""] * len(p)).sum()
    assert abs(parts.start - first) <= EXACT * scale
    for t, (live, past, action, outcome) in enumerate(histories(trajectories)):
        s, a = trajectories.states[:, t], trajectories.actions[:, t]
        by_action, by_outcome = variance_of_means(p, X, action, past), variance_of_means(p, X, outcome, action)
        for state in range(3):
            here = live & (s == state)
            assert abs(parts.action[t, state] - by_action[here].sum()) <= EXACT * scale
            for chosen in range(3):
                assert abs(parts.transition[t, state, chosen] - by_outcome[here & (a == chosen)].sum()) <= EXACT * scale


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_parts_add_up_to_the_total_variance(name):
    estimator, behaviour = ESTIMATORS[name]
    parts = variance_parts(estimator, MDP, POLICY, THETA, behaviour=behaviour)
    total = moments(estimator, MDP, POLICY, THETA, behaviour=behaviour).total_variance
    assert abs(parts.total - total) <= EXACT * total
    shares = parts.shares
    assert abs(shares["start"] + shares["first action"] + shares["first transition"] + shares["future"] - 1) <= EXACT
    assert abs(shares["start"] + shares["all actions"] + shares["all transitions"] - 1) <= EXACT


def test_parts_that_must_be_zero():
    """One start and certain outcomes leave the actions alone; a baseline V leaves the first draws what they decide."""
    chain = examples.delayed_chain()
    policy = TabularSoftmax(chain.n_states, 2)
    parts = variance_parts(Estimator(RewardToGo()), chain, policy, np.linspace(-1, 1, policy.n_parameters))
    assert parts.start == 0
    assert not parts.transition.any()
    assert parts.action.sum() > 0


def test_what_has_no_split_is_refused():
    for estimator in (
        Estimator(TotalReturn()),
        Estimator(NStep(WRONG, 2)),
        Estimator(RewardToGo(), ratio=TrajectoryRatio()),
    ):
        with pytest.raises(ValueError, match="is not split here"):
            variance_parts(estimator, MDP, POLICY, THETA)
    with pytest.raises(ValueError, match="horizon=None is not split here"):
        variance_parts(Estimator(RewardToGo()), MDP.replace(horizon=None), POLICY, THETA)


def test_too_much_to_split_is_refused(monkeypatch):
    monkeypatch.setattr(decomposition, "LIMIT", 3 * 3 * 9 - 1)
    with pytest.raises(TooLargeError, match="above the limit"):
        variance_parts(Estimator(RewardToGo()), MDP, POLICY, THETA)


@pytest.mark.parametrize("name", ["reward-to-go", "GAE", "score without discount", "per token", "V-trace"])
def test_contributions_are_those_of_the_listed_trajectories(name):
    estimator, behaviour = ESTIMATORS[name]
    trajectories, p, X = listed(estimator, behaviour)
    found = largest_contributions(estimator, MDP, POLICY, THETA, n=len(p), behaviour=behaviour)
    assert abs(found.variance_share.sum() - 1) <= EXACT
    biased = name != "reward-to-go"
    assert abs(found.bias_share.sum() - biased) <= 1e-9
    few = largest_contributions(estimator, MDP, POLICY, THETA, n=3, behaviour=behaviour)
    assert len(few.trajectories) == 3
    assert few.variance_share.tolist() == found.variance_share[:3].tolist()
    order = np.argsort(-p * ((X - p @ X) ** 2).sum(axis=1), kind="stable")
    if not biased:
        assert few.probability.tolist() == p[order[:3]].tolist()
        assert few.trajectories.actions.tolist() == trajectories.actions[order[:3]].tolist()
