"""Transition tables of other libraries, turned into outcome form.

Two sources: dense arrays, as in pymdptoolbox and most textbooks, and the
tables ``P[s][a]`` of Gymnasium's toy-text environments. Both give the fields
of `reinforce_np.mdp.FiniteMDP` as a dict of arrays; letters for the axes are
S states, A actions and K outcomes.
"""

from reinforce_np.tables.dense import from_dense
from reinforce_np.tables.toy_text import from_gymnasium

__all__ = ["from_dense", "from_gymnasium"]
