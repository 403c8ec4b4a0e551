"""The family tree: the named algorithms, spelled as fillings of the same four slots.

Reading this file from top to bottom is reading what each one changed:
a baseline, an importance correction, a penalty, a normaliser. What a claim
(*unbiased*, *proportional*, *biased*) says is run by ``tests/test_claims.py``.

The clipped ones are meant for data of an older policy: at θ = θ_old the ratio
is one, nothing is clipped, and they are their on-policy ancestors.
"""

from reinforce_np import arguments
from reinforce_np.estimators.advantages import GAE, RewardToGo, TotalReturn
from reinforce_np.estimators.estimator import Estimator
from reinforce_np.estimators.groups import BatchStandardised, GroupMean, GroupStandardised, LeaveOneOut
from reinforce_np.estimators.normalisers import Constant, PerLength, PerToken
from reinforce_np.estimators.penalties import EntropyBonus, KLPenalty
from reinforce_np.estimators.ratios import ClippedRatio, GeometricMeanRatio


def reinforce(*, reward_to_go=True):
    """REINFORCE: the score times the return.

    Estimates ∇J_γ. *Unbiased*, with and without reward-to-go; enormous
    variance without.

    Parameters
    ----------
    reward_to_go : bool
        Credit an action only with what is paid from its step on.

    Returns
    -------
    Estimator

    References
    ----------
    Williams (1992), equation (11); Sutton & Barto, 2nd ed., equation (13.8).

    Examples
    --------
    >>> reinforce(reward_to_go=False).advantage
    TotalReturn(baseline=0.0)
    """
    return Estimator(RewardToGo() if arguments.flag("reward_to_go", reward_to_go) else TotalReturn())


def gpomdp(*, baseline=0.0):
    """G(PO)MDP: each reward credits the actions before it; REINFORCE with reward-to-go, summed in the other order.

    Estimates ∇J_γ. *Unbiased*.

    Parameters
    ----------
    baseline : float, array (S,) or array (T, S)
        A number, b(s), or b(t, s).

    Returns
    -------
    Estimator

    References
    ----------
    Baxter & Bartlett, "Infinite-Horizon Policy-Gradient Estimation", JAIR 15
    (2001); in episodic form Peters & Schaal (2008), section 3.2.

    Examples
    --------
    >>> gpomdp().ratio
    OnPolicy()
    """
    return reinforce_with_baseline(baseline)


def reinforce_with_baseline(baseline):
    """REINFORCE with a baseline b(s): the score times the return minus what was expected.

    Estimates ∇J_γ. *Unbiased* for every baseline that does not depend on the
    actions of the trajectory it is used on.

    Parameters
    ----------
    baseline : float, array (S,) or array (T, S)
        A number, b(s), or b(t, s).

    Returns
    -------
    Estimator

    References
    ----------
    Williams (1992), section 4; Sutton & Barto, 2nd ed., equation (13.11).

    Examples
    --------
    >>> float(reinforce_with_baseline(0.5).advantage.baseline)
    0.5
    """
    return Estimator(RewardToGo(baseline=baseline))


def actor_critic(critic, *, discounted_score=True):
    """One-step actor-critic: the score times the temporal difference.

    Estimates ∇J_γ. *Unbiased* with the true value function as critic and a
    discounted score, *biased* otherwise.

    Parameters
    ----------
    critic : array (S,) or array (T+1, S)
        V(s), or V(t, s).
    discounted_score : bool
        As in `Estimator`.

    Returns
    -------
    Estimator

    References
    ----------
    Sutton & Barto, 2nd ed., equations (13.12) to (13.14).

    Examples
    --------
    >>> import numpy as np
    >>> actor_critic(np.zeros(3)).advantage.lam
    0.0
    """
    return Estimator(GAE(critic, lam=0.0), discounted_score=discounted_score)


def a2c(critic, *, lam=1.0, entropy=0.0, bootstrap_at_truncation=False, discounted_score=True):
    """A2C: advantage actor-critic with an entropy bonus in the loss.

    Estimates ∇J_γ. *Unbiased* with a discounted score, without the bonus and
    without bootstrapping at truncation, at λ = 1 with any critic and at every λ with the true one;
    *biased* otherwise.

    Parameters
    ----------
    critic : array (S,) or array (T+1, S)
        V(s), or V(t, s).
    lam : float
        λ of the generalised advantage.
    entropy : float
        β of the bonus.
    bootstrap_at_truncation, discounted_score : bool
        As in `GAE` and `Estimator`. Published code drops γᵗ.

    Returns
    -------
    Estimator

    References
    ----------
    Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", ICML
    2016, section 4 and algorithm S3.

    Examples
    --------
    >>> import numpy as np
    >>> a2c(np.zeros(3), entropy=0.01).penalty
    (EntropyBonus(beta=0.01, place='loss', sampled=False),)
    """
    bonus = EntropyBonus(entropy, place="loss", sampled=False) if entropy else None
    return Estimator(GAE(critic, lam, bootstrap_at_truncation), penalty=bonus, discounted_score=discounted_score)


def ppo(critic, *, lam=0.95, epsilon=0.2, entropy=0.0, bootstrap_at_truncation=False, discounted_score=True):
    """PPO: A2C on slightly old data, the ratio clipped.

    At θ = θ_old it is `a2c`, and *unbiased* where that is. *Biased* by
    design otherwise.

    Parameters
    ----------
    critic : array (S,) or array (T+1, S)
        V(s), or V(t, s).
    lam : float
        λ of the generalised advantage.
    epsilon : float
        Clip range of the ratio.
    entropy : float
        β of the bonus in the loss.
    bootstrap_at_truncation, discounted_score : bool
        As in `GAE` and `Estimator`. Published code drops γᵗ.

    Returns
    -------
    Estimator

    References
    ----------
    Schulman et al., "Proximal Policy Optimization Algorithms" (2017),
    equations (7), (9) and (11).

    Examples
    --------
    >>> import numpy as np
    >>> ppo(np.zeros(3)).ratio
    ClippedRatio(lower=0.2, upper=0.2, dual=None)
    """
    bonus = EntropyBonus(entropy, place="loss", sampled=False) if entropy else None
    return Estimator(
        GAE(critic, lam, bootstrap_at_truncation),
        ratio=ClippedRatio(epsilon, epsilon),
        penalty=bonus,
        discounted_score=discounted_score,
    )


def rloo(*, reference=None, beta=0.0):
    """RLOO: REINFORCE with the mean of the other answers as baseline, the KL in the reward.

    Estimates ∇(J − β·KL), with groups of at least two. *Unbiased* on-policy; it has no ratio for other data.

    Parameters
    ----------
    reference : array (D,) or (S, A), optional
        Reference policy of the KL.
    beta : float
        Weight of the KL.

    Returns
    -------
    Estimator

    References
    ----------
    Ahmadian et al., "Back to Basics: Revisiting REINFORCE Style Optimization
    for Learning from Human Feedback in LLMs", ACL 2024, section 2.3.

    Examples
    --------
    >>> rloo().advantage
    LeaveOneOut(per_step=False)
    """
    return Estimator(LeaveOneOut(), penalty=_kl(reference, beta, "k1", "reward"))


def reinforce_plus_plus(*, reference=None, beta=0.0, epsilon=0.2, eps=1e-8):
    """REINFORCE++: reward-to-go with the KL in the reward, standardised over the batch, the ratio clipped.

    Estimates no named objective exactly. *Biased* by the standardisation.
    (The paper's KL in the reward is that of the policy that drew the data;
    here it is that of θ, which is the same at θ = θ_old.)

    Parameters
    ----------
    reference : array (D,) or (S, A), optional
        Reference policy of the KL.
    beta : float
        Weight of the KL.
    epsilon : float
        Clip range of the ratio.
    eps : float
        Added to the standard deviation.

    Returns
    -------
    Estimator

    References
    ----------
    Hu et al., "REINFORCE++: Stabilizing Critic-Free Policy Optimization with
    Global Advantage Normalization" (2025).

    Examples
    --------
    >>> reinforce_plus_plus().advantage.per_token
    True
    """
    return Estimator(
        BatchStandardised(RewardToGo(), ddof=0, eps=eps),
        ratio=ClippedRatio(epsilon, epsilon),
        penalty=_kl(reference, beta, "k1", "reward"),
        normaliser=PerToken(),
    )


def reinforce_plus_plus_baseline(*, reference=None, beta=0.0, epsilon=0.2, eps=1e-8):
    """REINFORCE++-baseline: the group's mean subtracted, the batch's deviation divided by, k2 in the loss.

    Estimates no named objective exactly. *Biased* by the standardisation.

    Parameters
    ----------
    reference, beta, epsilon, eps
        As in `reinforce_plus_plus`.

    Returns
    -------
    Estimator

    References
    ----------
    Hu et al., "REINFORCE++" (2025), the variant for several answers a prompt.

    Examples
    --------
    >>> reinforce_plus_plus_baseline().advantage.over_batch
    True
    """
    return Estimator(
        GroupStandardised(ddof=0, eps=eps, over_batch=True),
        ratio=ClippedRatio(epsilon, epsilon),
        penalty=_kl(reference, beta, "k2", "loss"),
        normaliser=PerToken(),
    )


def grpo(*, reference=None, beta=0.0, epsilon=0.2, ddof=0, eps=0.0):
    """GRPO: the group's mean and deviation, the ratio clipped, the mean over each answer, k3 in the loss.

    Estimates no named objective exactly. *Biased* by the deviation, by the
    lengths and by the penalty.

    Parameters
    ----------
    reference : array (D,) or (S, A), optional
        Reference policy of the KL.
    beta : float
        Weight of the KL.
    epsilon : float
        Clip range of the ratio.
    ddof : int
        0 or 1, of the standard deviation; libraries differ.
    eps : float
        Added to the standard deviation; libraries add 1e-4 to 1e-8.

    Returns
    -------
    Estimator

    References
    ----------
    Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in
    Open Language Models" (2024), equations (3) and (4) and section 4.1.2.

    Examples
    --------
    >>> grpo().normaliser
    PerLength()
    """
    return Estimator(
        GroupStandardised(ddof=ddof, eps=eps),
        ratio=ClippedRatio(epsilon, epsilon),
        penalty=_kl(reference, beta, "k3", "loss"),
        normaliser=PerLength(),
    )


def dr_grpo(*, c=1.0, epsilon=0.2):
    """Dr. GRPO: GRPO without the deviation and without the lengths.

    *Proportional* to ∇J on-policy with factor (N−1)/(N·c) for groups of N:
    it is RLOO, scaled.

    Parameters
    ----------
    c : float
        Constant divisor, such as the longest possible answer.
    epsilon : float
        Clip range of the ratio.

    Returns
    -------
    Estimator

    References
    ----------
    Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective"
    (2025), section 3.2, listing 1 and appendix A.

    Examples
    --------
    >>> dr_grpo(c=8).normaliser
    Constant(c=8.0)
    """
    return Estimator(GroupMean(), ratio=ClippedRatio(epsilon, epsilon), normaliser=Constant(c))


def dapo(*, lower=0.2, upper=0.28, ddof=0, eps=0.0):
    """DAPO: GRPO with a higher upper clip, the mean over all tokens of the batch, and no KL.

    Estimates no named objective exactly. *Biased*. (Its dynamic sampling,
    which redraws groups of equal reward, is a choice of data, not of weights.)

    Parameters
    ----------
    lower, upper : float
        Clip ranges of the ratio.
    ddof, eps
        As in `grpo`.

    Returns
    -------
    Estimator

    References
    ----------
    Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at
    Scale" (2025), equations (8) to (10).

    Examples
    --------
    >>> dapo().ratio
    ClippedRatio(lower=0.2, upper=0.28, dual=None)
    """
    return Estimator(GroupStandardised(ddof=ddof, eps=eps), ratio=ClippedRatio(lower, upper), normaliser=PerToken())


def gspo(*, lower=3e-4, upper=4e-4, ddof=0, eps=0.0):
    """GSPO: GRPO with one clipped ratio per sequence, the geometric mean of the token ratios.

    Estimates no named objective exactly. *Biased* by the deviation and by
    the lengths, on-policy too.

    Parameters
    ----------
    lower, upper : float
        Clip ranges of the sequence ratio.
    ddof, eps
        As in `grpo`.

    Returns
    -------
    Estimator

    References
    ----------
    Zheng et al., "Group Sequence Policy Optimization" (2025), equations (5), (6), (7) and (10).

    Examples
    --------
    >>> gspo().ratio
    GeometricMeanRatio(lower=0.0003, upper=0.0004)
    """
    return Estimator(GroupStandardised(ddof=ddof, eps=eps), ratio=GeometricMeanRatio(lower, upper))


def _kl(reference, beta, kind, place):
    """Return the KL penalty, or none without a reference."""
    if reference is None:
        if beta:
            raise ValueError(f"beta={beta!r} needs a reference policy; pass reference=")
        return None
    return KLPenalty(reference, beta, kind=kind, place=place)
