"""From words on the command line to a model, a policy and its parameters."""

import argparse
import difflib
import json
import os
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, graph
from reinforce_np.examples import CATALOGUE, action_features, baxter_bartlett_features
from reinforce_np.mdp import FiniteMDP
from reinforce_np.policies import LinearSoftmax, TabularSoftmax

GYMNASIUM = "gymnasium:"
DEFAULT_GAMMA = 0.99  # where the model names none
DEFAULT_HORIZON = 100
RANDOM_FEATURES = 4
OWN_FEATURES = {"short_corridor": lambda: action_features(4, 2), "baxter_bartlett": baxter_bartlett_features}
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
        "--mdp", default="referee", metavar="MODEL",
        help="a name from `reinforce-np examples`, a file.npz or file.json, or gymnasium:ENV_ID (default: referee)",
    )  # fmt: skip
    group.add_argument("--policy", choices=("tabular", "linear"), default="tabular", help="default: tabular")
    group.add_argument(
        "--features", metavar="FEATURES",
        help="for --policy linear: file.npy of shape (states, actions, parameters), random:D, or indicator "
        f"(default: the model's own, or random:{RANDOM_FEATURES})",
    )  # fmt: skip
    group.add_argument(
        "--theta", default="random", metavar="THETA",
        help="zeros, random (standard normal, from --seed), or a file: .npy, or .json with a list (default: random)",
    )  # fmt: skip
    group.add_argument(
        "--gamma", type=real, help=f"discount in [0, 1] (default: the model's own, {DEFAULT_GAMMA} for Gymnasium)"
    )
    group.add_argument(
        "--horizon", type=steps_or_none, default="own", metavar="STEPS",
        help="steps before truncation, or none (default: the model's own, or its time limit)",
    )  # fmt: skip
    group.add_argument("--seed", type=whole, default=0, help="of random theta, features and trajectories (default: 0)")


def problem(options):
    """Build the problem that the options name.

    Parameters
    ----------
    options : argparse.Namespace
        With the options of `add_options`.

    Returns
    -------
    Problem
    """
    mdp, remarks = _model(options)
    rng = np.random.default_rng([options.seed, 0])  # its own stream: not the one that draws trajectories
    policy, policy_name = _policy(options, mdp, rng)
    theta = _theta(options, policy, rng)
    theta_name = f"random (seed {options.seed})" if options.theta == "random" else options.theta
    return Problem(options.mdp, mdp, policy, theta, policy_name, theta_name, remarks)


def _model(options):
    name, remarks = options.mdp, []
    if name.startswith(GYMNASIUM):
        mdp, limited = _from_gymnasium(name.removeprefix(GYMNASIUM))
        if options.gamma is None:
            remarks.append(f"gamma {DEFAULT_GAMMA}: Gymnasium's tables name none (choose with --gamma)")
        if options.horizon == "own" and not limited:
            remarks.append(f"horizon {DEFAULT_HORIZON}: the environment has no time limit (choose with --horizon)")
    elif name.endswith((".npz", ".json")):
        mdp = FiniteMDP.load(name)
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


def _policy(options, mdp, rng):
    if options.policy == "tabular":
        if options.features is not None:
            raise ValueError(f"--features {options.features} needs --policy linear")
        return TabularSoftmax(mdp.n_states, mdp.n_actions), "tabular softmax"
    own = OWN_FEATURES.get(options.mdp.replace("-", "_"))
    spec = options.features or ("own" if own else f"random:{RANDOM_FEATURES}")
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
        features = rng.normal(size=(*shape, n_features))
    elif spec.endswith(".npy"):
        features = array("--features", spec)
        arguments.check_shape(f"--features {spec}", features, shape=(*shape, None))
    else:
        raise ValueError(f"--features {spec}: pass file.npy, random:D or indicator")
    return LinearSoftmax(features), f"linear softmax, features {spec}"


def _theta(options, policy, rng):
    spec = options.theta
    if spec == "zeros":
        return np.zeros(policy.n_parameters)
    if spec == "random":
        return rng.normal(size=policy.n_parameters)
    if spec.endswith((".npy", ".json")):
        return arguments.real_array(f"--theta {spec}", array("--theta", spec), shape=(policy.n_parameters,))
    raise ValueError(f"--theta {spec}: pass zeros, random, file.npy or file.json")


def array(option, path):
    """Read an array of numbers from a ``.npy`` or ``.json`` file, whatever the file holds."""
    if os.path.getsize(path) > LARGEST_FILE:
        raise arguments.TooLargeError(f"{option} {path} is larger than {LARGEST_FILE >> 20} MiB")
    try:
        if path.endswith(".json"):
            with open(path, encoding="utf-8") as file:
                return arguments.real_array(f"{option} {path}", json.load(file))
        return arguments.real_array(f"{option} {path}", np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError:
        raise
    except (ValueError, TypeError, EOFError, MemoryError, OverflowError, RecursionError) as error:
        raise arguments.FileFormatError(f"{option} {path} holds no array of numbers: {error}") from None


def whole(text):
    """Parse a whole number >= 0."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
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
