"""Small MDPs whose answers are known on paper.

Every function returns a `FiniteMDP`; its docstring tells the story, the
source and the known answer, and ``tests/test_examples.py`` asserts it.
`CATALOGUE` names those that can be called without arguments.
"""

from reinforce_np.examples.bandits import bandit
from reinforce_np.examples.chains import delayed_chain, river_swim
from reinforce_np.examples.checking import random_mdp, referee
from reinforce_np.examples.corridors import action_features, short_corridor
from reinforce_np.examples.gridworlds import LAKES, cliff, frozen_lake, gridworld_4x4, gridworld_5x5
from reinforce_np.examples.language import copy_task, token_sequence_states, token_sequences
from reinforce_np.examples.threestate import aima_three_state, baxter_bartlett, baxter_bartlett_features
from reinforce_np.examples.twostate import kakade_two_state, recycling_robot
from reinforce_np.examples.walks import random_walk

CATALOGUE = {
    function.__name__: function
    for function in (
        aima_three_state,
        bandit,
        baxter_bartlett,
        cliff,
        copy_task,
        delayed_chain,
        frozen_lake,
        gridworld_4x4,
        gridworld_5x5,
        kakade_two_state,
        random_walk,
        recycling_robot,
        referee,
        river_swim,
        short_corridor,
    )
}

__all__ = [
    "CATALOGUE",
    "LAKES",
    "action_features",
    "aima_three_state",
    "bandit",
    "baxter_bartlett",
    "baxter_bartlett_features",
    "cliff",
    "copy_task",
    "delayed_chain",
    "frozen_lake",
    "gridworld_4x4",
    "gridworld_5x5",
    "kakade_two_state",
    "random_mdp",
    "random_walk",
    "recycling_robot",
    "referee",
    "river_swim",
    "short_corridor",
    "token_sequence_states",
    "token_sequences",
]
