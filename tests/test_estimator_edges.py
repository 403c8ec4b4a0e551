"""What estimators refuse, what they must survive, and that no answer is ever NaN."""

import itertools

import numpy as np
import pytest
from test_losses import PROBLEMS, changed

from reinforce_np import (
    GAE,
    ActionDependent,
    BatchStandardised,
    ClippedRatio,
    Constant,
    EntropyBonus,
    Estimator,
    FiniteMDP,
    GeometricMeanRatio,
    GroupMean,
    GroupStandardised,
    InSampleOptimal,
    KLPenalty,
    LeaveOneOut,
    MaskedRatio,
    NStep,
    OnPolicy,
    PerComponent,
    PerDecisionRatio,
    PerLength,
    PerToken,
    PerTrajectory,
    RewardToGo,
    SelfNormalisedRatio,
    TabularSoftmax,
    TokenRatio,
    TotalReturn,
    TrajectoryRatio,
    TruncatedRatio,
    VTrace,
    algorithms,
    judge,
    random_mdp,
    sample,
)
from reinforce_np.trajectories import Trajectories

MDP = FiniteMDP(
    np.ones((1, 2, 1)),
    np.zeros((1, 2, 1), int),
    np.array([[[1.0], [2.0]]]),
    np.zeros((1, 2, 1), bool),
    initial=[1.0],
    gamma=0.5,
    horizon=2,
)
POLICY, THETA = TabularSoftmax(1, 2), np.zeros(2)
UNIFORM = np.array([[0.5, 0.5]])
HALF = float(np.log(0.5))
PROBLEM = PROBLEMS["tabular, discounted"]


def trajectories(actions, *, log_mu=HALF, rewards=None, lengths=None, groups=None):
    """Episodes of the one-state problem, written out; every array may be given as a number."""
    actions = np.array(actions)
    N, T = actions.shape
    lengths = np.full(N, T) if lengths is None else np.array(lengths)
    live = np.arange(T) < lengths[:, None]
    rewards = actions + 1.0 if rewards is None else np.array(rewards, dtype=float)
    return Trajectories(
        states=np.zeros((N, T), int),
        actions=np.where(live, actions, 0),
        rewards=np.where(live, rewards, 0.0),
        lengths=lengths,
        terminated=np.zeros(N, bool),
        truncated=np.ones(N, bool),
        final_states=np.zeros(N, int),
        log_probabilities=np.where(live, np.broadcast_to(log_mu, (N, T)), 0.0),
        groups=np.zeros(N, int) if groups is None else np.array(groups),
    )


def weights(estimator, batch, theta=THETA, policy=POLICY, mdp=MDP):
    return estimator.weights(batch, mdp, policy, theta)


PAIR = trajectories([[0, 1], [1, 1]])
ADVANTAGES = [
    TotalReturn(),
    RewardToGo(),
    GAE(0.3, 0.5, True),
    NStep(0.3, 1, True),
    LeaveOneOut(),
    LeaveOneOut(per_step=True),
    GroupMean(),
    GroupStandardised(ddof=0, eps=0.0),
    GroupStandardised(ddof=1, eps=0.1, over_batch=True),
    BatchStandardised(RewardToGo(), ddof=1, eps=0.0),
    BatchStandardised(TotalReturn(), ddof=0, eps=0.0, per_token=False),
    InSampleOptimal(),
]
GROUPED = [a for a in ADVANTAGES if isinstance(a, LeaveOneOut | GroupMean | GroupStandardised)]
NORMALISERS = [PerTrajectory(), PerLength(), PerToken(), Constant(2.0)]


# Ratios out of range


@pytest.mark.parametrize(
    ("ratio", "index"),
    [
        (TokenRatio(), r"log_ratio\[0, 1\]=799\.307"),
        (TrajectoryRatio(), r"log_ratio\[0, 0\]=1598\.61"),
        (PerDecisionRatio(), r"log_ratio\[0, 1\]=799\.307"),
        (PerDecisionRatio(past=False), r"log_ratio\[0, 1\]=799\.307"),
        (VTrace(np.inf, 1.0), r"log_ratio\[0, 1\]=799\.307"),
        (VTrace(1.0, np.inf), r"log_ratio\[0, 1\]=799\.307"),
        (ClippedRatio(1.0, 1e308), None),
        (GeometricMeanRatio(), r"log_ratio\[0, 0\]=799\.307"),
        (MaskedRatio(0.0, 1e308), None),
        (TruncatedRatio(np.inf), r"log_ratio\[0, 1\]=799\.307"),
        (TruncatedRatio(np.inf, of=TrajectoryRatio()), r"log_ratio\[0, 0\]=1598\.61"),
    ],
    ids=repr,
)
def test_a_ratio_that_overflows_is_an_error_that_says_where_and_what_to_do(ratio, index):
    log_mu = (
        np.array([[-800.0, -800.0]]) if index is None or "[0, 0\\" in index or "0, 0" in index else [[HALF, -800.0]]
    )
    batch = trajectories([[0, 1]], log_mu=log_mu)
    if index is None:  # beyond the limit: nothing is left of it, and nothing overflows
        assert np.array_equal(weights(Estimator(RewardToGo(), ratio=ratio), batch), [[0.0, 0.0]])
        return
    with pytest.raises(ValueError, match=f"importance ratio overflows: {index} nats.*use TruncatedRatio"):
        weights(Estimator(RewardToGo(), ratio=ratio), batch)


def test_a_ratio_that_nothing_bounds_overflows_where_the_credit_is_negative():
    batch = trajectories([[0, 1]], log_mu=-800.0, rewards=[[0.0, -1.0]])
    with pytest.raises(ValueError, match=r"log_ratio\[0, 0\]=799\.307 nats"):
        weights(Estimator(RewardToGo(), ratio=ClippedRatio()), batch)
    assert np.all(weights(Estimator(RewardToGo(), ratio=ClippedRatio(dual=3.0)), batch) == 0)


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [
        (TruncatedRatio(3.0), 3.0),
        (TruncatedRatio(3.0, of=TrajectoryRatio()), 3.0),
        (SelfNormalisedRatio(), 1.0),
        (MaskedRatio(0.1, 10.0), 0.0),
        (ClippedRatio(), 0.0),
        (GeometricMeanRatio(0.2, 0.2), 0.0),
        (OnPolicy(), 1.0),
    ],
    ids=repr,
)
def test_what_bounds_the_ratio_does_not_overflow(ratio, factor):
    batch = trajectories([[0, 1], [1, 1]], log_mu=-5000.0)
    plain = weights(Estimator(TotalReturn()), batch)
    assert np.allclose(weights(Estimator(TotalReturn(), ratio=ratio), batch), factor * plain, rtol=1e-12, atol=0)
    v_trace = weights(Estimator(RewardToGo(), ratio=VTrace(2.0, 1.0)), batch)
    assert np.allclose(v_trace[0], np.array([2 * (1 + 0.5 * 2 * 2), 0.5 * 2 * 2]) / 2, rtol=1e-12)


def test_the_largest_ratio_that_is_allowed():
    for nats, allowed in ((699.0, True), (701.0, False)):
        batch = trajectories([[0]], log_mu=HALF - nats)
        estimator = Estimator(RewardToGo(), ratio=TokenRatio())
        if allowed:
            assert np.isclose(weights(estimator, batch)[0, 0], np.exp(nats), rtol=1e-10)
        else:
            with pytest.raises(ValueError, match="overflows"):
                weights(estimator, batch)


def test_self_normalised_ratios_that_differ_by_more_than_float64_holds():
    batch = trajectories([[0, 1], [1, 1], [1, 0]], log_mu=[[-900.0, -900.0], [-900.0, -900.0], [-1.0, -1.0]])
    w = weights(Estimator(TotalReturn(), ratio=SelfNormalisedRatio()), batch)
    assert np.allclose(w[:, 0], [2.0 / 2, 3.0 / 2, 0.0], rtol=1e-12)


@pytest.mark.parametrize("ratio", [PerDecisionRatio(), PerDecisionRatio(past=False), VTrace(np.inf, np.inf)], ids=repr)
def test_a_product_of_ratios_that_overflows_is_an_error_too(ratio):
    """Each ratio is exp(499); also where the products of opposite signs would be inf - inf."""
    name = type(ratio).__name__
    for rewards in ([[1.0, 2.0]], [[1.0, -2.0]]):
        batch = trajectories([[0, 1], [0, 1]], log_mu=[[HALF, HALF], [-500.0, -500.0]], rewards=[[1.0, 2.0], *rewards])
        message = rf"the product of importance ratios overflows: ratio={name}.*weights\[1, 0\]=-?inf.*use finite limits"
        with pytest.raises(ValueError, match=message):
            weights(Estimator(RewardToGo(), ratio=ratio), batch)
        assert np.all(np.isfinite(weights(Estimator(RewardToGo(), ratio=ratio), batch.take(slice(1)))))
        assert np.all(np.isfinite(weights(Estimator(RewardToGo(), ratio=VTrace(1e10, np.inf)), batch)))
    mixed = trajectories([[0, 1, 0]], log_mu=[[-500.0, -500.0, -500.0]], rewards=[[1.0, 0.0, -1.0]])
    with pytest.raises(ValueError, match="the product of importance ratios overflows"):
        weights(Estimator(GAE(1.0, 1.0), ratio=ratio), mixed)


def test_a_product_with_the_past_that_overflows_is_an_error_too():
    """No reward at the second step, only a baseline: nothing overflows but ρ_0 times the weight of that step."""
    batch = trajectories([[0, 1]], log_mu=-500.0, rewards=[[1.0, 0.0]])
    with pytest.raises(ValueError, match=r"the product of importance ratios overflows.*weights\[0, 1\]=-inf"):
        weights(Estimator(RewardToGo(1.0), ratio=PerDecisionRatio()), batch)


# Supports that differ


NEVER = np.array([0.0, -np.inf])  # the policy cannot take action 1
AFTER = trajectories([[0, 1], [0, 0], [1, 0]])


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (TrajectoryRatio(), [[0, 0], [6, 4], [0, 0]]),
        (TokenRatio(), [[4, 0], [3, 2], [0, 2]]),
        (PerDecisionRatio(past=False), [[2, 0], [4, 2], [0, 2]]),
        (VTrace(), [[1, 0], [1.5, 1], [0, 1]]),
        (ClippedRatio(), [[0, 0], [0, 0], [0, 0]]),
        (ClippedRatio(1.0, 2.0), [[4, 0], [3, 2], [0, 2]]),
        (GeometricMeanRatio(), [[0, 0], [1.5, 1], [0, 0]]),
        (GeometricMeanRatio(1.0, 2.0), [[0, 0], [1.5, 1], [0, 0]]),
        (TruncatedRatio(1.5), [[3, 0], [2.25, 1.5], [0, 1.5]]),
        (MaskedRatio(0.0, 3.0), [[4, 0], [3, 2], [0, 2]]),
        (MaskedRatio(0.5, 1.9), [[0, 0], [0, 0], [0, 0]]),
        (SelfNormalisedRatio(), [[0, 0], [4.5, 3], [0, 0]]),
    ],
    ids=repr,
)
def test_what_the_policy_never_does_has_ratio_zero(ratio, expected):
    w = weights(Estimator(RewardToGo(), ratio=ratio), AFTER, theta=NEVER)
    discount = np.array([1.0, 0.5])
    assert np.allclose(w, discount * np.array(expected) / 3, rtol=1e-12, atol=0)


def test_what_the_policy_never_does_per_decision():
    w = weights(Estimator(RewardToGo(), ratio=PerDecisionRatio()), AFTER, theta=NEVER)
    assert np.allclose(w, np.array([1.0, 0.5]) * np.array([[2, 0], [4, 4], [0, 0]]) / 3, rtol=1e-12, atol=0)


def test_nothing_of_the_batch_is_possible():
    batch = trajectories([[1, 1], [1, 0]])
    with pytest.raises(ValueError, match="ratios of all trajectories in the batch of trajectory 0 are zero"):
        weights(Estimator(RewardToGo(), ratio=SelfNormalisedRatio()), batch, theta=NEVER)
    both = trajectories([[0, 0], [1, 0]])
    estimator = Estimator(RewardToGo(), ratio=SelfNormalisedRatio())
    labelled = estimator.batch(both, MDP, POLICY, NEVER, labels=np.array([0, 1]))
    with pytest.raises(ValueError, match="in the batch of trajectory 1 are zero"):
        estimator.contract(labelled, np.array([0, 1]), 2)
    assert np.all(weights(Estimator(RewardToGo(), ratio=TokenRatio()), batch, theta=NEVER)[:, 0] == 0)


def test_a_behaviour_that_never_does_what_the_policy_does_is_refused_by_the_verdict():
    with pytest.raises(ValueError, match=r"behaviour\[0, 1\]=0 where the policy has probability 0\.5"):
        judge(Estimator(RewardToGo(), ratio=TrajectoryRatio()), MDP, POLICY, THETA, behaviour=np.array([[1.0, 0.0]]))


@pytest.mark.parametrize("bad", [-np.inf, np.inf, np.nan, 0.1, 1e-8])
@pytest.mark.parametrize(
    "ratio", [TokenRatio(), TrajectoryRatio(), SelfNormalisedRatio(), VTrace(), ClippedRatio()], ids=repr
)
def test_recorded_log_probabilities_that_are_none(bad, ratio):
    batch = trajectories([[0, 1], [1, 1]], log_mu=[[HALF, HALF], [bad, HALF]])
    with pytest.raises(ValueError, match=r"log_probabilities\[1, 0\]=.* record log μ\(a\|s\) <= 0"):
        weights(Estimator(RewardToGo(), ratio=ratio), batch)


def test_a_log_probability_of_zero_is_one_up_to_rounding():
    batch = trajectories([[0, 1]], log_mu=[[0.0, 1e-10]])
    w = weights(Estimator(RewardToGo(), ratio=TokenRatio()), batch)
    assert np.allclose(w, [[0.5 * 2, 0.5 * 0.5 * 2]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rewards_that_are_no_numbers_are_refused_where_they_count(bad):
    with pytest.raises(ValueError, match=rf"rewards\[1, 0\]={bad} is not a finite number; replace it"):
        trajectories([[0, 1], [1, 1]], rewards=[[1.0, 2.0], [bad, 2.0]])
    with pytest.raises(ValueError, match=rf"rewards\[0, 1\]={bad}"):
        changed(PAIR, rewards=np.array([[1.0, bad], [0.0, 0.0]]))
    short = trajectories([[0, 1], [1, 1]], lengths=[1, 2])
    padded = changed(short, rewards=np.where(short.mask, short.rewards, bad))
    for advantage in ADVANTAGES:
        assert np.array_equal(weights(Estimator(advantage), padded), weights(Estimator(advantage), short))


def test_what_is_not_used_is_not_asked_for():
    """On-policy estimators run without recorded log-probabilities."""
    batch = changed(PAIR, log_probabilities=np.full((2, 2), np.nan))
    for advantage in ADVANTAGES:
        assert np.array_equal(weights(Estimator(advantage), batch), weights(Estimator(advantage), PAIR))


def test_a_reference_that_gives_no_probability_to_what_the_policy_does():
    for kind, place in itertools.product(("k1", "k2", "k3", "full"), ("reward", "loss")):
        estimator = Estimator(RewardToGo(), penalty=KLPenalty([[1.0, 0.0]], 0.1, kind=kind, place=place))
        with pytest.raises(ValueError, match=r"reference\[0, 1\]=0 where the policy can act: the KL is infinite"):
            estimator.gradient(PAIR, MDP, POLICY, THETA)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "full"])
@pytest.mark.parametrize("place", ["reward", "loss"])
def test_penalties_at_what_the_policy_never_does(kind, place):
    """π log π is zero where π is; no NaN comes from there, in either direction of support."""
    estimator = Estimator(RewardToGo(), penalty=KLPenalty(UNIFORM, 0.1, kind=kind, place=place))
    exact = Estimator(RewardToGo(), penalty=KLPenalty([[1.0, 0.0]], 0.1, kind=kind, place=place))
    for e in (estimator, exact):
        assert np.all(np.isfinite(weights(e, AFTER, theta=NEVER)))
        assert np.all(e.gradient(AFTER, MDP, POLICY, NEVER) == 0)  # one action left: nothing to learn


# Episodes and batches at the edge


@pytest.mark.parametrize("advantage", ADVANTAGES, ids=repr)
@pytest.mark.parametrize("normaliser", NORMALISERS, ids=repr)
def test_a_batch_of_episodes_of_length_zero_says_nothing(advantage, normaliser):
    estimator = Estimator(advantage, normaliser=normaliser, penalty=EntropyBonus(0.3, place="loss", sampled=False))
    batch = trajectories([[0, 0], [0, 0]], lengths=[0, 0])
    assert np.array_equal(weights(estimator, batch), np.zeros((2, 2)))
    assert np.array_equal(estimator.gradient(batch, MDP, POLICY, THETA), np.zeros(2))
    estimator = Estimator(advantage, normaliser=normaliser, penalty=EntropyBonus(0.3))
    no_steps = trajectories(np.zeros((2, 0), int))
    assert weights(estimator, no_steps).shape == (2, 0)
    assert np.array_equal(estimator.gradient(no_steps, MDP, POLICY, THETA), np.zeros(2))
    assert np.array_equal(estimator.per_trajectory(no_steps, MDP, POLICY, THETA), np.zeros((2, 2)))


@pytest.mark.parametrize(
    "penalty", [EntropyBonus(0.3, "loss", False), KLPenalty(UNIFORM, 0.3, "full", "loss")], ids=repr
)
def test_closed_forms_of_a_batch_without_steps(penalty):
    estimator = Estimator(RewardToGo(), penalty=penalty)
    assert np.array_equal(estimator.gradient(trajectories(np.zeros((2, 0), int)), MDP, POLICY, THETA), np.zeros(2))


@pytest.mark.parametrize(
    "ratio", [TokenRatio(), TrajectoryRatio(), SelfNormalisedRatio(), GeometricMeanRatio(0.1, 0.1)], ids=repr
)
def test_ratios_of_episodes_of_length_zero(ratio):
    for batch in (trajectories([[0, 0]], lengths=[0]), trajectories(np.zeros((2, 0), int))):
        assert np.all(weights(Estimator(TotalReturn(), ratio=ratio), batch) == 0)
    for advantage in (GAE(0.4, 0.5, True), RewardToGo()):
        for trace in (PerDecisionRatio(), VTrace()):
            assert weights(Estimator(advantage, ratio=trace), trajectories(np.zeros((2, 0), int))).shape == (2, 0)


def test_an_episode_of_length_zero_counts_as_a_trajectory():
    batch = trajectories([[0, 1], [0, 0]], lengths=[2, 0])
    assert np.array_equal(weights(Estimator(TotalReturn()), batch), [[1.0, 1.0], [0.0, 0.0]])  # 2/N
    assert np.array_equal(weights(Estimator(GroupMean()), batch), [[0.5, 0.5], [0.0, 0.0]])  # (2 − 1)/N
    assert np.array_equal(weights(Estimator(TotalReturn(), normaliser=PerLength()), batch), [[0.5, 0.5], [0.0, 0.0]])
    assert np.array_equal(weights(Estimator(TotalReturn(), normaliser=PerToken()), batch), [[1.0, 1.0], [0.0, 0.0]])


def test_an_empty_batch_is_refused():
    empty = trajectories(np.zeros((0, 2), int))
    for method in ("weights", "gradient", "per_trajectory"):
        with pytest.raises(ValueError, match=r"trajectories are empty \(n=0\)"):
            getattr(Estimator(RewardToGo()), method)(empty, MDP, POLICY, THETA)


@pytest.mark.parametrize("advantage", GROUPED, ids=repr)
def test_a_group_of_one_is_refused(advantage):
    batch = trajectories([[0, 1], [1, 1], [0, 0]], groups=[5, 9, 5])
    name = type(advantage).__name__
    with pytest.raises(ValueError, match=rf"groups\[1\]=9 has one member, and {name} compares"):
        weights(Estimator(advantage), batch)
    two = trajectories([[0, 1], [1, 1]], groups=[5, 5])
    apart = Estimator(advantage).batch(two, MDP, POLICY, THETA, labels=np.array([0, 1]))
    with pytest.raises(ValueError, match=r"groups\[0\]=5 has one member"):  # its namesake is in another batch
        Estimator(advantage).contract(apart, np.array([0, 1]), 2)


@pytest.mark.parametrize("reward", [0.1, 0.3, 1 / 3, 1e-17, 1e9 + 0.1, 0.0])
@pytest.mark.parametrize("size", [2, 3, 7, 10])
def test_equal_rewards_have_exactly_no_advantage(reward, size):
    """Also where their mean is not that number in float64, and whatever the deviation is divided by."""
    batch = trajectories(np.tile([0, 1], (size, 1)), rewards=np.tile([reward, 0.0], (size, 1)))
    exactly = [GroupMean(), BatchStandardised(TotalReturn(0.7), ddof=1, eps=0.0)]
    exactly += [
        GroupStandardised(ddof=d, eps=e, over_batch=o) for d in (0, 1) for e in (0.0, 1e-8) for o in (True, False)
    ]
    exactly += [BatchStandardised(TotalReturn(), ddof=d, eps=0.0, per_token=t) for d in (0, 1) for t in (True, False)]
    for advantage in exactly:
        assert np.all(weights(Estimator(advantage), batch) == 0), advantage
    rounding = 4 * np.finfo(float).eps * abs(reward) * size
    assert np.abs(weights(Estimator(LeaveOneOut()), batch)).max() <= rounding


def test_one_group_of_equal_rewards_among_others():
    rewards = [[0.1, 0.0]] * 3 + [[0.0, 0.0], [1.0, 0.0]]
    batch = trajectories(np.tile([0, 1], (5, 1)), rewards=rewards, groups=[4, 4, 4, 1, 1])
    for over_batch, expected in ((False, 1.0), (True, np.sqrt(5 / 2))):  # std 1/2, and √(2·¼/5) over the batch
        w = 5 * weights(Estimator(GroupStandardised(ddof=0, eps=0.0, over_batch=over_batch)), batch)
        assert np.all(w[:3] == 0)
        assert np.allclose(w[3:], [[-expected] * 2, [expected] * 2], rtol=1e-12)


def test_the_deviation_in_numbers():
    batch = trajectories(np.tile([0, 1], (3, 1)), rewards=[[0.0, 0.0], [3.0, 0.0], [6.0, 0.0]])
    for ddof, eps, std in ((0, 0.0, np.sqrt(6)), (1, 0.0, 3.0), (1, 0.5, 3.5), (0, 2.0, np.sqrt(6) + 2)):
        w = 3 * weights(Estimator(GroupStandardised(ddof=ddof, eps=eps)), batch)
        assert np.allclose(w[:, 0], [-3 / std, 0, 3 / std], rtol=1e-12)


def test_one_live_token_has_nothing_to_deviate_from():
    batch = trajectories([[0, 1]], lengths=[1])
    for ddof in (0, 1):
        assert np.all(weights(Estimator(BatchStandardised(RewardToGo(), ddof=ddof, eps=0.0)), batch) == 0)


# Tables that do not fit


@pytest.mark.parametrize("make", [lambda b: RewardToGo(baseline=b), lambda b: GAE(b, 0.5), lambda b: NStep(b, 2)])
def test_tables_that_do_not_fit(make):
    p = PROBLEM
    args = (p.batch, p.mdp, p.policy, p.theta)
    name = "baseline" if isinstance(make(0.0), RewardToGo) else "critic"
    T = p.batch.n_steps
    with pytest.raises(
        ValueError, match=rf"{name} has {T - 1} rows, but trajectories have {T} steps; pass one row per step"
    ):
        Estimator(make(np.zeros((T - 1, 3)))).gradient(*args)
    for narrow in (np.zeros(2), np.zeros((T, 2))):
        with pytest.raises(ValueError, match=rf"{name} covers 2 states, but state 2 was visited"):
            Estimator(make(narrow)).gradient(*args)
    with pytest.raises(ValueError, match=rf"{name} has shape \(2, 2, 2\)"):
        make(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match=rf"{name}\[1\]=nan is not a finite number"):
        make([0.0, np.nan])
    with pytest.raises(TypeError, match=name):
        make("V")
    with pytest.raises(TypeError, match=name):
        make([1j])
    for wide in (np.zeros(5), np.zeros((T + 4, 5))):
        assert np.all(np.isfinite(Estimator(make(wide)).gradient(*args)))


def test_a_critic_of_the_final_state_that_does_not_fit():
    """The last state of an episode may be one that no step starts from."""
    batch = changed(PAIR, final_states=np.array([0, 1]))
    for advantage in (GAE(np.zeros(1), 0.5, True), NStep(np.zeros(1), 1, True)):
        with pytest.raises((ValueError, IndexError)):
            weights(Estimator(advantage), batch)


def test_tables_are_copies_and_read_only():
    table = np.zeros(3)
    for record, name in (
        (RewardToGo(baseline=table), "baseline"),
        (GAE(table, 0.5), "critic"),
        (NStep(table, 1), "critic"),
    ):
        own = getattr(record, name)
        assert own is not table
        assert not own.flags.writeable
        assert own.dtype == float
        assert table.flags.writeable


# Slots and constructors


@pytest.mark.parametrize("wrong", [RewardToGo, TokenRatio(), None, "reinforce", 0.5, algorithms.reinforce()])
def test_a_wrong_advantage(wrong):
    with pytest.raises(TypeError, match=r"advantage=.* does not fit into this slot; pass a record"):
        Estimator(wrong)


@pytest.mark.parametrize(
    ("slot", "wrong"),
    [
        ("ratio", TokenRatio),
        ("ratio", None),
        ("ratio", RewardToGo()),
        ("ratio", 1.0),
        ("penalty", EntropyBonus),
        ("penalty", [EntropyBonus(0.1)]),
        ("penalty", (EntropyBonus(0.1), PerToken())),
        ("penalty", (EntropyBonus(0.1), None)),
        ("penalty", 0.1),
        ("normaliser", PerToken),
        ("normaliser", None),
        ("normaliser", 4),
    ],
)
def test_a_wrong_slot(slot, wrong):
    with pytest.raises(TypeError, match=rf"{slot}=.* does not fit into this slot"):
        Estimator(RewardToGo(), **{slot: wrong})


REFUSED = [
    (lambda: TotalReturn(baseline=np.nan), ValueError, "baseline=nan"),
    (lambda: TotalReturn(baseline=[1.0]), TypeError, r"baseline=\[1\.0\]"),
    (lambda: TotalReturn(baseline=True), TypeError, "baseline=True"),
    (lambda: GAE(0.0, lam=-0.1), ValueError, r"lam=-0\.1.*\[0, 1\]"),
    (lambda: GAE(0.0, lam=1.1), ValueError, r"lam=1\.1.*\[0, 1\]"),
    (lambda: GAE(0.0, lam="1"), TypeError, "lam='1'"),
    (lambda: GAE(0.0, 0.5, bootstrap_at_truncation="no"), TypeError, "bootstrap_at_truncation='no'"),
    (lambda: NStep(0.0, n=0), ValueError, "n=0 is out of range"),
    (lambda: NStep(0.0, n=1.0), TypeError, r"n=1\.0 is not a whole number"),
    (lambda: NStep(0.0, n=1, bootstrap_at_truncation=1), TypeError, "bootstrap_at_truncation=1"),
    (lambda: LeaveOneOut(per_step="no"), TypeError, "per_step='no'"),
    (lambda: GroupStandardised(ddof=2, eps=0.0), ValueError, "ddof=2 is out of range; pass 0.*or 1"),
    (lambda: GroupStandardised(ddof=-1, eps=0.0), ValueError, "ddof=-1"),
    (lambda: GroupStandardised(ddof=True, eps=0.0), TypeError, "ddof=True"),
    (lambda: GroupStandardised(ddof=0.0, eps=0.0), TypeError, r"ddof=0\.0"),
    (lambda: GroupStandardised(ddof=0, eps=-1e-9), ValueError, "eps=-1e-09"),
    (lambda: GroupStandardised(ddof=0, eps=np.inf), ValueError, "eps=inf"),
    (lambda: GroupStandardised(ddof=0, eps=0.0, over_batch="group"), TypeError, "over_batch='group'"),
    (lambda: BatchStandardised(TotalReturn(), ddof=2, eps=0.0), ValueError, "ddof=2"),
    (lambda: BatchStandardised(TotalReturn(), ddof=0, eps=-1.0), ValueError, r"eps=-1\.0"),
    (lambda: BatchStandardised(GroupMean(), ddof=0, eps=0.0), TypeError, r"of=GroupMean\(\) cannot be standardised"),
    (lambda: BatchStandardised(TotalReturn, ddof=0, eps=0.0), TypeError, "of=<class.*cannot be standardised"),
    (lambda: BatchStandardised(RewardToGo(), ddof=0, eps=0.0, per_token=False), ValueError, "per_token=False needs one number"),
    (lambda: BatchStandardised(RewardToGo(), ddof=0, eps=0.0, per_token=0), TypeError, "per_token=0"),
    (lambda: PerComponent(TotalReturn(), 0.0), ValueError, r"baseline has shape \(\); pass \(D,\) or \(S, D\)"),
    (lambda: PerComponent(TotalReturn(), np.zeros((1, 1, 1))), ValueError, r"baseline has shape \(1, 1, 1\)"),
    (lambda: PerComponent(TotalReturn(), [np.inf]), ValueError, r"baseline\[0\]=inf"),
    (lambda: ActionDependent(np.zeros(3)), ValueError, "baseline has 1 axes"),
    (lambda: ActionDependent([[np.nan]]), ValueError, r"baseline\[0, 0\]=nan"),
    (lambda: PerDecisionRatio(past="yes"), TypeError, "past='yes'"),
    (lambda: VTrace(rho_limit=0.0), ValueError, r"rho_limit=0\.0 is out of range; it must be a number > 0"),
    (lambda: VTrace(c_limit=-1.0), ValueError, r"c_limit=-1\.0"),
    (lambda: VTrace(c_limit=np.nan), ValueError, "c_limit=nan"),
    (lambda: VTrace(rho_limit="1"), TypeError, "rho_limit='1'"),
    (lambda: ClippedRatio(lower=-0.1), ValueError, r"lower=-0\.1.*\[0, 1\]"),
    (lambda: ClippedRatio(lower=1.1), ValueError, r"lower=1\.1.*\[0, 1\]"),
    (lambda: ClippedRatio(upper=-0.1), ValueError, r"upper=-0\.1"),
    (lambda: ClippedRatio(upper=np.inf), ValueError, "upper=inf"),
    (lambda: ClippedRatio(dual=1.0), ValueError, r"dual=1\.0 is out of range; it must be a number > 1"),
    (lambda: ClippedRatio(dual=True), TypeError, "dual=True"),
    (lambda: GeometricMeanRatio(lower=0.1), ValueError, r"lower=0\.1 and upper=None: give both limits or neither"),
    (lambda: GeometricMeanRatio(upper=0.1), ValueError, r"lower=None and upper=0\.1"),
    (lambda: GeometricMeanRatio(2.0, 0.1), ValueError, r"lower=2\.0"),
    (lambda: GeometricMeanRatio(0.1, -0.1), ValueError, r"upper=-0\.1"),
    (lambda: TruncatedRatio(0.0), ValueError, r"limit=0\.0"),
    (lambda: TruncatedRatio(-np.inf), ValueError, "limit=-inf"),
    (lambda: TruncatedRatio(1.0, of=TokenRatio), TypeError, "of=<class.*is not a plain ratio; pass TokenRatio"),
    (lambda: TruncatedRatio(1.0, of=ClippedRatio()), TypeError, r"of=ClippedRatio"),
    (lambda: TruncatedRatio(1.0, of=GeometricMeanRatio()), TypeError, r"of=GeometricMeanRatio"),
    (lambda: MaskedRatio(1.0, 1.0), ValueError, r"low=1\.0 and high=1\.0: the lower limit must be below"),
    (lambda: MaskedRatio(2.0, 1.0), ValueError, r"low=2\.0 and high=1\.0"),
    (lambda: MaskedRatio(-0.1, 1.0), ValueError, r"low=-0\.1"),
    (lambda: MaskedRatio(0.1, np.inf), ValueError, "high=inf"),
    (lambda: MaskedRatio(0.1, 1.0, of=None), TypeError, "of=None"),
    (lambda: Constant(0.0), ValueError, r"c=0\.0 is out of range; it must be a number in"),
    (lambda: Constant(-1), ValueError, "c=-1"),
    (lambda: Constant("8"), TypeError, "c='8'"),
    (lambda: KLPenalty(UNIFORM, -0.1), ValueError, r"beta=-0\.1"),
    (lambda: KLPenalty(UNIFORM, np.inf), ValueError, "beta=inf"),
    (lambda: KLPenalty(UNIFORM, 0.1, kind="k4"), ValueError, "kind='k4' is unknown; pass one of 'k1', 'k2', 'k3', 'full'"),
    (lambda: KLPenalty(UNIFORM, 0.1, place="los"), ValueError, "place='los' is unknown; pass one of 'reward', 'loss'"),
    (lambda: KLPenalty([[np.nan, 1.0]], 0.1), ValueError, r"reference\[0, 0\]=nan"),
    (lambda: KLPenalty(UNIFORM, 0.1, corrected=True), ValueError, "corrected=True is for sampled estimates.*place='reward'"),
    (lambda: KLPenalty(UNIFORM, 0.1, "full", "loss", corrected=True), ValueError, "corrected=True.*kind='full'"),
    (lambda: KLPenalty(UNIFORM, 0.1, "k1", "loss", corrected="no"), TypeError, "corrected='no'"),
    (lambda: EntropyBonus(-0.1), ValueError, r"beta=-0\.1"),
    (lambda: EntropyBonus(0.1, place="score"), ValueError, "place='score' is unknown"),
    (lambda: EntropyBonus(0.1, sampled="no"), TypeError, "sampled='no'"),
    (lambda: Estimator(TotalReturn(), discounted_score=False), ValueError, "discounted_score=False has no meaning with advantage=TotalReturn"),
    (lambda: Estimator(RewardToGo(), discounted_score="no"), TypeError, "discounted_score='no'"),
    (lambda: Estimator(PerComponent(TotalReturn(), [0.0]), ratio=TokenRatio()), ValueError, r"ratio=TokenRatio\(\) with a baseline per component"),
    (lambda: algorithms.rloo(beta=0.1), ValueError, r"beta=0\.1 needs a reference policy; pass reference="),
    (lambda: algorithms.grpo(beta=0.1), ValueError, r"beta=0\.1 needs a reference"),
    (lambda: algorithms.grpo(ddof=3), ValueError, "ddof=3"),
    (lambda: algorithms.dr_grpo(c=0), ValueError, "c=0"),
    (lambda: algorithms.dapo(lower=2.0), ValueError, r"lower=2\.0"),
    (lambda: algorithms.ppo(0.0, epsilon=-0.2), ValueError, r"lower=-0\.2"),
    (lambda: algorithms.reinforce(reward_to_go="no"), TypeError, "reward_to_go='no'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_constructors_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "advantage",
    [TotalReturn(), NStep(0.0, 2), *GROUPED, BatchStandardised(RewardToGo(), ddof=0, eps=0.0), InSampleOptimal()],
    ids=repr,
)
@pytest.mark.parametrize("ratio", [PerDecisionRatio(), VTrace()], ids=repr)
def test_corrections_of_single_rewards_need_rewards(advantage, ratio):
    message = rf"ratio={type(ratio).__name__}.* corrects reward by reward, which advantage={type(advantage).__name__}.*use RewardToGo or GAE"
    with pytest.raises(TypeError, match=message):
        weights(Estimator(advantage, ratio=ratio), PAIR)


def test_what_is_allowed_at_the_limits():
    for make in (
        lambda: GAE(0.0, lam=0),
        lambda: GAE(0.0, lam=1),
        lambda: ClippedRatio(0, 0),
        lambda: ClippedRatio(1, 0, dual=1.0001),
        lambda: MaskedRatio(0, 1e-300),
        lambda: TruncatedRatio(np.inf),
        lambda: VTrace(np.inf, np.inf),
        lambda: KLPenalty(UNIFORM, 0),
        lambda: KLPenalty([0.0, -np.inf], 1.0),
        lambda: EntropyBonus(np.float64(0.0), sampled=np.True_),
        lambda: GroupStandardised(ddof=np.int64(1), eps=np.array(0.5)),
        lambda: NStep(0.0, n=np.int32(3)),
    ):
        make()
    assert VTrace(np.inf, 1).rho_limit == np.inf
    assert isinstance(VTrace(np.inf, 1).c_limit, float)


def test_records_are_frozen():
    for record in [*ADVANTAGES, *NORMALISERS, TokenRatio(), EntropyBonus(0.1), Estimator(RewardToGo())]:
        with pytest.raises(AttributeError):
            record.beta = 1.0


def test_arguments_of_an_estimate():
    estimator = Estimator(RewardToGo())
    with pytest.raises(ValueError, match="policy has n_states=2, n_actions=2, but mdp has n_states=1"):
        estimator.gradient(PAIR, MDP, TabularSoftmax(2, 2), np.zeros(4))
    with pytest.raises(ValueError, match=r"theta has shape \(3,\)"):
        estimator.gradient(PAIR, MDP, POLICY, np.zeros(3))
    with pytest.raises(ValueError, match="it must be one real vector"):
        estimator.gradient(PAIR, MDP, POLICY, np.zeros(2, dtype=complex))
    with pytest.raises(ValueError, match=r"reference has shape \(3,\)"):
        Estimator(RewardToGo(), penalty=KLPenalty(np.zeros(3), 0.1)).gradient(PAIR, MDP, POLICY, THETA)


# Nothing is ever NaN


def random_estimator(rng):
    """Any combination of slots that may be combined."""

    def one_of(*choices):
        return choices[rng.integers(len(choices))]

    table = one_of(0.5, rng.normal(size=3), rng.normal(size=(5, 3)))
    ddof, eps = int(rng.integers(2)), one_of(0.0, 1e-8, 0.5)
    advantage = one_of(
        TotalReturn(float(rng.normal())),
        RewardToGo(baseline=table),
        GAE(table, float(rng.random()), one_of(True, False)),
        NStep(table, int(rng.integers(1, 7)), one_of(True, False)),
        LeaveOneOut(per_step=one_of(True, False)),
        GroupMean(),
        GroupStandardised(ddof=ddof, eps=eps, over_batch=one_of(True, False)),
        BatchStandardised(RewardToGo(baseline=table), ddof=ddof, eps=eps),
        BatchStandardised(TotalReturn(), ddof=ddof, eps=eps, per_token=one_of(True, False)),
        InSampleOptimal(),
        ActionDependent(rng.normal(size=(3, 3))),
    )
    of = one_of(TokenRatio(), TrajectoryRatio())
    ratios = [
        OnPolicy(),
        of,
        ClippedRatio(float(rng.random()), float(rng.random()), one_of(None, 1.5)),
        GeometricMeanRatio(),
        GeometricMeanRatio(float(rng.random()), float(rng.random())),
        TruncatedRatio(float(rng.random() + 0.5), of=of),
        MaskedRatio(float(rng.random() * 0.9), float(rng.random() + 1), of=of),
        SelfNormalisedRatio(),
    ]
    if hasattr(advantage, "trace"):
        ratios += 2 * [PerDecisionRatio(past=one_of(True, False)), VTrace(one_of(0.5, np.inf), one_of(0.5, np.inf))]
    kl = KLPenalty(
        one_of(rng.normal(size=9), rng.dirichlet(np.ones(3), size=3)),
        float(rng.random()),
        kind=one_of("k1", "k2", "k3", "full"),
        place=one_of("reward", "loss"),
    )
    bonus = EntropyBonus(float(rng.random()), place=one_of("reward", "loss"), sampled=one_of(True, False))
    return Estimator(
        advantage,
        ratio=one_of(*ratios),
        penalty=one_of((), kl, bonus, (kl, bonus)),
        normaliser=one_of(*NORMALISERS),
        discounted_score=advantage.from_start or one_of(True, False),
    )


def random_batch(rng):
    """Equal and tiny and huge rewards, episodes of length zero, policies nearly deterministic."""
    mdp = random_mdp(
        n_states=3,
        n_actions=3,
        gamma=[0.0, 0.9, 1.0][rng.integers(3)],
        horizon=int(rng.integers(1, 6)),
        reward_scale=[0.0, 1.0, 1e-6, 1e6][rng.integers(4)],
        reward_mean=[0.0, 0.1][rng.integers(2)],
        rng=rng,
    )
    policy = TabularSoftmax(3, 3, temperature=[1.0, 0.3][rng.integers(2)])
    theta = rng.normal(size=9) * [0.0, 1.0, 30.0][rng.integers(3)]
    batch = sample(
        mdp, policy, theta, 12, group_size=[2, 3, 6][rng.integers(3)], behaviour=theta + rng.normal(size=9), rng=rng
    )
    empty = rng.random(12) < 0.15
    live = batch.mask & ~empty[:, None]
    return (
        mdp,
        policy,
        theta,
        changed(
            batch,
            lengths=np.where(empty, 0, batch.lengths),
            **{
                name: np.where(live, getattr(batch, name), 0)
                for name in ("states", "actions", "rewards", "log_probabilities")
            },
        ),
    )


@pytest.mark.parametrize("seed", range(20))
def test_never_nan(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        mdp, policy, theta, batch = random_batch(rng)
        estimator = random_estimator(rng)
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            w = estimator.weights(batch, mdp, policy, theta)
            g = estimator.gradient(batch, mdp, policy, theta)
            rows = estimator.per_trajectory(batch, mdp, policy, theta)
        assert w.shape == batch.states.shape
        assert rows.shape == (12, 9)
        assert g.shape == (9,)
        for array in (w, g, rows):
            assert np.all(np.isfinite(array)), (seed, estimator)
        assert np.all(w[~batch.mask] == 0)
        scale = np.abs(rows).max() + np.abs(w).max(initial=0.0) + np.abs(batch.rewards).max(initial=0.0)
        assert np.abs(rows.mean(axis=0) - g).max() <= 1e-12 * scale
