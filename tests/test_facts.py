"""Published facts about policy-gradient estimators, each exact and each with its source; and folklore that is false."""

import itertools
import math

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import (
    GAE,
    Discounted,
    EntropyBonus,
    EntropyRegularised,
    Estimator,
    FiniteMDP,
    GroupMean,
    GroupStandardised,
    InSampleOptimal,
    KLPenalty,
    KLRegularised,
    LeaveOneOut,
    LinearSoftmax,
    OnPolicy,
    PerComponent,
    PerDecisionRatio,
    RewardToGo,
    SelfNormalisedRatio,
    TabularSoftmax,
    TotalReturn,
    TrajectoryRatio,
    Undiscounted,
    VTrace,
    algorithms,
    enumerate_trajectories,
    exact,
    examples,
    judge,
    moments_by_enumeration,
    random_mdp,
)
from reinforce_np.estimators.baselines import score_sums
from reinforce_np.estimators.returns import returns

REFEREE, POLICY = examples.referee(horizon=3), TabularSoftmax(3, 3)
THETA, BEHAVIOUR = np.cos(np.arange(9.0)), 0.7 * np.sin(np.arange(9.0))
CRITIC = np.array([1.5, -0.5, 2.0])
BETA = 0.4


def mean(estimator, mdp=REFEREE, theta=THETA, policy=POLICY, **setting):
    return moments_by_enumeration(estimator, mdp, policy, theta, **setting).mean


def variance(estimator, mdp=REFEREE, theta=THETA, policy=POLICY, **setting):
    return moments_by_enumeration(estimator, mdp, policy, theta, **setting).total_variance


def chain(rewards, gamma=1.0):
    """T states in a row, all actions move on: rewards (T, A)."""
    rewards = np.array(rewards, dtype=float)
    T, A = rewards.shape
    following = np.minimum(np.arange(T) + 1, T - 1)
    return FiniteMDP(
        np.ones((T, A, 1)),
        np.tile(following[:, None, None], (1, A, 1)),
        rewards[..., None],
        np.zeros((T, A, 1), dtype=bool),
        initial=np.eye(T)[0],
        gamma=gamma,
        horizon=T,
    )


def listed(mdp=REFEREE, policy=POLICY, theta=THETA):
    """Probabilities, score sums z and returns R of all trajectories."""
    trajectories, p = enumerate_trajectories(mdp, policy, theta)
    return p, score_sums(trajectories, policy, theta), returns(trajectories.rewards, mdp.gamma)


# Groups


def test_grpo_of_two_binary_rewards_is_rloo():
    """(R - mean)/std = +-1 = R - other; elsewhere both are zero (Shao et al. 2024, section 4.1.2; Kool et al. 2019)."""
    mdp = examples.token_sequences("ab", 2, lambda x, y: "".join(y) in x, [("a", "bb"), ("ab",)])
    policy = TabularSoftmax(mdp.n_states, mdp.n_actions)
    theta = np.cos(np.arange(policy.n_parameters))
    grpo, rloo = (
        moments_by_enumeration(Estimator(a), mdp, policy, theta, group_size=2)
        for a in (GroupStandardised(0, 0.0), LeaveOneOut())
    )
    assert_exact(grpo.mean, rloo.mean)
    assert_exact(grpo.covariance, rloo.covariance)
    assert judge(Estimator(GroupStandardised(0, 0.0)), mdp, policy, theta, group_size=2).kind == "unbiased"
    # and three: sqrt(K (3 - K)) is sqrt(2) whenever the rewards differ, which has probability 3 p (1 - p) for any prompt
    v = judge(Estimator(GroupStandardised(0, 0.0)), mdp, policy, theta, group_size=3)
    assert v.kind == "proportional" and v.factor == pytest.approx(math.sqrt(2))
    assert judge(Estimator(GroupStandardised(0, 0.0)), mdp, policy, theta, group_size=4).kind == "biased"


@pytest.mark.parametrize("N", [2, 3, 4])
def test_rloo_is_the_in_sample_mean_scaled(N):
    """N/(N - 1) (R - mean of all) = R - mean of the others (Kool et al. 2019, after their equation (8))."""
    mdp = examples.referee(horizon=1)
    rloo, own = (
        moments_by_enumeration(Estimator(a), mdp, POLICY, THETA, group_size=N) for a in (LeaveOneOut(), GroupMean())
    )
    assert_exact(rloo.mean, N / (N - 1) * own.mean)
    assert_exact(rloo.covariance, (N / (N - 1)) ** 2 * own.covariance)
    assert_exact(own.mean, (N - 1) / N * exact.gradient(mdp, POLICY, THETA))


@pytest.mark.parametrize("N", [2, 3])
def test_rloo_is_a_u_statistic(N):
    """The sample covariance of score and return: its variance is Hoeffding's (Annals of Math. Statistics 19, 1948, (5.13))."""
    mdp = examples.referee(horizon=1 if N == 3 else 2).replace(initial=[1.0, 0.0, 0.0])
    p, z, R = listed(mdp)
    centred = z * (R - p @ R)[:, None]
    gradient = p @ centred
    zeta_1 = ((centred - gradient).T * p) @ (centred - gradient) / 4
    kernel = (z[:, None] - z) * (R[:, None] - R)[..., None] / 2 - gradient
    zeta_2 = np.einsum("n,m,nmi,nmj->ij", p, p, kernel, kernel)
    expected = 4 * (N - 2) / (N * (N - 1)) * zeta_1 + 2 / (N * (N - 1)) * zeta_2
    assert_exact(moments_by_enumeration(algorithms.rloo(), mdp, POLICY, THETA, group_size=N).covariance, expected)


@pytest.mark.parametrize("N", [2, 3, 8, 64])
@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_grpo_of_binary_rewards_in_closed_form(N, p):
    """E[grad] = E[sqrt(K (N - K))] / (N p (1 - p)) times the gradient of p, K ~ Bin(N, p).

    With K successes the advantages are sqrt((N-K)/K) and -sqrt(K/(N-K)), so the estimate is sqrt(K(N-K))/N (m1 - m0),
    m the mean score of a success and of a failure: m1 = grad p / p, m0 = -grad p / (1 - p). For large groups the factor
    is 1/sqrt(p(1-p)), the gradient of 2 arcsin sqrt(p): Davis & Recht, "What is the objective of reasoning with
    reinforcement learning?" (2025).
    """
    mdp, policy, theta = examples.bandit(means=[1.0, 0.0]), TabularSoftmax(1, 2), [math.log(p / (1 - p)), 0.0]
    factor = sum(math.comb(N, k) * p**k * (1 - p) ** (N - k) * math.sqrt(k * (N - k)) for k in range(N + 1)) / (
        N * p * (1 - p)
    )
    v = judge(Estimator(GroupStandardised(0, 0.0)), mdp, policy, theta, group_size=N)
    assert_exact(v.moments.mean, factor * p * (1 - p) * np.array([1.0, -1.0]))
    assert v.kind == ("unbiased" if N == 2 else "proportional")
    assert v.factor == pytest.approx(factor)
    if N == 64 and p == 0.3:
        assert factor == pytest.approx(1 / math.sqrt(p * (1 - p)), rel=0.01)


def test_grpo_weighs_prompts_by_their_difficulty():
    """One prompt alone is proportional, two of different difficulty are biased (Liu et al. 2025, section 3.1)."""
    mdp = FiniteMDP(
        np.ones((2, 2, 1)),
        np.zeros((2, 2, 1), dtype=int),
        [[[1.0], [0.0]]] * 2,
        np.ones((2, 2, 1), dtype=bool),
        initial=[0.5, 0.5],
        gamma=1.0,
        horizon=1,
    )
    policy, theta, N = TabularSoftmax(2, 2), np.array([0.0, 0.0, 3.0, 0.0]), 4
    v = judge(Estimator(GroupStandardised(0, 0.0)), mdp, policy, theta, group_size=N)
    assert v.kind == "biased"
    weights = v.moments.mean[[0, 2]] / v.gradient[[0, 2]]
    p = policy.probabilities(theta)[:, 0]
    K = np.arange(N + 1)
    expected = [
        sum(math.comb(N, k) * q**k * (1 - q) ** (N - k) * math.sqrt(k * (N - k)) for k in K) / (N * q * (1 - q))
        for q in p
    ]
    assert_exact(weights, expected)
    assert weights[1] > weights[0]


def test_dr_grpo_is_proportional():
    """(N - 1)/N (Liu et al. 2025, appendix A)."""
    for N in (2, 3):
        v = judge(algorithms.dr_grpo(), examples.referee(horizon=1), POLICY, THETA, group_size=N)
        assert v.kind == "proportional" and v.factor == pytest.approx((N - 1) / N)


# Advantages


def test_gae_at_one_with_any_critic_and_at_zero_with_the_true_one():
    """Schulman et al. (2016), section 3, equations (17) and (18)."""
    gradient = exact.gradient(REFEREE, POLICY, THETA)
    true = exact.values(REFEREE, POLICY, THETA)
    for critic in (0.0, CRITIC, 100 * true):
        assert_exact(mean(Estimator(GAE(critic, 1.0))), gradient, scale=100.0)
    assert_exact(mean(Estimator(GAE(true, 0.0))), gradient)
    assert np.abs(mean(Estimator(GAE(CRITIC, 0.0))) - gradient).max() > 0.1
    # and in between: a convex combination of what n steps say, (1 - lam) sum of lam^(n-1) A^(n), their equation (16)
    biases = [np.linalg.norm(mean(Estimator(GAE(CRITIC, lam))) - gradient) for lam in (0.0, 0.5, 0.9, 1.0)]
    assert biases == sorted(biases, reverse=True)


def test_past_rewards_add_nothing_but_variance():
    """E[psi_t r_u] = 0 for u < t (Williams 1992; Peters & Schaal 2008, section 3.2): so both REINFORCE are unbiased."""
    trajectories, p = enumerate_trajectories(REFEREE, POLICY, THETA)
    psi = POLICY.score(THETA)[trajectories.states, trajectories.actions] * trajectories.mask[..., None]
    for u, t in itertools.combinations(range(3), 2):
        products = psi[:, t] * trajectories.rewards[:, u, None]
        assert np.abs(p @ products).max() < 1e-15
        assert (p @ products**2).max() > 0.01
        backwards = psi[:, u] * trajectories.rewards[:, t, None]  # while an action does cause what follows
        assert np.abs(p @ backwards).max() > 0.01
    assert variance(algorithms.reinforce()) < variance(algorithms.reinforce(reward_to_go=False))


def test_leaving_out_the_past_may_cost_variance():
    """Folklore says it never does. Reward 1, then -1, whatever is done: the total return is zero, the reward to go is not."""
    mdp, policy, theta = chain([[1.0, 1.0], [-1.0, -1.0]]), TabularSoftmax(2, 2), [0.3, 0.0, -0.2, 0.5]
    assert variance(algorithms.reinforce(reward_to_go=False), mdp, theta, policy) < 1e-30
    assert variance(algorithms.reinforce(), mdp, theta, policy) > 0.4


def test_dropping_the_discount_is_the_gradient_of_nothing():
    """Nota & Thomas (2020): its Jacobian is not symmetric; with the discount it is the Hessian."""
    gamma = examples.referee(horizon=3, gamma=0.5)
    jacobians = {}
    for discounted_score in (True, False):
        estimator, h, columns = Estimator(RewardToGo(), discounted_score=discounted_score), 1e-4, []
        for step in np.eye(9) * h:
            columns.append((mean(estimator, gamma, THETA + step) - mean(estimator, gamma, THETA - step)) / (2 * h))
        jacobians[discounted_score] = np.array(columns)
    assert np.abs(jacobians[True] - exact.hessian(gamma, POLICY, THETA)).max() < 1e-7
    assert np.abs(jacobians[False] - jacobians[False].T).max() > 0.005
    for objective in (Discounted(), Undiscounted()):
        v = judge(Estimator(RewardToGo(), discounted_score=False), gamma, POLICY, THETA, objective=objective)
        assert v.kind == "biased" and v.relative_bias > 0.05
        v = judge(
            Estimator(RewardToGo(), discounted_score=False),
            gamma.replace(gamma=1.0),
            POLICY,
            THETA,
            objective=objective,
        )
        assert v.kind == "unbiased"


def test_a_true_critic_at_the_horizon_does_not_make_the_problem_endless():
    """Bootstrapping with the values of the endless problem counts what follows, but not the scores of the steps after."""
    endless = REFEREE.replace(horizon=None)
    V = exact.values(endless, POLICY, THETA)
    estimate = mean(Estimator(GAE(V, 1.0, bootstrap_at_truncation=True)))
    # the gradient of the finite problem plus gamma^T times the probability to get there, differentiated, times V
    d = exact.occupancy(REFEREE, POLICY, THETA)
    Q = exact.action_values(endless, POLICY, THETA)
    expected = np.einsum("ts,sa,sa,sad->d", d, POLICY.probabilities(THETA), Q, POLICY.score(THETA))
    assert_exact(estimate, expected, scale=10.0)
    assert np.linalg.norm(estimate - exact.gradient(endless, POLICY, THETA)) > 0.01
    assert np.linalg.norm(estimate - exact.gradient(REFEREE, POLICY, THETA)) > 0.01


# Penalties, on a bandit by hand and over several steps by the occupancy


BANDIT, ARMS = examples.bandit(means=[1.0, -0.5, 0.25]), TabularSoftmax(1, 3)
ARM_THETA, REFERENCE = np.array([0.4, -0.3, 0.1]), np.array([[0.2, 0.5, 0.3]])


def penalised(kind, place, corrected=False):
    """The mean of the penalty alone: with the penalty, minus without."""
    with_it = Estimator(RewardToGo(), penalty=KLPenalty(REFERENCE, BETA, kind, place, corrected))
    return mean(with_it, BANDIT, ARM_THETA, ARMS) - mean(Estimator(RewardToGo()), BANDIT, ARM_THETA, ARMS)


def kl_gradients():
    """Of KL(pi || ref) and of KL(ref || pi), by central differences of the definition."""

    def kl(theta, forward):
        pi = ARMS.probabilities(theta)
        one, other = (REFERENCE, pi) if forward else (pi, REFERENCE)
        return (one * np.log(one / other)).sum()

    h = 1e-5
    return [
        np.array([(kl(ARM_THETA + e, f) - kl(ARM_THETA - e, f)) / (2 * h) for e in np.eye(3) * h])
        for f in (False, True)
    ]


def test_what_the_kl_estimators_differentiate_to():
    """Schulman, "Approximating KL divergence" (2020) defines them; Tang & Munos, "On a few pitfalls in KL divergence
    gradient estimation for RL" (2025) differentiate them: k1 to zero, k2 to the right KL, k3 to the other one."""
    reverse, forward = kl_gradients()
    assert np.abs(reverse - forward).max() > 0.01
    assert np.allclose(penalised("k1", "loss"), 0, atol=1e-15)
    for kind, place, corrected, expected in [
        ("k1", "reward", False, reverse),
        ("k2", "loss", False, reverse),
        ("full", "loss", False, reverse),
        ("k3", "loss", False, forward),
        ("k1", "loss", True, reverse),
        ("k3", "loss", True, reverse),
    ]:
        assert np.allclose(penalised(kind, place, corrected), -BETA * expected, rtol=0, atol=1e-9), (
            kind,
            place,
            corrected,
        )
    for kind in ("k2", "k3"):
        assert np.abs(penalised(kind, "reward") + BETA * reverse).max() > 0.01


def test_k1_and_k3_are_unbiased_for_the_value_of_the_kl_and_k3_is_never_negative():
    """Schulman (2020): E[k3] = KL because E[ref/pi - 1] = 0, and x - 1 - log x >= 0; k2 is biased."""
    trajectories, p = enumerate_trajectories(BANDIT, ARMS, ARM_THETA)
    batch = Estimator(RewardToGo()).batch(trajectories, BANDIT, ARMS, ARM_THETA)
    k = {kind: -KLPenalty(REFERENCE, 1.0, kind).reward(batch)[:, 0] for kind in ("k1", "k2", "k3", "full")}
    pi = ARMS.probabilities(ARM_THETA)
    kl = (pi * np.log(pi / REFERENCE)).sum()
    for kind in ("k1", "k3", "full"):
        assert p @ k[kind] == pytest.approx(kl, rel=1e-13)
    assert p @ k["k2"] != pytest.approx(kl, rel=1e-3)
    assert k["k3"].min() >= 0 > k["k1"].min()
    assert p @ (k["k3"] - kl) ** 2 < p @ (k["k1"] - kl) ** 2  # his point, here


@pytest.mark.parametrize("kind", ["k2", "full"])
def test_a_kl_in_the_loss_pays_where_it_is_and_not_for_getting_there(kind):
    """Its mean is the occupancy-weighted gradient of KL(s); what is left of the true gradient moves the occupancy."""
    reference = 0.5 * np.sin(3.0 + np.arange(9.0))
    here = mean(Estimator(RewardToGo(), penalty=KLPenalty(reference, BETA, kind, "loss"))) - mean(
        Estimator(RewardToGo())
    )
    d = exact.occupancy(REFEREE, POLICY, THETA).sum(axis=0)
    pi, ref = POLICY.probabilities(THETA), POLICY.probabilities(reference)
    own = np.einsum("s,sa,sa,sad->d", d, pi, np.log(pi / ref), POLICY.score(THETA))
    assert_exact(here, -BETA * own)
    whole = exact.gradient(REFEREE, POLICY, THETA, objective=KLRegularised(reference, BETA)) - exact.gradient(
        REFEREE, POLICY, THETA
    )
    assert np.linalg.norm(whole - here) > 0.03 * np.linalg.norm(whole)
    one = REFEREE.replace(horizon=1)
    both = mean(Estimator(RewardToGo(), penalty=KLPenalty(reference, BETA, kind, "loss")), one)
    assert_exact(both, exact.gradient(one, POLICY, THETA, objective=KLRegularised(reference, BETA)))


def test_entropy_in_the_loss_and_in_the_reward():
    """In the loss: the bonus of A3C (Mnih et al. 2016), greedy. In the reward: maximum entropy RL (Haarnoja et al. 2017)."""
    plain = mean(Estimator(RewardToGo()))
    loss = mean(Estimator(RewardToGo(), penalty=EntropyBonus(BETA, "loss", False))) - plain
    reward = mean(Estimator(RewardToGo(), penalty=EntropyBonus(BETA, "reward", True))) - plain
    assert_exact(reward, exact.gradient(REFEREE, POLICY, THETA, objective=EntropyRegularised(BETA)) - plain, scale=1.0)
    d, pi = exact.occupancy(REFEREE, POLICY, THETA).sum(axis=0), POLICY.probabilities(THETA)
    assert_exact(loss, -BETA * np.einsum("s,sa,sa,sad->d", d, pi, np.log(pi), POLICY.score(THETA)))
    assert np.linalg.norm(loss - reward) > 0.05 * np.linalg.norm(reward)


# Baselines


def test_the_variance_is_the_least_one_plus_a_squared_distance():
    """V(b) = V(b*) + E[|z|^2] (b - b*)^2 (Greensmith, Bartlett & Baxter, NIPS 2001 and JMLR 2004, whose abstract says so)."""
    p, z, _ = listed()
    best = exact.optimal_baseline(REFEREE, POLICY, THETA, level="trajectory")
    least = variance(Estimator(TotalReturn(best)))
    for b in (0.0, best + 1e-3, best - 1.0, exact.objective(REFEREE, POLICY, THETA)):
        assert variance(Estimator(TotalReturn(b))) == pytest.approx(
            least + p @ (z**2).sum(axis=1) * (b - best) ** 2, rel=1e-12
        )
    J = exact.objective(REFEREE, POLICY, THETA)
    assert abs(best - J) > 0.01, "the average return is not the best baseline"
    assert least < variance(Estimator(TotalReturn(J))) < variance(Estimator(TotalReturn()))


def test_a_baseline_per_component_is_least_per_component():
    """Var_i(b) = Var_i(b_i*) + E[z_i^2] (b - b_i*)^2 (Peters & Schaal 2008, equation (20))."""
    p, z, _ = listed()
    best = exact.optimal_baseline(REFEREE, POLICY, THETA, level="component")
    least = moments_by_enumeration(Estimator(PerComponent(TotalReturn(), best)), REFEREE, POLICY, THETA).variance
    one = exact.optimal_baseline(REFEREE, POLICY, THETA, level="trajectory")
    for b in (np.zeros(9), np.full(9, one), best + np.linspace(-1, 1, 9)):
        v = moments_by_enumeration(Estimator(PerComponent(TotalReturn(), b)), REFEREE, POLICY, THETA).variance
        assert_exact(v, least + p @ z**2 * (b - best) ** 2)
    assert np.ptp(best) > 0.01
    # the common one is the mean of them, weighted by E[z_i^2]
    assert one == pytest.approx((best * (p @ z**2)).sum() / (p @ z**2).sum())


def test_the_baseline_of_a_state_is_least_for_one_step():
    """E[|psi|^2 Q]/E[|psi|^2], not V (Greensmith et al. 2004)."""
    mdp = REFEREE.replace(horizon=1)
    best, V = exact.optimal_baseline(mdp, POLICY, THETA, level="state"), exact.values(mdp, POLICY, THETA)
    assert best.shape == (1, 3)
    norm = (POLICY.probabilities(THETA) * (POLICY.score(THETA) ** 2).sum(axis=2)).sum(axis=1)
    least = variance(Estimator(RewardToGo(best)), mdp)
    for b in (V[:1], np.zeros((1, 3)), best + [[0.5, -0.25, 1.0]]):
        expected = least + (mdp.initial * norm * (b - best)[0] ** 2).sum()
        assert variance(Estimator(RewardToGo(b)), mdp) == pytest.approx(expected, rel=1e-12)
    assert np.abs(best - V[0]).min() > 0.005


def test_the_baseline_of_a_state_is_least_for_each_step_by_itself_but_not_for_their_sum():
    """It ignores the covariance between steps, so V can do better, and nothing says which does."""
    best = exact.optimal_baseline(REFEREE, POLICY, THETA, level="state")
    slopes = []
    for t, s in itertools.product(range(3), range(3)):
        step = np.zeros((3, 3))
        step[t, s] = 1e-3
        slopes.append(variance(Estimator(RewardToGo(best + step))) - variance(Estimator(RewardToGo(best - step))))
    assert np.abs(slopes).max() > 1e-5, "not stationary"
    rng, ratios = np.random.default_rng(0), []
    for _ in range(40):
        mdp, policy, theta = (
            random_mdp(n_states=2, n_outcomes=1, horizon=2, rng=rng),
            TabularSoftmax(2, 2),
            1.5 * rng.normal(size=4),
        )
        by = [exact.optimal_baseline(mdp, policy, theta, level="state"), exact.values(mdp, policy, theta)]
        state, V = (variance(Estimator(RewardToGo(b)), mdp, theta, policy) for b in by)
        ratios.append(state / V)
    assert min(ratios) < 0.5 and max(ratios) > 1.01


def test_the_levels_of_the_optimal_baseline_and_where_nothing_varies():
    table = exact.optimal_baseline(REFEREE, POLICY, THETA, level="state")
    pi, squares = POLICY.probabilities(THETA), (POLICY.score(THETA) ** 2).sum(axis=2)
    Q = exact.action_values(REFEREE, POLICY, THETA)
    assert table.shape == (3, 3)
    assert_exact(table, (pi * squares * Q).sum(axis=2) / (pi * squares).sum(axis=1))
    endless = exact.optimal_baseline(REFEREE.replace(horizon=None), POLICY, THETA, level="state")
    Q = exact.action_values(REFEREE.replace(horizon=None), POLICY, THETA)
    assert_exact(endless, (pi * squares * Q).sum(axis=1) / (pi * squares).sum(axis=1))
    assert isinstance(exact.optimal_baseline(REFEREE, POLICY, THETA, level="trajectory"), float)
    with pytest.raises(ValueError, match="level='step' is unknown; pass one of 'trajectory', 'component', 'state'"):
        exact.optimal_baseline(REFEREE, POLICY, THETA, level="step")
    for level in ("trajectory", "component"):
        with pytest.raises(ValueError, match=f"horizon=None: level='{level}' needs a horizon; use level='state'"):
            exact.optimal_baseline(REFEREE.replace(horizon=None), POLICY, THETA, level=level)
    constant = LinearSoftmax(np.ones((3, 3, 2)))  # a policy that no parameter changes
    for level, expected in (("trajectory", 0.0), ("component", [0.0, 0.0])):
        assert np.array_equal(exact.optimal_baseline(REFEREE, constant, np.zeros(2), level=level), expected)
    Q = exact.action_values(REFEREE, constant, np.zeros(2))
    assert_exact(exact.optimal_baseline(REFEREE, constant, np.zeros(2), level="state"), Q.mean(axis=2))


@pytest.mark.parametrize("policy", [POLICY, LinearSoftmax(np.cos(np.arange(36.0)).reshape(3, 3, 4), temperature=0.5)])
def test_the_optimal_baseline_by_recursion_is_that_of_the_list(policy):
    theta = np.sin(1.0 + np.arange(policy.n_parameters))
    p, z, R = listed(REFEREE, policy, theta)
    squares = (z**2).sum(axis=1)
    assert exact.optimal_baseline(REFEREE, policy, theta, level="trajectory") == pytest.approx(
        p @ (squares * R) / (p @ squares)
    )
    assert_exact(
        exact.optimal_baseline(REFEREE, policy, theta, level="component"), p @ (z**2 * R[:, None]) / (p @ z**2)
    )


def test_the_in_sample_optimal_baseline_is_biased_and_not_by_a_factor():
    """Fitted on what it is used on, it leaves an estimate that depends on the batch (Greensmith et al. 2004)."""
    mdp = REFEREE.replace(horizon=2)
    own, fitted = (judge(Estimator(a), mdp, POLICY, THETA, group_size=2) for a in (GroupMean(), InSampleOptimal()))
    assert own.kind == "proportional" and fitted.kind == "biased"
    assert fitted.relative_bias > own.relative_bias
    alone = moments_by_enumeration(Estimator(InSampleOptimal()), mdp, POLICY, THETA)
    assert_exact(alone.mean, np.zeros(9), scale=1.0)  # of a single trajectory nothing is left
    # with two arms that are equally likely all norms are equal: it is the in-sample mean, and a factor after all
    v = judge(
        Estimator(InSampleOptimal()), examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), [0.0, 0.0], group_size=2
    )
    assert v.kind == "proportional" and v.factor == pytest.approx(0.5)


# Importance sampling


@pytest.mark.parametrize("T", [1, 2, 4, 8])
def test_the_variance_of_importance_sampling_grows_exponentially_with_the_horizon(T):
    """E[|g|^2] = T c^(T-1) q when the last step pays 1, c = E[rho^2], q = E[rho^2 |psi|^2] (Liu, Bacon & Brunskill,
    "Understanding the Curse of Horizon in Off-Policy Evaluation via Conditional Importance Sampling", ICML 2020)."""
    rewards = np.zeros((T, 2))
    rewards[-1] = 1.0
    policy, pi, mu = TabularSoftmax(T, 2), np.array([0.6, 0.4]), np.array([0.3, 0.7])
    theta = np.tile(np.log(pi), T)
    moments = moments_by_enumeration(
        Estimator(TotalReturn(), ratio=TrajectoryRatio()), chain(rewards), policy, theta, behaviour=np.tile(mu, (T, 1))
    )
    c, q = (pi**2 / mu).sum(), (pi**2 / mu * 2 * (1 - pi) ** 2).sum()
    assert moments.second_moment.sum() == pytest.approx(T * c ** (T - 1) * q)
    assert np.abs(moments.mean).max() < 1e-12 and c > 1.4
    on_policy = variance(Estimator(TotalReturn()), chain(rewards), theta, policy)
    assert on_policy == pytest.approx(T * 2 * pi.prod())


def test_per_decision_ratios_may_have_less_variance_and_may_have_more():
    """Less when later ratios correct nothing (Precup, Sutton & Singh 2000); more when they cancel what is paid: there is
    no strict reduction (Liu, Bacon & Brunskill 2020)."""
    policy, theta, mu = TabularSoftmax(2, 2), np.array([0.3, 0.0, -0.2, 0.5]), np.array([-0.4, 0.2, 0.6, 0.0])
    for rewards, less in (([[1.0, 2.0], [0.0, 0.0]], True), ([[1.0, 1.0], [-1.0, -1.0]], False)):
        per_decision, whole = (
            variance(Estimator(RewardToGo(), ratio=r), chain(rewards), theta, policy, behaviour=mu)
            for r in (PerDecisionRatio(), TrajectoryRatio())
        )
        assert (per_decision < 0.9 * whole) if less else (per_decision > 1.05 * whole)
    # by how much, in the second case: E[rho_0^2 |psi_0|^2] E[(1 - rho_1)^2]
    pi, m = policy.probabilities(theta), policy.probabilities(mu)
    rho, psi = pi / m, policy.score(theta)
    more = (m[0] * rho[0] ** 2 * (psi[0] ** 2).sum(axis=1)).sum() * (m[1] * (1 - rho[1]) ** 2).sum()
    assert per_decision - whole == pytest.approx(more)


@pytest.mark.parametrize(("rho_limit", "c_limit"), [(1.0, 1.0), (0.7, 0.4), (1.3, 2.0)])
def test_the_fixed_point_of_vtrace(rho_limit, c_limit):
    """Its critic converges to V of pi_rho, proportional to min(rho_limit mu, pi), whatever c_limit is (Espeholt et al.
    2018, section 4.1)."""
    pi, mu = POLICY.probabilities(THETA), POLICY.probabilities(BEHAVIOUR)
    clipped = np.minimum(rho_limit * mu, pi)
    table = np.log(clipped / clipped.sum(axis=1, keepdims=True)).ravel()
    trajectories, p = enumerate_trajectories(REFEREE, POLICY, THETA, behaviour=BEHAVIOUR)

    def corrections(critic):
        """E[v_0 - V(s_0) | s_0], from the weights of the first step."""
        w = Estimator(GAE(critic, 1.0), ratio=VTrace(rho_limit, c_limit)).weights(trajectories, REFEREE, POLICY, THETA)
        first = trajectories.states[:, 0]
        return np.bincount(first, weights=p * len(p) * w[:, 0])

    assert np.abs(corrections(exact.values(REFEREE, POLICY, table))).max() < 1e-13
    assert np.abs(corrections(exact.values(REFEREE, POLICY, THETA))).max() > 0.01


def test_self_normalised_weights_are_bounded_by_the_batch_and_their_bias_falls_as_one_over_n():
    """Ratios over their mean never exceed N (Hesterberg, Technometrics 37, 1995); the bias is of order 1/N (Owen, "Monte
    Carlo theory, methods and examples", 2013, section 9.2), which says nothing about small N."""
    mdp, policy, theta = examples.bandit(means=[1.0, 0.0]), TabularSoftmax(1, 2), np.zeros(2)
    estimator = Estimator(TotalReturn(), ratio=SelfNormalisedRatio())
    bias = [
        judge(estimator, mdp, policy, theta, group_size=n, behaviour=np.array([[0.2, 0.8]])).relative_bias
        for n in (8, 64, 256)
    ]
    assert bias[0] > bias[1] > bias[2] and bias[1] / bias[2] == pytest.approx(4, rel=0.1)
    mdp, theta, mu = (
        random_mdp(n_states=2, n_outcomes=1, horizon=2, rng=237),
        [-1.1, 0.5, 1.2, -0.3],
        np.array([1.4, -0.9, -0.3, 1.9]),
    )
    bias = [
        judge(estimator, mdp, TabularSoftmax(2, 2), theta, group_size=n, behaviour=mu).relative_bias for n in (1, 2, 3)
    ]
    assert bias[0] < bias[1] < bias[2], "less and less, but not at first"
    symmetric = examples.bandit(means=[1.0, -1.0])  # and zero for every size where symmetry has it so
    assert (
        judge(estimator, symmetric, policy, np.zeros(2), group_size=3, behaviour=np.array([[0.2, 0.8]])).kind
        == "unbiased"
    )
    far = enumerate_trajectories(REFEREE, POLICY, THETA, behaviour=-300 * THETA).trajectories
    order = np.argsort(far.log_probabilities.sum(axis=1))
    for picked in (order, order[[0, -1, -2, -3]]):  # ratios of exp(1000) do not overflow
        batch = Estimator(TotalReturn()).batch(far.take(picked), REFEREE, POLICY, THETA)
        weights = SelfNormalisedRatio().weigh(batch, _One())
        assert weights.max() <= len(picked) * (1 + 1e-12)
        assert weights[:, 0].mean() == pytest.approx(1.0)
    assert weights.max() == pytest.approx(4.0)


class _One:
    """A credit of one."""

    def credit(self, batch):
        return np.ones(batch.mask.shape)


def test_on_policy_data_are_those_of_least_surprise():
    """With the policy itself as behaviour every correction is the same estimator: rho = 1 (any textbook)."""
    for ratio in (TrajectoryRatio(), PerDecisionRatio(), SelfNormalisedRatio(), VTrace()):
        one, other = (
            moments_by_enumeration(Estimator(RewardToGo(CRITIC), ratio=r), REFEREE, POLICY, THETA, behaviour=THETA)
            for r in (ratio, OnPolicy())
        )
        assert_exact(one.mean, other.mean)
        assert_exact(one.covariance, other.covariance)


def test_rloo_is_unbiased_off_policy_too():
    """The other members are independent, and E[rho psi] = 0: no need to use one trajectory at a time."""
    mdp = REFEREE.replace(horizon=2)
    for advantage in (LeaveOneOut(), LeaveOneOut(per_step=True)):
        v = judge(Estimator(advantage, ratio=TrajectoryRatio()), mdp, POLICY, THETA, group_size=2, behaviour=BEHAVIOUR)
        assert v.kind == "unbiased"


def test_a_loss_is_not_corrected_by_the_ratio_of_the_reward():
    """Off-policy, k1 in the loss has an expectation after all: only `corrected` multiplies it by the ratio."""
    e = Estimator(RewardToGo(), ratio=TrajectoryRatio(), penalty=KLPenalty(np.zeros(9), BETA, "k1", "loss"))
    assert judge(e, REFEREE, POLICY, THETA).kind == "unbiased"
    assert judge(e, REFEREE, POLICY, THETA, behaviour=BEHAVIOUR).kind == "biased"
