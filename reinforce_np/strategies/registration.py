"""What Hypothesis knows of this package's types: how to make them, and how to print them."""

from hypothesis import strategies as st

from reinforce_np.mdp import FiniteMDP
from reinforce_np.policies import LinearSoftmax, TabularSoftmax
from reinforce_np.problem import Problem, code, is_small
from reinforce_np.strategies.models import finite_mdps
from reinforce_np.strategies.parts import policies
from reinforce_np.strategies.problems import problems, trajectories
from reinforce_np.trajectories import Trajectories

WIDTH = 100  # columns of what is printed
PROTOCOL = "_repr_pretty_"  # of IPython, which Hypothesis follows


def register():
    """Register the strategies of all types, and print examples as code."""
    st.register_type_strategy(FiniteMDP, lambda _: finite_mdps())
    st.register_type_strategy(TabularSoftmax, lambda _: policies())
    st.register_type_strategy(LinearSoftmax, lambda _: policies(linear=True))
    st.register_type_strategy(Problem, lambda _: problems())
    st.register_type_strategy(Trajectories, lambda _: trajectories())
    for type_ in (FiniteMDP, TabularSoftmax, LinearSoftmax, Problem, Trajectories):
        setattr(type_, PROTOCOL, _print_code)


def _print_code(record, printer, cycle=False):
    """Print a record as the code that makes it; large ones in short."""
    printed = code(record, width=WIDTH) if is_small(record) else repr(record)
    for i, line in enumerate(printed.split("\n")):
        if i:
            printer.break_()
        printer.text(line)
