"""The exact referee of policy-gradient estimators, in pure NumPy.

    ĝ = Σₙ Σₜ  w[n,t] · ∇log π(a[n,t] | s[n,t])

An estimator is a choice of weight w on the score. Give this package a finite
MDP, a softmax policy and its parameters, and it computes the gradient of the
expected return exactly, by independent routes, and tells whether an estimator
agrees with it.

Data flows down this list, imports never up:

    parallel, products            jobs on any executor, in order; products of matrices on one thread
    graph, neighbours, tables, files, mdp   the model, as data
    examples                      small models whose answers are known on paper
    policies                      softmax policies with hand-written scores
    trajectories                  the record every estimator reads
    sampling, enumeration         draw N of them; list all of them
    environments                  draw them from a black box
    problem                       a model with policy, parameters and batch: what is judged on
    estimators                    choices of the weight on the score
    streaming                     their gradient, from trajectories that are not kept
    exact                         J, V, Q, gradient, Hessian, moments
    checks                        differences, agreement, Monte Carlo confirmation
    traits, strategies            what exposes mistakes; problems that have it, drawn by Hypothesis
    referee                       losses as estimators, assertions, a panel of problems, a catalogue
    sweeps                        tables of exact bias and variance
    training                      optimisers, critics, the loop, checkpoints
    plots                         draw them, with matplotlib
    command_line                  python -m reinforce_np
"""

import importlib.util as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:  # read by type checkers, and by `_homes`: nothing is imported before it is asked for
    from reinforce_np import exact, examples, plots, referee, sweeps, training
    from reinforce_np.arguments import FileFormatError, TooLargeError
    from reinforce_np.checks.confirmation import confirm, smallest_detectable_bias, trajectories_needed
    from reinforce_np.checks.differences import check_gradient, complex_step, finite_difference, taylor_test
    from reinforce_np.checks.routes import compare_routes
    from reinforce_np.checks.streams import confirm_stream
    from reinforce_np.enumeration import count_trajectories, enumerate_trajectories
    from reinforce_np.environments import Draw, EnvironmentSource, ModelSource, RolloutSource, Steps, Truncated
    from reinforce_np.estimators import *  # noqa: F403 - the slots, listed in estimators.__all__
    from reinforce_np.estimators import __all__ as _slots
    from reinforce_np.exact import (
        Discounted,
        EntropyRegularised,
        KLRegularised,
        Undiscounted,
        judge,
        moments,
        moments_by_enumeration,
        moments_by_histogram,
        moments_by_recursion,
    )
    from reinforce_np.examples import random_mdp
    from reinforce_np.mdp import FiniteMDP
    from reinforce_np.policies import (
        FeatureSoftmax,
        GaussianPolicy,
        LinearSoftmax,
        NeuralSoftmax,
        TabularSoftmax,
        features,
    )
    from reinforce_np.problem import Problem
    from reinforce_np.referee import (
        Convicted,
        assert_gradient,
        assert_proportional,
        assert_unbiased,
        assert_variance_at_most,
        confirm_on_panel,
        find_counterexample,
        jax_loss,
        judge_on_panel,
        numpy_loss,
        torch_loss,
        worst_problem,
    )
    from reinforce_np.sampling import sample, sample_blocks
    from reinforce_np.streaming import StreamedGradient, stream_gradient
    from reinforce_np.training import optimisers, train
    from reinforce_np.trajectories import Trajectories, concatenate

    __all__ = [  # noqa: PLE0604 - names from two lists
        *_slots,  # type: ignore[has-type]
        "Convicted",
        "Discounted",
        "Draw",
        "EntropyRegularised",
        "EnvironmentSource",
        "FeatureSoftmax",
        "FileFormatError",
        "FiniteMDP",
        "GaussianPolicy",
        "KLRegularised",
        "LinearSoftmax",
        "ModelSource",
        "NeuralSoftmax",
        "Problem",
        "RolloutSource",
        "Steps",
        "StreamedGradient",
        "TabularSoftmax",
        "TooLargeError",
        "Trajectories",
        "Truncated",
        "Undiscounted",
        "assert_gradient",
        "assert_proportional",
        "assert_unbiased",
        "assert_variance_at_most",
        "check_gradient",
        "compare_routes",
        "complex_step",
        "concatenate",
        "confirm",
        "confirm_on_panel",
        "confirm_stream",
        "count_trajectories",
        "enumerate_trajectories",
        "exact",
        "examples",
        "features",
        "find_counterexample",
        "finite_difference",
        "jax_loss",
        "judge",
        "judge_on_panel",
        "moments",
        "moments_by_enumeration",
        "moments_by_histogram",
        "moments_by_recursion",
        "numpy_loss",
        "optimisers",
        "plots",
        "random_mdp",
        "referee",
        "sample",
        "sample_blocks",
        "smallest_detectable_bias",
        "stream_gradient",
        "sweeps",
        "taylor_test",
        "torch_loss",
        "train",
        "training",
        "trajectories_needed",
        "worst_problem",
    ]


def __getattr__(name):
    """Import a public name, or a module of the package, when it is first asked for (PEP 562)."""
    if name == "__all__":
        value = sorted(_homes())
    elif name.startswith("_"):
        raise AttributeError(f"module 'reinforce_np' has no attribute {name!r}")
    elif _importlib.find_spec(f"reinforce_np.{name}"):
        value = _import(f"reinforce_np.{name}")
    elif name in _homes():
        home = _homes()[name]
        value = getattr(_import(home), name, None) or _import(f"{home}.{name}")
    else:
        raise AttributeError(f"module 'reinforce_np' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__getattr__("__all__")})


def _import(module):
    import importlib

    return importlib.import_module(module)


def _homes(found={}):  # noqa: B006 - read once, then remembered
    """Return the module that each public name is imported from, as the imports above say."""
    if not found:
        import ast

        for node in ast.walk(ast.parse(__spec__.loader.get_source(__name__))):  # type: ignore[union-attr]
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("reinforce_np"):
                for alias in node.names:
                    if alias.name == "*":
                        found |= dict.fromkeys(_import(node.module).__all__, node.module)
                    elif alias.asname is None:
                        found[alias.name] = node.module
    return found
