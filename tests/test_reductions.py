"""One choice specialises to another where the literature says so, and nowhere else."""

import dataclasses

import numpy as np
import pytest
from test_losses import PROBLEMS, changed

from reinforce_np import (
    GAE,
    BatchStandardised,
    ClippedRatio,
    Constant,
    EntropyBonus,
    Estimator,
    GeometricMeanRatio,
    GroupMean,
    GroupStandardised,
    InSampleOptimal,
    KLPenalty,
    LeaveOneOut,
    LinearSoftmax,
    MaskedRatio,
    NStep,
    OnPolicy,
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
    sample,
)

EXACT = 1e-12
HUGE = 1e300
EVERY_RATIO = [
    TrajectoryRatio(),
    TokenRatio(),
    PerDecisionRatio(),
    PerDecisionRatio(past=False),
    VTrace(),
    VTrace(2.0, 3.0),
    ClippedRatio(),
    ClippedRatio(0.0, 0.0),
    ClippedRatio(dual=1.5),
    TruncatedRatio(1.0),
    TruncatedRatio(1.5, of=TrajectoryRatio()),
    MaskedRatio(0.5, 1.0),
    MaskedRatio(1.0, 2.0, of=TrajectoryRatio()),
    SelfNormalisedRatio(),
]
PENALTIES = [
    KLPenalty(np.full((3, 3), 1 / 3), 1.0, kind=kind, place=place, corrected=corrected)
    for kind in ("k1", "k2", "k3", "full")
    for place, corrected in (("reward", False), ("loss", False), ("loss", True))
    if not (kind == "full" and corrected)
] + [EntropyBonus(1.0, place=place, sampled=sampled) for place in ("reward", "loss") for sampled in (True, False)]


@pytest.fixture(params=list(PROBLEMS))
def p(request):
    return PROBLEMS[request.param]


def weights(p, estimator, batch=None):
    return estimator.weights(p.batch if batch is None else batch, p.mdp, p.policy, p.theta)


def gradient(p, estimator, batch=None):
    return estimator.gradient(p.batch if batch is None else batch, p.mdp, p.policy, p.theta)


def on_policy(p):
    """The same trajectories, with the policy's own log-probabilities."""
    log_pi = p.policy.log_probabilities(p.theta)[p.batch.states, p.batch.actions]
    return changed(p.batch, log_probabilities=np.where(p.batch.mask, log_pi, 0.0))


def cut(p, length):
    """The trajectories as if they were all of this length (those of length zero left out), truncated or terminated."""
    keep = p.batch.take(p.batch.lengths >= length)
    live = np.arange(keep.n_steps) < length
    ended = keep.terminated & (keep.lengths == length)
    return changed(
        keep,
        lengths=np.full(len(keep), length),
        rewards=np.where(live, keep.rewards, 0.0),
        terminated=ended,
        truncated=~ended,
        groups=np.zeros(len(keep), dtype=int),
    )


def assert_close(actual, expected, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    assert scale > 1e-3, "nothing is compared"
    error = np.abs(actual - expected).max()
    assert error <= EXACT * scale, f"off by {error:.3g} at a scale of {scale:.3g}"


def assert_differ(actual, expected):
    assert np.abs(actual - expected).max() > 1e-3 * np.abs(expected).max()


# Advantages


def test_ppo_at_the_old_parameters_is_a2c(p):
    options = {"lam": 0.8, "entropy": 0.1, "bootstrap_at_truncation": True, "discounted_score": False}
    ppo, a2c = algorithms.ppo(p.by_time, **options), algorithms.a2c(p.by_time, **options)
    assert_close(gradient(p, ppo, on_policy(p)), gradient(p, a2c, on_policy(p)))
    assert_differ(gradient(p, ppo), gradient(p, a2c))


@pytest.mark.parametrize("bootstrap", [True, False])
def test_one_step_is_gae_0_is_actor_critic(p, bootstrap):
    one = weights(p, Estimator(NStep(p.by_time, 1, bootstrap)))
    assert_close(one, weights(p, Estimator(GAE(p.by_time, 0.0, bootstrap))))
    if not bootstrap:
        assert_close(one, weights(p, algorithms.actor_critic(p.by_time)))
        assert_close(one, weights(p, algorithms.a2c(p.by_time, lam=0.0)))


def test_many_steps_and_gae_1_are_rewards_to_go_minus_v(p):
    expected = weights(p, Estimator(RewardToGo(baseline=p.by_time)))
    for n in (p.batch.n_steps, p.batch.n_steps + 1, 10**9):
        assert_close(weights(p, Estimator(NStep(p.by_time, n))), expected)
    assert_close(weights(p, Estimator(GAE(p.by_time, 1.0))), expected)
    assert_close(weights(p, algorithms.a2c(p.by_time)), expected)
    assert_close(weights(p, algorithms.reinforce_with_baseline(p.by_time)), expected)
    assert_differ(weights(p, Estimator(NStep(p.by_time, p.batch.n_steps - 1))), expected)


def test_bootstrapping_adds_what_the_critic_says_of_the_rest(p):
    with_it, without = (weights(p, Estimator(GAE(p.by_state, 1.0, flag))) for flag in (True, False))
    N, T = with_it.shape
    t = np.arange(T)
    after = p.batch.truncated * p.by_state[p.batch.final_states]
    rest = p.mdp.gamma**p.batch.lengths * after / N  # γᵗ of the score and γ^{L−t} of the credit
    assert_close(with_it - without, np.where(p.batch.mask, rest[:, None], 0.0) + 0 * t)


def test_a_critic_of_zero_is_no_critic(p):
    expected = weights(p, Estimator(RewardToGo()))
    assert_close(weights(p, Estimator(GAE(0.0, 1.0, True))), expected)
    assert_close(weights(p, Estimator(GAE(np.zeros(3), 1.0, True))), expected)
    assert_close(weights(p, Estimator(NStep(np.zeros((p.batch.n_steps + 1, 3)), 99, True))), expected)


def test_a_table_by_time_with_equal_rows_is_a_table_by_state(p):
    T = p.batch.n_steps
    rows = np.tile(p.by_state, (T + 1, 1))
    for make in (lambda V: GAE(V, 0.6, True), lambda V: NStep(V, 2, True), lambda V: RewardToGo(baseline=V)):
        assert_close(weights(p, Estimator(make(rows))), weights(p, Estimator(make(p.by_state))))
    constant = weights(p, Estimator(GAE(np.full(3, 0.4), 0.6, True)))
    assert_close(weights(p, Estimator(GAE(0.4, 0.6, True))), constant)


def test_gpomdp_and_reinforce_are_one_estimator(p):
    assert_close(weights(p, algorithms.gpomdp()), weights(p, algorithms.reinforce()))
    assert_differ(weights(p, algorithms.reinforce(reward_to_go=False)), weights(p, algorithms.reinforce()))


def test_total_return_and_reward_to_go_agree_on_the_first_step(p):
    total, to_go = weights(p, Estimator(TotalReturn(0.3))), weights(p, Estimator(RewardToGo(baseline=0.3)))
    assert_close(total[:, 0], to_go[:, 0])


# Groups


def test_rloo_is_the_group_mean_times_n_over_n_minus_1(p):
    _, inverse, counts = np.unique(p.batch.groups, return_inverse=True, return_counts=True)
    N = counts[inverse]
    mean, rloo = weights(p, Estimator(GroupMean())), weights(p, algorithms.rloo())
    assert_close(rloo, (N / (N - 1))[:, None] * mean)


def test_dr_grpo_on_policy_is_the_group_mean_over_c(p):
    batch = on_policy(p)
    mean = gradient(p, Estimator(GroupMean()), batch)
    assert_close(gradient(p, algorithms.dr_grpo(), batch), mean)
    assert_close(gradient(p, algorithms.dr_grpo(c=4), batch), mean / 4)


def pairs(p, first, second):
    """Groups of two with these returns, paid at the first step; behaviour = policy."""
    batch = cut(p, 2)
    n = len(batch) // 2 * 2
    batch = batch.take(slice(n))
    rewards = np.zeros(batch.rewards.shape)
    rewards[0::2, 0], rewards[1::2, 0] = first, second
    return changed(batch, rewards=rewards, groups=np.arange(n) // 2)


def test_a_group_of_two_standardised_is_a_sign(p):
    """RLOO pays ±(a−b); GRPO pays ±1 with ddof=0 and ±1/√2 with ddof=1, whatever a ≠ b are.

    For 0/1 rewards the constant between RLOO and GRPO (ddof=0) is therefore one, and √2 with ddof=1.
    """
    binary = pairs(p, 1.0, 0.0)
    rloo = weights(p, algorithms.rloo(), binary)
    assert_close(weights(p, Estimator(GroupStandardised(ddof=0, eps=0.0)), binary), rloo)
    assert_close(np.sqrt(2.0) * weights(p, Estimator(GroupStandardised(ddof=1, eps=0.0)), binary), rloo)
    other = pairs(p, -0.3, 2.2)
    assert_close(weights(p, algorithms.rloo(), other), -2.5 * rloo)
    assert_close(weights(p, Estimator(GroupStandardised(ddof=0, eps=0.0)), other), -rloo)
    same = pairs(p, 1.0, 1.0)
    for estimator in (algorithms.rloo(), Estimator(GroupStandardised(ddof=0, eps=0.0))):
        assert np.all(weights(p, estimator, same) == 0)


def test_one_group_makes_the_levels_group_and_batch_the_same(p):
    batch = changed(p.batch, groups=np.full(len(p.batch), 8))
    for ddof in (0, 1):
        expected = weights(p, Estimator(GroupStandardised(ddof=ddof, eps=0.1)), batch)
        over = GroupStandardised(ddof=ddof, eps=0.1, over_batch=True)
        whole = BatchStandardised(TotalReturn(baseline=5.0), ddof=ddof, eps=0.1, per_token=False)
        assert_close(weights(p, Estimator(over), batch), expected)
        assert_close(weights(p, Estimator(whole), batch), expected)
    assert_differ(
        weights(p, Estimator(GroupStandardised(ddof=0, eps=0.0, over_batch=True))),
        weights(p, Estimator(GroupStandardised(ddof=0, eps=0.0))),
    )


def test_tokens_and_trajectories_weigh_the_same_when_all_are_equally_long(p):
    batch = cut(p, 2)
    token, whole = (BatchStandardised(TotalReturn(), ddof=0, eps=0.1, per_token=flag) for flag in (True, False))
    assert_close(weights(p, Estimator(token), batch), weights(p, Estimator(whole), batch))
    assert_differ(weights(p, Estimator(token)), weights(p, Estimator(whole)))


def test_a_huge_eps_divides_by_it(p):
    large = weights(p, Estimator(GroupStandardised(ddof=0, eps=1e20)))
    assert_close(1e20 * large, weights(p, Estimator(GroupMean())))


SHIFTED = [
    LeaveOneOut(),
    LeaveOneOut(per_step=True),
    GroupMean(),
    GroupStandardised(ddof=0, eps=0.0),
    GroupStandardised(ddof=1, eps=0.1, over_batch=True),
    BatchStandardised(TotalReturn(), ddof=0, eps=0.1),
    BatchStandardised(TotalReturn(), ddof=0, eps=0.1, per_token=False),
    InSampleOptimal(),
]


@pytest.mark.parametrize("advantage", SHIFTED, ids=repr)
def test_a_constant_added_to_every_return_changes_nothing(p, advantage):
    batch = p.batch.take(p.batch.lengths > 0)
    rewards = batch.rewards.copy()
    rewards[:, 0] += 10.0
    before, after = (weights(p, Estimator(advantage), b) for b in (batch, changed(batch, rewards=rewards)))
    assert_close(after, before, 10.0)
    rewards[-1, 0] += 1.0  # a member of a group of more than two, whose advantages are no mere signs
    assert_differ(weights(p, Estimator(advantage), changed(batch, rewards=rewards)), before)


def test_a_constant_added_to_every_return_changes_the_others(p):
    rewards = p.batch.rewards.copy()
    rewards[:, 0] += 10.0
    for advantage in (
        TotalReturn(),
        RewardToGo(),
        GAE(p.by_state, 0.5),
        BatchStandardised(RewardToGo(), ddof=0, eps=0.0),
    ):
        after = weights(p, Estimator(advantage), changed(p.batch, rewards=rewards))
        assert_differ(after, weights(p, Estimator(advantage)))


@pytest.mark.parametrize("factor", [0.25, 3.0, 1e6])
def test_rewards_times_a_factor(p, factor):
    batch = changed(p.batch, rewards=factor * p.batch.rewards)
    invariant = [
        GroupStandardised(ddof=0, eps=0.0),
        GroupStandardised(ddof=1, eps=0.0, over_batch=True),
        BatchStandardised(RewardToGo(), ddof=0, eps=0.0),
    ]
    for advantage in invariant:
        assert_close(weights(p, Estimator(advantage), batch), weights(p, Estimator(advantage)))
        blurred = dataclasses.replace(advantage, eps=0.1)
        assert_differ(weights(p, Estimator(blurred), batch), weights(p, Estimator(blurred)))
    for advantage in (TotalReturn(), RewardToGo(), GroupMean(), LeaveOneOut(), InSampleOptimal()):
        assert_close(weights(p, Estimator(advantage), batch), factor * weights(p, Estimator(advantage)))


# Ratios


@pytest.mark.parametrize("ratio", EVERY_RATIO, ids=repr)
def test_every_ratio_is_one_on_policy(p, ratio):
    batch = on_policy(p)
    advantage = GAE(p.by_time, 0.7, True)
    expected = weights(p, Estimator(advantage), batch)
    assert_close(weights(p, Estimator(advantage, ratio=ratio), batch), expected)
    assert_differ(weights(p, Estimator(advantage, ratio=ratio)), expected)


def test_the_geometric_mean_is_one_over_the_length_on_policy(p):
    batch = on_policy(p)
    expected = weights(p, Estimator(GroupMean(), normaliser=PerLength()), batch)
    assert_close(weights(p, Estimator(GroupMean(), ratio=GeometricMeanRatio()), batch), expected)
    assert_close(weights(p, Estimator(GroupMean(), ratio=GeometricMeanRatio(0.0, 0.0)), batch), expected)
    gspo, grpo = algorithms.gspo(), algorithms.grpo()
    assert_close(weights(p, gspo, batch), weights(p, grpo, batch))
    assert_differ(weights(p, gspo), weights(p, grpo))


@pytest.mark.parametrize(("name", "advantage"), [("token", None), ("total", TotalReturn(0.4))])
def test_limits_that_limit_nothing(p, name, advantage):
    advantage = GAE(p.by_time, 0.6, True) if advantage is None else advantage
    token = weights(p, Estimator(advantage, ratio=TokenRatio()))
    whole = weights(p, Estimator(advantage, ratio=TrajectoryRatio()))
    for limit in (np.inf, HUGE):
        assert_close(weights(p, Estimator(advantage, ratio=TruncatedRatio(limit))), token)
        assert_close(weights(p, Estimator(advantage, ratio=TruncatedRatio(limit, of=TrajectoryRatio()))), whole)
    assert_close(weights(p, Estimator(advantage, ratio=MaskedRatio(0.0, HUGE))), token)
    assert_close(weights(p, Estimator(advantage, ratio=MaskedRatio(0.0, HUGE, of=TrajectoryRatio()))), whole)
    assert_close(weights(p, Estimator(advantage, ratio=ClippedRatio(1.0, HUGE))), token)
    assert_close(weights(p, Estimator(advantage, ratio=ClippedRatio(1.0, HUGE, dual=HUGE))), token)
    for ratio in (ClippedRatio(1.0, 0.1), TruncatedRatio(1.1), MaskedRatio(0.0, 1.1)):
        assert_differ(weights(p, Estimator(advantage, ratio=ratio)), token)
    narrow = Estimator(advantage, ratio=GeometricMeanRatio(1.0, HUGE))
    assert_close(weights(p, narrow), weights(p, Estimator(advantage, ratio=GeometricMeanRatio())))


def test_a_limit_of_nearly_nothing_leaves_nearly_nothing(p):
    tiny = weights(p, Estimator(RewardToGo(), ratio=TruncatedRatio(1e-9)))
    assert_close(1e9 * tiny, weights(p, Estimator(RewardToGo())))


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_v_trace_without_limits_is_per_decision_without_the_past(p, lam):
    for advantage in (GAE(p.by_time, lam, True), GAE(0.0, lam), RewardToGo(baseline=p.by_state), RewardToGo()):
        expected = weights(p, Estimator(advantage, ratio=PerDecisionRatio(past=False)))
        for limits in ((np.inf, np.inf), (HUGE, HUGE), (np.inf, HUGE)):
            assert_close(weights(p, Estimator(advantage, ratio=VTrace(*limits))), expected)
        assert_differ(weights(p, Estimator(advantage, ratio=PerDecisionRatio())), expected)


def test_per_decision_of_gae_1_is_that_of_the_reward_with_a_control_variate(p):
    """With λ = 1 the critic's values do not telescope off-policy: ρ(δ + γρ'δ' + …) is not ρ(r − V + γρ'r' + …)."""
    to_go, gae = RewardToGo(), GAE(0.0, 1.0)
    for past in (True, False):
        ratio = PerDecisionRatio(past=past)
        assert_close(weights(p, Estimator(gae, ratio=ratio)), weights(p, Estimator(to_go, ratio=ratio)))
    with_critic = Estimator(GAE(p.by_state, 1.0), ratio=PerDecisionRatio())
    assert_differ(weights(p, with_critic), weights(p, Estimator(RewardToGo(p.by_state), ratio=PerDecisionRatio())))


def test_all_ratios_are_one_ratio_for_episodes_of_one_step(p):
    batch = cut(p, 1)
    advantage = RewardToGo(baseline=p.by_state)
    expected = weights(p, Estimator(advantage, ratio=TrajectoryRatio()), batch)
    plain = [TokenRatio(), PerDecisionRatio(), PerDecisionRatio(past=False), VTrace(np.inf, 1e-3), GeometricMeanRatio()]
    for ratio in plain:
        assert_close(weights(p, Estimator(advantage, ratio=ratio), batch), expected)
    assert_differ(
        weights(p, Estimator(advantage, ratio=PerDecisionRatio())),
        weights(p, Estimator(advantage, ratio=TrajectoryRatio())),
    )


def test_self_normalised(p):
    for n in range(len(p.batch)):
        one = p.batch.take(slice(n, n + 1))
        alone = weights(p, Estimator(RewardToGo(), ratio=SelfNormalisedRatio()), one)
        assert np.array_equal(alone, weights(p, Estimator(RewardToGo()), one))
    # proportional to the plain ratio, by one factor for the whole batch
    plain = weights(p, Estimator(TotalReturn(1.0), ratio=TrajectoryRatio()))
    normed = weights(p, Estimator(TotalReturn(1.0), ratio=SelfNormalisedRatio()))
    rho = np.exp(
        np.where(p.batch.mask, p.policy.log_probabilities(p.theta)[p.batch.states, p.batch.actions], 0.0)
        - p.batch.log_probabilities
    ).prod(axis=1, where=p.batch.mask)
    assert_close(normed * rho.mean(), plain)


# Penalties


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_a_penalty_of_weight_zero_is_none(p, penalty):
    plain = Estimator(RewardToGo(baseline=p.by_state), ratio=TokenRatio(), penalty=None)
    zero = dataclasses.replace(penalty, beta=0.0)
    with_zero = dataclasses.replace(plain, penalty=zero)
    assert np.array_equal(weights(p, with_zero), weights(p, plain))
    assert np.array_equal(gradient(p, with_zero), gradient(p, plain))
    with_one = gradient(p, dataclasses.replace(plain, penalty=dataclasses.replace(penalty, beta=1.0)))
    twice = gradient(p, dataclasses.replace(plain, penalty=(dataclasses.replace(penalty, beta=0.5),) * 2))
    assert_differ(with_one, gradient(p, plain))
    assert_close(twice, with_one)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "full"])
@pytest.mark.parametrize("place", ["reward", "loss"])
def test_a_reference_that_is_the_policy_itself(p, kind, place):
    """No divergence and, but for k1 in the loss, no slope: that one's is the score itself, of expectation zero."""
    plain = Estimator(RewardToGo())
    itself = dataclasses.replace(plain, penalty=KLPenalty(p.theta, 3.0, kind=kind, place=place))
    extra = weights(p, itself) - weights(p, plain)
    if (kind, place) == ("k1", "loss"):
        discount = p.mdp.gamma ** np.arange(p.batch.n_steps)
        assert_close(extra, np.where(p.batch.mask, -3.0 * discount / len(p.batch), 0.0))
    else:
        assert np.array_equal(weights(p, itself), weights(p, plain))
        assert_close(gradient(p, itself), gradient(p, plain))


def test_a_reference_as_parameters_or_as_a_table(p):
    theta = np.sin(np.arange(p.policy.n_parameters))
    for kind in ("k1", "k2", "k3", "full"):
        for place in ("reward", "loss"):
            both = [
                gradient(p, Estimator(TotalReturn(), penalty=KLPenalty(reference, 2.0, kind=kind, place=place)))
                for reference in (theta, p.policy.probabilities(theta))
            ]
            assert_close(both[0], both[1])


def test_the_kl_to_the_uniform_policy_is_minus_the_entropy(p):
    uniform = np.full((3, 3), 1 / 3)
    for place, kind, sampled in (("loss", "full", False), ("loss", "k1", True)):
        kl = gradient(p, Estimator(RewardToGo(), penalty=KLPenalty(uniform, 0.7, kind=kind, place=place)))
        assert_close(kl, gradient(p, Estimator(RewardToGo(), penalty=EntropyBonus(0.7, place=place, sampled=sampled))))
    # in the reward they differ by β log 3 a step
    for kind, sampled in (("k1", True), ("full", False)):
        batch = changed(p.batch, rewards=np.where(p.batch.mask, p.batch.rewards - 0.7 * np.log(3.0), 0.0))
        kl = weights(p, Estimator(RewardToGo(), penalty=KLPenalty(uniform, 0.7, kind=kind)))
        bonus = weights(p, Estimator(RewardToGo(), penalty=EntropyBonus(0.7, sampled=sampled)), batch)
        assert_close(kl, bonus)


def test_corrected_on_policy_adds_the_estimate_to_its_slope(p):
    batch = on_policy(p)
    for kind in ("k1", "k2", "k3"):
        slope, both = (
            weights(
                p,
                Estimator(TotalReturn(), penalty=KLPenalty(p.reference, 1.0, kind=kind, place="loss", corrected=c)),
                batch,
            )
            for c in (False, True)
        )
        k = {
            "k1": lambda d: d,
            "k2": lambda d: d**2 / 2,
            "k3": lambda d: np.exp(-d) - 1 + d,
        }[kind]
        d = (p.policy.log_probabilities(p.theta) - np.log(p.reference))[batch.states, batch.actions]
        discount = p.mdp.gamma ** np.arange(batch.n_steps)
        assert_close(slope - both, np.where(batch.mask, discount * k(d) / len(batch), 0.0))


# Normalisers and batches


def test_normalisers_of_equally_long_episodes(p):
    for length in (1, 2):
        batch = cut(p, length)
        token = gradient(p, Estimator(RewardToGo(), normaliser=PerToken()), batch)
        assert_close(gradient(p, Estimator(RewardToGo(), normaliser=PerLength()), batch), token)
        assert_close(gradient(p, Estimator(RewardToGo(), normaliser=Constant(length)), batch), token)
    token = gradient(p, Estimator(RewardToGo(), normaliser=PerToken()))
    assert_differ(gradient(p, Estimator(RewardToGo(), normaliser=PerLength())), token)


def test_a_constant_divides(p):
    whole = gradient(p, Estimator(RewardToGo(), normaliser=PerTrajectory()))
    assert_close(gradient(p, Estimator(RewardToGo(), normaliser=Constant(8.0))), whole / 8)
    assert np.array_equal(gradient(p, Estimator(RewardToGo(), normaliser=Constant(1.0))), whole)


COUPLED = {
    "tokens": Estimator(RewardToGo(), normaliser=PerToken()),
    "group, over batch": Estimator(GroupStandardised(ddof=0, eps=0.1, over_batch=True)),
    "batch, per token": Estimator(BatchStandardised(RewardToGo(), ddof=0, eps=0.1)),
    "batch, per trajectory": Estimator(BatchStandardised(TotalReturn(), ddof=0, eps=0.1, per_token=False)),
    "in-sample optimal": Estimator(InSampleOptimal()),
    "self-normalised": Estimator(RewardToGo(), ratio=SelfNormalisedRatio()),
    "REINFORCE++": algorithms.reinforce_plus_plus(),
    "REINFORCE++ with baseline": algorithms.reinforce_plus_plus_baseline(),
    "DAPO": algorithms.dapo(),
}
SEPARATE = {
    "total return": Estimator(TotalReturn(0.5)),
    "to go, per length": Estimator(RewardToGo(), normaliser=PerLength()),
    "constant": Estimator(RewardToGo(), normaliser=Constant(3)),
    "GAE": Estimator(GAE(np.array([0.3, -0.2, 0.9]), 0.7, True), ratio=ClippedRatio()),
    "V-trace": Estimator(GAE(np.array([0.3, -0.2, 0.9]), 1.0), ratio=VTrace()),
    "n steps": Estimator(NStep(np.array([0.3, -0.2, 0.9]), 2), ratio=TrajectoryRatio()),
    "penalties": Estimator(RewardToGo(), penalty=(EntropyBonus(0.3, place="loss", sampled=False), EntropyBonus(0.1))),
    "RLOO": algorithms.rloo(),
    "RLOO per step": Estimator(LeaveOneOut(per_step=True), ratio=TokenRatio()),
    "GRPO": algorithms.grpo(),
    "Dr. GRPO": algorithms.dr_grpo(),
    "GSPO": algorithms.gspo(lower=0.2, upper=0.2),
}


@pytest.mark.parametrize("name", [*COUPLED, *SEPARATE])
def test_micro_batches(p, name):
    """The mean over micro-batches, each counted by its size, is the batch; where statistics couple them it is not."""
    estimator = {**COUPLED, **SEPARATE}[name]
    pieces = [p.batch.take(slice(0, 2)), p.batch.take(slice(2, 5)), p.batch.take(slice(5, 10))]
    whole = gradient(p, estimator)
    mean = sum(len(piece) * gradient(p, estimator, piece) for piece in pieces) / len(p.batch)
    if name in SEPARATE:
        assert_close(mean, whole)
    else:
        assert_differ(mean, whole)


@pytest.mark.parametrize("name", [*COUPLED, *SEPARATE])
def test_batches_held_at_once_do_not_see_each_other(p, name):
    """Labels separate batches of different sizes, also where the same group ids come back in each."""
    estimator = {**COUPLED, **SEPARATE}[name]
    pieces = [p.batch.take(np.arange(5)), p.batch.take(np.arange(10)), p.batch.take(np.arange(2, 10))]
    together = p.batch.take(np.concatenate([np.arange(5), np.arange(10), np.arange(2, 10)]))
    labels = np.repeat(np.arange(3), [5, 10, 8])
    batch = estimator.batch(together, p.mdp, p.policy, p.theta, labels=labels)
    alone = np.array([gradient(p, estimator, piece) for piece in pieces])
    assert_close(estimator.contract(batch, labels, 3), alone)


def test_the_order_of_trajectories_does_not_matter(p):
    order = np.random.default_rng(0).permutation(len(p.batch))
    for estimator in [*COUPLED.values(), *SEPARATE.values()]:
        shuffled = gradient(p, estimator, p.batch.take(order))
        assert_close(shuffled, gradient(p, estimator))
        rows = estimator.per_trajectory(p.batch, p.mdp, p.policy, p.theta)
        assert_close(estimator.per_trajectory(p.batch.take(order), p.mdp, p.policy, p.theta), rows[order])


def test_a_batch_twice_is_the_batch_for_what_only_averages(p):
    twice = p.batch.take(np.tile(np.arange(10), 2))
    for name, estimator in {**COUPLED, **SEPARATE}.items():
        if "RLOO" in name:  # the leave-one-out of a doubled group is another one
            continue
        assert_close(gradient(p, estimator, twice), gradient(p, estimator))


def test_trailing_padding_does_not_matter(p):
    """A batch padded to more steps is the same batch."""
    pad = {"states": 0, "actions": 0, "rewards": 0.0, "log_probabilities": 0.0}
    longer = changed(p.batch, **{name: np.pad(getattr(p.batch, name), ((0, 0), (0, 3))) for name in pad})
    for estimator in [*COUPLED.values(), *SEPARATE.values()]:
        assert_close(gradient(p, estimator, longer), gradient(p, estimator))


# Policies, discounts


def test_temperature_divides_the_parameters(p):
    """A policy at temperature τ with θ is the policy at 1 with θ/τ, and its score is 1/τ of that one's."""
    tau = 0.4
    if isinstance(p.policy, TabularSoftmax):
        warm, plain = TabularSoftmax(3, 3, temperature=tau), TabularSoftmax(3, 3)
    else:
        warm, plain = LinearSoftmax(p.policy.features, temperature=tau), LinearSoftmax(p.policy.features)
    for estimator in (algorithms.grpo(), Estimator(GAE(p.by_time, 0.5), ratio=VTrace(), penalty=EntropyBonus(0.3))):
        assert_close(
            tau * estimator.gradient(p.batch, p.mdp, warm, p.theta),
            estimator.gradient(p.batch, p.mdp, plain, p.theta / tau),
        )


def test_one_parameter_per_pair_is_a_linear_policy_with_indicator_features():
    p = PROBLEMS["tabular, cold"]
    linear = LinearSoftmax(np.eye(9).reshape(3, 3, 9), temperature=p.policy.temperature)
    for estimator in [*COUPLED.values(), *SEPARATE.values()]:
        assert_close(estimator.gradient(p.batch, p.mdp, linear, p.theta), gradient(p, estimator))


def test_without_discounting_the_score_has_no_factor(p):
    for discounted in ([True, False],):
        both = [
            Estimator(GAE(p.by_time, 0.7), penalty=EntropyBonus(0.3, place="loss", sampled=False), discounted_score=d)
            for d in discounted
        ]
        gradients = [gradient(p, estimator) for estimator in both]
        if p.mdp.gamma == 1:
            assert np.array_equal(gradients[0], gradients[1])
        else:
            assert_differ(gradients[0], gradients[1])


def test_gamma_zero_is_a_bandit_at_the_first_step(p):
    mdp = p.mdp.replace(gamma=0.0)
    w = Estimator(RewardToGo()).weights(p.batch, mdp, p.policy, p.theta)
    assert_close(w[:, 0], p.batch.rewards[:, 0] / len(p.batch))
    assert np.all(w[:, 1:] == 0)
    assert_close(Estimator(TotalReturn()).weights(p.batch, mdp, p.policy, p.theta)[:, 0], w[:, 0])


def test_sampled_groups_are_the_groups_of_the_record(p):
    batch = sample(p.mdp, p.policy, p.theta, 12, group_size=3, rng=0)
    assert np.array_equal(batch.groups, np.arange(12) // 3)
    relabelled = changed(batch, groups=np.array([9, -4, 10**12, 0])[batch.groups])
    for estimator in (algorithms.rloo(), algorithms.grpo(eps=0.1)):
        assert_close(gradient(p, estimator, relabelled), gradient(p, estimator, batch))


def test_on_policy_is_the_default(p):
    assert isinstance(Estimator(RewardToGo()).ratio, OnPolicy)
    assert isinstance(Estimator(RewardToGo()).normaliser, PerTrajectory)
    assert Estimator(RewardToGo(), penalty=None).penalty == Estimator(RewardToGo()).penalty == ()
