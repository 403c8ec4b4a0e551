"""The losses of public trainers, judged: what each is an estimate of, exactly.

Every loss is written anew from the formulas of the file that is named with it, with one trainer's conventions (masks,
degrees of freedom, epsilons, what is averaged over what) and nothing else of it. It is written once, for NumPy, PyTorch
and JAX alike: `xp` is the module. Where the slots of `Estimator` can say the same, both must have the same moments.

On-policy, at the first step after the data were drawn, where ratios are one and nothing is clipped. What is judged is the
gradient of the policy's loss, before any optimiser, gradient clipping or second epoch.
"""

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import (
    ClippedRatio,
    Constant,
    Discounted,
    Estimator,
    GroupMean,
    GroupStandardised,
    KLPenalty,
    KLRegularised,
    LeaveOneOut,
    PerLength,
    PerToken,
    Problem,
    TabularSoftmax,
    Undiscounted,
    jax_loss,
    judge,
    moments,
    numpy_loss,
    random_mdp,
    torch_loss,
)
from reinforce_np.examples import token_sequences

RNG = np.random.default_rng(5)
SCORES = {"p": [0.5, 1.0, 3.0], "q": [-1.0, 0.0, 0.5]}  # of the answers "", "a" and "aa"
ANSWERS = token_sequences("a", 2, lambda prompt, tokens: SCORES[prompt][len(tokens)], "pq", weights=[0.6, 0.4])
REFERENCE = RNG.normal(size=8)
BATCH = Problem(
    ANSWERS, TabularSoftmax(4, 2), RNG.normal(size=8), group_size=2, reference=REFERENCE, beta=0.3, name="two prompts"
)
ONE_WORD = Problem(
    token_sequences("abc", 1, lambda prompt, tokens: float(len(tokens)), "p"),
    TabularSoftmax(1, 4),
    np.arange(4.0),
    group_size=2,
    prompts=2,
    critic=np.zeros(1),
)
ENDLESS = Problem(
    random_mdp(n_states=2, n_outcomes=1, gamma=0.9, horizon=2, termination=0, rng=3),
    TabularSoftmax(2, 2),
    np.array([0.3, -0.2, 0.1, 0.5]),
    prompts=2,
    critic=np.array([0.5, -1.0]),
    name="no episode ends",
)
UNDISCOUNTED = ENDLESS.replace(mdp=ENDLESS.mdp.replace(gamma=1.0))
T = 2  # steps, and the longest answer


# What the trainers share


def constant(x):
    """No derivative goes through it."""
    return x.detach() if hasattr(x, "detach") else x.real


def grouped(x, size):
    return x.reshape(-1, size)


def centred(R, size):
    return (grouped(R, size) - grouped(R, size).mean(1)[:, None]).reshape(-1)


def standardised(R, size, eps):
    A = grouped(centred(R, size), size)
    return (A / (((A**2).sum(1) / (size - 1)) ** 0.5 + eps)[:, None]).reshape(-1)


def leave_one_out(R, size):
    others = (grouped(R, size).sum(1)[:, None] - grouped(R, size)) / (size - 1)
    return R - others.reshape(-1)


def returns(batch):
    return (batch.rewards * batch.mask).sum(1)


def to_go(xp, x, factor):
    """Σ_{u≥t} factor^{u−t} x_u."""
    t = np.arange(x.shape[1])
    ahead = t[:, None] - t
    return x @ xp.asarray(np.where(ahead >= 0, factor ** np.maximum(ahead, 0), 0.0))


def clipped(xp, log_probs, old, A, low=0.2, high=0.2):
    ratio = xp.exp(log_probs - old)
    return -xp.minimum(ratio * A, xp.clip(ratio, 1 - low, 1 + high) * A)


def of_table(xp, table, batch):
    return xp.asarray(table)[batch.states, batch.actions]


def token_mean(loss, mask):
    return (loss * mask).sum() / mask.sum()


def sequence_mean_token_sum(loss, mask):
    return (loss * mask).sum(1).mean()


def sequence_mean_token_mean(loss, mask):
    return ((loss * mask).sum(1) / mask.sum(1)).mean()


def whitened(A, mask, ddof, eps):
    """Over all tokens of the batch."""
    n = mask.sum()
    mean = (A * mask).sum() / n
    variance = ((A - mean) ** 2 * mask).sum() / (n - ddof)
    return (A - mean) * (variance + eps) ** -0.5 * mask


# huggingface/trl, trl/trainer/grpo_trainer.py and trl/trainer/rloo_trainer.py


def trl_grpo(aggregate, scale_rewards, beta=0.0):
    def make(xp):
        def loss(log_probs, batch, problem):
            R, size = returns(batch), problem.group_size
            A = standardised(R, size, 1e-4) if scale_rewards else centred(R, size)
            per_token = clipped(xp, log_probs, batch.log_probabilities, A[:, None])
            if beta:
                d = of_table(xp, problem.policy.log_probabilities(problem.reference), batch) - log_probs
                per_token = per_token + beta * (xp.exp(d) - d - 1)
            return aggregate(per_token, batch.mask)

        return loss

    return make


def dr_grpo_sum(loss, mask):
    return (loss * mask).sum() / (mask.shape[0] * T)


def trl_rloo(beta=0.0, normalize_advantages=False):
    def make(xp):
        def loss(log_probs, batch, problem):
            R = returns(batch)
            if beta:
                reference = of_table(xp, problem.policy.log_probabilities(problem.reference), batch)
                R = R - beta * ((batch.log_probabilities - reference) * batch.mask).sum(1)
            A = leave_one_out(R, problem.group_size)
            if normalize_advantages:
                A = (A - A.mean()) / ((((A - A.mean()) ** 2).sum() / (len(A) - 1)) ** 0.5 + 1e-4)
            old = (batch.log_probabilities * batch.mask).sum(1)
            return clipped(xp, (log_probs * batch.mask).sum(1), old, A).mean()

        return loss

    return make


# volcengine/verl, verl/trainer/ppo/core_algos.py: agg_loss, and the functions named compute_..._outcome_advantage


def verl(advantage, aggregate):
    def make(xp):
        def loss(log_probs, batch, problem):
            A = advantage(xp, batch, problem.group_size)
            A = A if A.ndim == 2 else A[:, None] * batch.mask
            return aggregate(clipped(xp, log_probs, batch.log_probabilities, A), batch.mask)

        return loss

    return make


def sequence_sum_over_longest(loss, mask):
    """seq-mean-token-sum-norm: the sum over sequences is divided by the longest length, and not by their number."""
    return (loss * mask).sum() / mask.shape[1]


def verl_grpo(xp, batch, size):
    return standardised(returns(batch), size, 1e-6)


def verl_dr_grpo(xp, batch, size):
    return centred(returns(batch), size)


def verl_rloo(xp, batch, size):
    R = returns(batch)
    mean = (R - centred(R, size)) * size / (size - 1)
    return R * size / (size - 1) - mean


def verl_opo(xp, batch, size):
    """The baseline is the mean of the group weighted with lengths."""
    R, length = grouped(returns(batch), size), grouped(batch.mask.sum(1), size)
    return (R - ((R * length).sum(1) / length.sum(1))[:, None]).reshape(-1)


def verl_gpg(xp, batch, size):
    """Times the size of the batch over how many scores are not zero."""
    R = returns(batch)
    hits = (R != 0).sum()
    return centred(R, size) * (len(R) / xp.maximum(hits, xp.ones_like(hits)))


def verl_reinforce_plus_plus(xp, batch, size):
    return whitened(to_go(xp, batch.rewards * batch.mask, 1.0), batch.mask, 1, 1e-8)


def verl_gspo(xp):
    def loss(log_probs, batch, problem):
        A = standardised(returns(batch), problem.group_size, 1e-6)[:, None]
        log_ratio = (log_probs - batch.log_probabilities) * batch.mask
        of_sequence = log_ratio.sum(1) / batch.mask.sum(1)
        ratio = xp.exp(log_probs - constant(log_probs) + constant(of_sequence)[:, None])
        per_token = -xp.minimum(ratio * A, xp.clip(ratio, 0.8, 1.2) * A)
        return sequence_mean_token_mean(per_token, batch.mask)

    return loss


# OpenRLHF/OpenRLHF, openrlhf/models/loss.py (PolicyLoss), openrlhf/trainer/ppo_utils/experience_maker.py (rloo,
# get_cumulative_returns) and replay_buffer.py (normalize)


def openrlhf(advantage, aggregate, normalize):
    def make(xp):
        def loss(log_probs, batch, problem):
            A = advantage(returns(batch), problem.group_size)[:, None] * batch.mask
            if normalize:
                n = batch.mask.sum()
                mean = (A * batch.mask).sum() / n
                variance = ((A - mean) ** 2 * batch.mask).sum() / n
                A = (A - mean) * xp.maximum(variance, 1e-8 + 0 * variance) ** -0.5
            return aggregate(clipped(xp, log_probs, batch.log_probabilities, A), batch.mask)

        return loss

    return make


# vwxyzjn/cleanrl, cleanrl/ppo.py, and openai/spinningup, spinup/algos/pytorch/vpg/vpg.py: all steps of a rollout of fixed length


def generalised_advantages(xp, batch, problem, lam):
    V = xp.asarray(problem.critic)[batch.states] * batch.mask
    after = xp.concatenate([V[:, 1:], 0 * V[:, :1]], 1)
    return to_go(xp, batch.rewards * batch.mask + problem.gamma * after - V, problem.gamma * lam)


def cleanrl_ppo(lam, norm_adv):
    def make(xp):
        def loss(log_probs, batch, problem):
            A = generalised_advantages(xp, batch, problem, lam)
            if norm_adv:
                A = (A - A.mean()) / ((((A - A.mean()) ** 2).sum() / (A.shape[0] * T - 1)) ** 0.5 + 1e-8)
            return clipped(xp, log_probs, batch.log_probabilities, A).mean()

        return loss

    return make


def spinningup_vpg(lam):
    def make(xp):
        def loss(log_probs, batch, problem):
            A = generalised_advantages(xp, batch, problem, lam)
            A = (A - A.mean()) / ((A - A.mean()) ** 2).mean() ** 0.5
            return -(log_probs * A).mean()

        return loss

    return make


LLM, KL = Undiscounted(), KLRegularised(REFERENCE, 0.3)
K3 = KLPenalty(REFERENCE, 0.3, kind="k3", place="loss")
K1 = KLPenalty(REFERENCE, 0.3)
CLIP = {"ratio": ClippedRatio(0.2, 0.2)}

# name: (loss, problem, objective, kind, factor, the same as slots of the family)
TRAINERS = {
    "TRL GRPO": (
        trl_grpo(sequence_mean_token_mean, True), BATCH, LLM, "biased", None,
        Estimator(GroupStandardised(ddof=1, eps=1e-4), normaliser=PerLength(), **CLIP),
    ),
    "TRL GRPO, KL": (
        trl_grpo(sequence_mean_token_mean, True, 0.3), BATCH, KL, "biased", None,
        Estimator(GroupStandardised(ddof=1, eps=1e-4), normaliser=PerLength(), penalty=K3, **CLIP),
    ),
    "TRL GRPO, scale_rewards=False": (
        trl_grpo(sequence_mean_token_mean, False), BATCH, LLM, "biased", None,
        Estimator(GroupMean(), normaliser=PerLength()),
    ),
    "TRL bnpo": (
        trl_grpo(token_mean, True), BATCH, LLM, "biased", None,
        Estimator(GroupStandardised(ddof=1, eps=1e-4), normaliser=PerToken(), **CLIP),
    ),
    "TRL dr_grpo, scale_rewards=False": (
        trl_grpo(dr_grpo_sum, False), BATCH, LLM, "proportional", 1 / (2 * T),
        Estimator(GroupMean(), normaliser=Constant(T)),
    ),
    "TRL dr_grpo, scaled": (
        trl_grpo(dr_grpo_sum, True), BATCH, LLM, "biased", None,
        Estimator(GroupStandardised(ddof=1, eps=1e-4), normaliser=Constant(T)),
    ),
    "TRL RLOO": (trl_rloo(), BATCH, LLM, "unbiased", 1.0, Estimator(LeaveOneOut())),
    "TRL RLOO, beta": (trl_rloo(0.3), BATCH, KL, "unbiased", 1.0, Estimator(LeaveOneOut(), penalty=K1)),
    "TRL RLOO, beta, for J alone": (trl_rloo(0.3), BATCH, LLM, "biased", None, Estimator(LeaveOneOut(), penalty=K1)),
    "TRL RLOO, normalize_advantages": (trl_rloo(0.0, True), BATCH, LLM, "biased", None, None),
    "verl GRPO, token-mean": (
        verl(verl_grpo, token_mean), BATCH, LLM, "biased", None,
        Estimator(GroupStandardised(ddof=1, eps=1e-6), normaliser=PerToken(), **CLIP),
    ),
    "verl Dr. GRPO, token-mean": (
        verl(verl_dr_grpo, token_mean), BATCH, LLM, "biased", None, Estimator(GroupMean(), normaliser=PerToken()),
    ),
    "verl Dr. GRPO, seq-mean-token-mean": (
        verl(verl_dr_grpo, sequence_mean_token_mean), BATCH, LLM, "biased", None,
        Estimator(GroupMean(), normaliser=PerLength()),
    ),
    "verl Dr. GRPO, seq-mean-token-sum": (
        verl(verl_dr_grpo, sequence_mean_token_sum), BATCH, LLM, "proportional", 1 / 2, Estimator(GroupMean()),
    ),
    "verl Dr. GRPO, seq-mean-token-sum-norm": (
        verl(verl_dr_grpo, sequence_sum_over_longest), BATCH, LLM, "proportional", 1 / 2 * 2 / T, None,
    ),
    "verl Dr. GRPO, seq-mean-token-sum-norm, two prompts of one word": (
        verl(verl_dr_grpo, sequence_sum_over_longest), ONE_WORD, LLM, "proportional", 1 / 2 * 4 / 1, None,
    ),
    "verl RLOO, token-mean": (
        verl(verl_rloo, token_mean), BATCH, LLM, "biased", None, Estimator(LeaveOneOut(), normaliser=PerToken()),
    ),
    "verl RLOO, seq-mean-token-sum": (
        verl(verl_rloo, sequence_mean_token_sum), BATCH, LLM, "unbiased", 1.0, Estimator(LeaveOneOut()),
    ),
    "verl OPO, seq-mean-token-sum": (verl(verl_opo, sequence_mean_token_sum), BATCH, LLM, "biased", None, None),
    "verl GPG, seq-mean-token-sum": (verl(verl_gpg, sequence_mean_token_sum), BATCH, LLM, "biased", None, None),
    "verl REINFORCE++": (verl(verl_reinforce_plus_plus, token_mean), BATCH, LLM, "biased", None, None),
    "verl GSPO": (
        verl_gspo, BATCH, LLM, "biased", None,
        Estimator(GroupStandardised(ddof=1, eps=1e-6), normaliser=PerLength()),
    ),
    "OpenRLHF RLOO, by token": (
        openrlhf(leave_one_out, token_mean, False), BATCH, LLM, "biased", None,
        Estimator(LeaveOneOut(), normaliser=PerToken()),
    ),
    "OpenRLHF RLOO, by sequence": (
        openrlhf(leave_one_out, sequence_mean_token_mean, False), BATCH, LLM, "biased", None,
        Estimator(LeaveOneOut(), normaliser=PerLength()),
    ),
    "OpenRLHF RLOO, normalised": (
        openrlhf(leave_one_out, token_mean, True), BATCH, LLM, "biased", None, None,
    ),
    "CleanRL PPO, gamma=1, norm_adv=False, lambda=1": (
        cleanrl_ppo(1.0, False), UNDISCOUNTED, LLM, "proportional", 1 / T, None,
    ),
    "CleanRL PPO, norm_adv=False, lambda=1": (
        cleanrl_ppo(1.0, False), ENDLESS, Discounted(), "biased", None, None,
    ),
    "CleanRL PPO, norm_adv=False, lambda=1, for J_1": (
        cleanrl_ppo(1.0, False), ENDLESS, LLM, "biased", None, None,
    ),
    "CleanRL PPO": (cleanrl_ppo(0.95, True), ENDLESS, Discounted(), "biased", None, None),
    "Spinning Up VPG": (spinningup_vpg(0.97), ENDLESS, Discounted(), "biased", None, None),
    "Spinning Up VPG, episodes of one step": (spinningup_vpg(0.97), ONE_WORD, LLM, "undefined", None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINERS)
def test_what_the_loss_of_a_trainer_estimates(name):
    make, problem, objective, kind, factor, slots = TRAINERS[name]
    verdict = judge(numpy_loss(make(np)), problem, objective=objective, exchangeable=True)
    assert verdict.kind == kind, str(verdict)
    if factor is not None:
        assert verdict.factor == pytest.approx(factor, rel=1e-12)
    if slots is not None:
        family = moments(slots, problem, covariance=True)
        assert_exact(verdict.moments.mean, family.mean)
        assert_exact(verdict.moments.covariance, family.covariance)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_same_in_pytorch(name):
    torch = pytest.importorskip("torch")
    make, problem, objective, kind, _, _ = TRAINERS[name]
    verdict = judge(torch_loss(make(torch)), problem, objective=objective, exchangeable=True)
    assert verdict.kind == kind, str(verdict)
    if kind != "undefined":
        assert_exact(verdict.moments.mean, moments(numpy_loss(make(np)), problem, exchangeable=True).mean)


@pytest.mark.parametrize("name", ["TRL GRPO, KL", "TRL RLOO", "verl RLOO, seq-mean-token-sum"])
def test_the_same_in_jax(name):
    jax_numpy = pytest.importorskip("jax.numpy")
    make, problem, objective, kind, _, _ = TRAINERS[name]
    verdict = judge(jax_loss(make(jax_numpy)), problem, objective=objective, exchangeable=True)
    assert verdict.kind == kind, str(verdict)
    assert verdict.moments.precision == np.finfo(np.float32).eps
