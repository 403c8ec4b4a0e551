"""From words on the command line to a model, a policy and its parameters."""

import argparse
import contextlib
import difflib
import json
import os
import re
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, graph
from reinforce_np.examples import CATALOGUE, action_features, baxter_bartlett_features
from reinforce_np.mdp import FiniteMDP
from reinforce_np.policies import LinearSoftmax, TabularSoftmax

GYMNASIUM = "gymnasium:"
DEFAULT_GAMMA = 0.99  # where the model names none
DEFAULT_HORIZON = 100
DEFAULT_MDP = "referee"
SHORT_HORIZON = 3  # of that model, whose batches can then be listed
RANDOM_FEATURES = 4
OWN_FEATURES = {"short_corridor": lambda: action_features(4, 2), "baxter_bartlett": baxter_bartlett_features}
MOST_STEPS = 100_000  # of --horizon: seconds for the gradient, minutes for all that `check` computes
MOST_FEATURES = 2**26
LARGEST_FILE = 2**30  # bytes of a features or theta file


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, a policy and its parameters, and how they were chosen."""

    name: str
    mdp: FiniteMDP
    policy: TabularSoftmax | LinearSoftmax
    theta: np.ndarray
    policy_name: str
    theta_name: str
    remarks: tuple


def add_options(parser):
    """Add the options that choose a problem."""
    group = parser.add_argument_group("the problem")
    group.add_argument(
        "--mdp", default=DEFAULT_MDP, metavar="MODEL",
        help=f"a name from `reinforce-np examples`, a file.npz or file.json, or gymnasium:ENV_ID (default: {DEFAULT_MDP})",
    )  # fmt: skip
    group.add_argument("--policy", choices=("tabular", "linear"), default="tabular", help="default: tabular")
    group.add_argument(
        "--features", metavar="FEATURES",
        help="for --policy linear: file.npy of shape (states, actions, parameters), random:D, or indicator "
        f"(default: the model's own, or random:{RANDOM_FEATURES})",
    )  # fmt: skip
    group.add_argument(
        "--theta", default="random", metavar="THETA",
        help="zeros, random or random:SEED (standard normal), or a file: .npy, or .json with a list (default: random)",
    )  # fmt: skip
    group.add_argument(
        "--gamma", type=real, help=f"discount in [0, 1] (default: the model's own, {DEFAULT_GAMMA} for Gymnasium)"
    )
    group.add_argument(
        "--horizon", type=steps_or_none, default="own", metavar="STEPS",
        help="steps before truncation, or none (default: the model's own, or its time limit)",
    )  # fmt: skip
    group.add_argument("--seed", type=whole, default=0, help="of the trajectories that are drawn (default: 0)")


def problem(options, *, short=False):
    """Build the problem that the options name.

    Parameters
    ----------
    options : argparse.Namespace
        With the options of `add_options`.
    short : bool
        Whether the embedded model is cut to few steps, so that all batches can be listed at once.

    Returns
    -------
    Problem
    """
    cut = short and options.mdp == DEFAULT_MDP and options.horizon == "own"
    options.horizon = SHORT_HORIZON if cut else options.horizon
    mdp, remarks = _model(options)
    if cut:
        remarks += (f"horizon {SHORT_HORIZON}, so that all batches are listed at once (choose with --horizon)",)
    policy, policy_name = _policy(options, mdp)
    return Problem(options.mdp, mdp, policy, theta_of(options, policy), policy_name, options.theta, remarks)


def listable(refusal):
    """Return a refusal to list what is too much with a remedy of the command's, where it names functions of the library."""
    said, use, _ = str(refusal).partition(": use exact.")
    return said + "; a shorter --horizon can be listed" if use else said.removesuffix("; or `confirm` it by sampling")


def require_horizon(problem, what):
    """Refuse a model without a horizon, for `what` needs one."""
    if problem.mdp.horizon is None:
        raise ValueError(f"--mdp {problem.name}: this model has no horizon, and {what} needs one; pass --horizon STEPS")


@contextlib.contextmanager
def told_of_the_horizon(problem):
    """Say it in words of a command where a model is too large because it has no horizon; one that surely ends soon needs none."""
    try:
        yield
    except arguments.TooLargeError as error:
        if problem.mdp.horizon is not None:
            raise
        raise ValueError(
            f"--mdp {problem.name}: this model has no horizon, and what lists its trajectories needs one; pass --horizon STEPS"
        ) from error


def _model(options):
    name, remarks = options.mdp, []
    if name.startswith(GYMNASIUM):
        mdp, limited = _from_gymnasium(name.removeprefix(GYMNASIUM))
        if options.gamma is None:
            remarks.append(f"gamma {DEFAULT_GAMMA}: Gymnasium's tables name none (choose with --gamma)")
        if options.horizon == "own" and not limited:
            remarks.append(f"horizon {DEFAULT_HORIZON}: the environment has no time limit (choose with --horizon)")
    elif name.lower().endswith((".npz", ".json")):
        try:
            mdp = FiniteMDP.load(name)
        except OSError as error:
            raise ValueError(f"--mdp {name} cannot be read: {error.strerror or error}") from None
    elif name.replace("-", "_") in CATALOGUE:
        mdp = CATALOGUE[name.replace("-", "_")]()
    else:
        near = difflib.get_close_matches(name, CATALOGUE, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `reinforce-np examples`"
        raise ValueError(f"--mdp {name}: no such example, and neither file.npz, file.json nor gymnasium:ENV_ID; {hint}")
    everything = graph.possible_outcomes(mdp, np.ones(mdp.probability.shape[:2]))
    if mdp.horizon is None and options.horizon == "own" and not graph.surely_ends(mdp, everything).all():
        mdp = mdp.replace(horizon=DEFAULT_HORIZON)
        remarks.append(f"horizon {DEFAULT_HORIZON}: this model's episodes need not end (choose with --horizon)")
    changes = {}
    if options.gamma is not None:
        changes["gamma"] = options.gamma
    if options.horizon != "own":
        if options.horizon is not None and options.horizon > MOST_STEPS:
            raise arguments.TooLargeError(
                f"--horizon {options.horizon} is above the limit of {MOST_STEPS} steps; pass a smaller one, or none"
            )
        changes["horizon"] = options.horizon
    return mdp.replace(**changes), tuple(remarks)


def _from_gymnasium(env_id):
    if not env_id:
        raise ValueError(f"--mdp {GYMNASIUM}: name an environment, such as {GYMNASIUM}FrozenLake-v1")
    try:
        return FiniteMDP.from_gymnasium(env_id, gamma=DEFAULT_GAMMA, horizon="time limit"), True
    except ValueError as error:
        if "time limit" not in str(error):
            raise
        return FiniteMDP.from_gymnasium(env_id, gamma=DEFAULT_GAMMA, horizon=DEFAULT_HORIZON), False


def _policy(options, mdp):
    if options.policy == "tabular":
        if options.features is not None:
            raise ValueError(f"--features {options.features} needs --policy linear")
        return TabularSoftmax(mdp.n_states, mdp.n_actions), "tabular softmax"
    own = OWN_FEATURES.get(options.mdp.replace("-", "_"))
    spec = options.features if options.features is not None else ("own" if own else f"random:{RANDOM_FEATURES}")
    shape = mdp.probability.shape[:2]
    if spec == "own" and own:
        features, spec = own(), "the model's own features"
    elif spec == "indicator":
        features = np.eye(shape[0] * shape[1]).reshape(*shape, -1)
    elif spec.startswith("random:"):
        try:
            n_features = whole(spec.removeprefix("random:"))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--features {spec}: {error}") from None
        if not n_features:
            raise ValueError(f"--features {spec}: there must be at least one feature")
        if shape[0] * shape[1] * n_features > MOST_FEATURES:
            raise arguments.TooLargeError(
                f"--features {spec}: {shape[0]} x {shape[1]} x {n_features} numbers are above the limit of {MOST_FEATURES}"
            )
        features = np.random.default_rng(0).normal(size=(*shape, n_features))
    elif spec.endswith(".npy"):
        features = array("--features", spec)
        arguments.check_shape(f"--features {spec}", features, shape=(*shape, None))
    else:
        raise ValueError(f"--features {spec}: pass file.npy, random:D or indicator")
    return LinearSoftmax(features), f"linear softmax, features {spec}"


def theta_of(options, policy):
    """Return the parameters that the options name."""
    spec = options.theta
    if spec == "zeros":
        return np.zeros(policy.n_parameters)
    if spec == "random" or spec.startswith("random:"):
        try:
            seed = whole(spec.removeprefix("random").removeprefix(":") or "0")
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--theta {spec}: {error}") from None
        return np.random.default_rng(seed).normal(size=policy.n_parameters)
    if spec.lower().endswith((".npy", ".json")):
        theta = array("--theta", spec, minus_infinity=policy.allows_minus_infinity)
        arguments.check_shape(f"--theta {spec}", theta, shape=(policy.n_parameters,))
        return theta
    raise ValueError(f"--theta {spec}: pass zeros, random, random:SEED, file.npy or file.json")


def array(option, path, *, minus_infinity=False):
    """Read an array of numbers from a ``.npy`` or ``.json`` file, whatever the file holds."""
    try:
        if os.path.getsize(path) > LARGEST_FILE:
            raise arguments.TooLargeError(f"{option} {path} is larger than {LARGEST_FILE >> 20} MiB")
        if path.lower().endswith(".json"):
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
        else:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be read: {error.strerror or error}") from None
    except arguments.TooLargeError:
        raise
    except (ValueError, TypeError, EOFError, MemoryError, OverflowError, RecursionError) as error:
        raise arguments.FileFormatError(f"{option} {path} holds no array of numbers: {error}") from None
    return arguments.real_array(f"{option} {path}", values, minus_infinity=minus_infinity)


def parameters(theta):
    """Return parameters as JSON holds them: −inf, which masks an action, as null."""
    return [None if np.isinf(x) else x for x in theta.tolist()]


def whole(text):
    """Parse a whole number >= 0."""
    if not re.fullmatch("[+-]?[0-9]{1,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative; pass a whole number >= 0")
    return value


def real(text):
    """Parse a finite real number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not np.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not finite")
    return value


def steps_or_none(text):
    """Parse a number of steps, or the word none."""
    return None if text.lower() == "none" else "own" if text == "own" else whole(text)
