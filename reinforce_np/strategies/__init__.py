"""Hypothesis strategies: models, policies, parameters, batches and whole problems to judge an estimator on.

Everything drawn is small enough to be listed, has dyadic probabilities and
small whole rewards, and shrinks towards one state, two actions, one step and a
uniform policy. The features that expose mistakes (`reinforce_np.traits`) are
there in many draws, and in all of them where they are forced.

    from hypothesis import given, settings
    from reinforce_np import judge
    from reinforce_np.strategies import problems

    @settings(deadline=None)
    @given(problems())
    def test_my_estimator(problem):
        assert judge(mine, problem).kind == "unbiased"

A falsifying example is printed as code that can be pasted into a test.
Hypothesis' phase ``explain`` traces every line, which makes a failing test slow;
``settings(phases=...)`` without it does not.
Importing this package registers the strategies for the types they generate, as
``import hypothesis`` does by itself where reinforce_np is installed.
"""

try:
    import hypothesis  # noqa: F401 - the reason comes first, in one sentence
except ImportError as error:
    raise ImportError("strategies need Hypothesis; pip install 'reinforce_np[test]'") from error

from reinforce_np.strategies import registration
from reinforce_np.strategies.models import finite_mdps
from reinforce_np.strategies.parts import behaviours, critics, policies, thetas
from reinforce_np.strategies.problems import problems, trajectories
from reinforce_np.traits import (
    BOOTSTRAPPED,
    CHANCE,
    EPISODES,
    GROUPS,
    OFF_POLICY,
    PENALISED,
    PROMPTS,
    Features,
)

__all__ = [
    "BOOTSTRAPPED",
    "CHANCE",
    "EPISODES",
    "GROUPS",
    "OFF_POLICY",
    "PENALISED",
    "PROMPTS",
    "Features",
    "behaviours",
    "critics",
    "finite_mdps",
    "policies",
    "problems",
    "thetas",
    "trajectories",
]

registration.register()
