"""The named algorithms, spelled as fillings of the slots of one formula."""

from reinforce_np.estimators.advantages import RewardToGo, TotalReturn
from reinforce_np.estimators.estimator import Estimator


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
    return Estimator(RewardToGo() if reward_to_go else TotalReturn())


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
