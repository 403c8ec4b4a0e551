"""From words on the command line to an environment that can only be stepped, and a policy on its observations."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.command_line import models
from reinforce_np.environments import EnvironmentSource
from reinforce_np.policies import FeatureSoftmax, GaussianPolicy, NeuralSoftmax, features

POLICIES = ("linear", "neural", "gaussian")
HIDDEN = 32
LANES = 16
CRITIC_ORDER = 2

# What is scaled to [-1, 1] where the environment itself names no bounds: where its episodes are.
BOUNDS = {"CartPole-v1": ([-2.4, -3.0, -0.21, -3.0], [2.4, 3.0, 0.21, 3.0])}


@dataclass(frozen=True, eq=False)
class BlackBox:
    """An environment as a source, and how it was chosen."""

    name: str
    source: EnvironmentSource
    theta: Any
    policy_name: str
    critic_features: Any
    remarks: tuple


def black_box(options, group_size):
    """Build the source that the options name.

    Parameters
    ----------
    options : argparse.Namespace
        With ``env``.
    group_size : int
        Episodes that begin alike.

    Returns
    -------
    BlackBox
    """
    for name, neutral in (("horizon", "own"), ("mdp", None)):
        if getattr(options, name) != neutral:
            other = (
                "--mdp names a model, --env a black box; pass one" if name == "mdp" else "use --max-steps with --env"
            )
            raise ValueError(f"--{name} {getattr(options, name)}: {other}")
    observed, acting = _spaces(options.env)
    low, high = _bounds(options, observed)
    discrete = hasattr(acting, "n") and not acting.shape  # MultiBinary has an n too
    if not discrete and not hasattr(acting, "low"):
        raise ValueError(
            f"--env {options.env}: its actions are {acting}, neither Discrete nor a Box; wrap it, and pass a function that "
            "makes it to EnvironmentSource in Python"
        )
    name = options.policy or ("linear" if discrete else "gaussian")
    if name not in POLICIES:
        raise ValueError(f"--policy {name}: a black box has no table of states; use --policy {' or '.join(POLICIES)}")
    if (name == "gaussian") == discrete:
        right = "gaussian" if name != "gaussian" else "linear or neural"
        raise ValueError(f"--policy {name}: the actions of {options.env} are {acting}; use --policy {right}")
    if options.hidden is not None and name != "neural":
        raise ValueError(f"--hidden {options.hidden} is not read by --policy {name}; use --policy neural")
    basis = _features(options.features or ("scaled" if name == "neural" else "polynomial:1"), low, high)
    hidden = HIDDEN if options.hidden is None else options.hidden
    policy: Any
    if name == "linear":
        policy = FeatureSoftmax(basis, int(acting.n))
    elif name == "neural":
        policy = NeuralSoftmax(basis, int(acting.n), hidden)
    else:
        bounds = {"low": np.ravel(acting.low), "high": np.ravel(acting.high)}
        if not np.isfinite(list(bounds.values())).all():
            bounds = {}  # there is nothing to squash into; the environment's bounds clip, where it has some
        if bounds and options.entropy:
            raise ValueError(
                f"--entropy {options.entropy:g}: the entropy of actions squashed into the bounds of {options.env} has no closed "
                "form; leave it out"
            )
        policy = GaussianPolicy(basis, int(np.prod(acting.shape)), **bounds)
    gamma = models.DEFAULT_GAMMA if options.gamma is None else options.gamma
    remarks = () if options.gamma is not None else (f"gamma {gamma}: environments name none (choose with --gamma)",)
    source = EnvironmentSource(
        options.env,
        policy,
        gamma=gamma,
        lanes=options.lanes or LANES,
        max_steps=options.max_steps,
        group_size=group_size,
    )
    theta = None if options.theta is None else _theta(options, policy)
    critic = features.Polynomial(low, high, order=CRITIC_ORDER, total=CRITIC_ORDER)
    spec = options.features or ("observations" if name == "neural" else "polynomial:1")
    words = f"{name} policy on {spec}" + (f", {hidden} hidden units" if name == "neural" else "")
    return BlackBox(options.env, source, theta, words, critic, remarks)


def _spaces(env_id):
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            f"--env needs gymnasium ({error}); pip install 'reinforce-np[gymnasium]', or '.[gymnasium]'"
        ) from None
    try:
        env = gymnasium.make(env_id)
    except gymnasium.error.Error as error:
        raise ValueError(f"--env {env_id}: {error}") from None
    observed, acting, has_table = env.observation_space, env.action_space, hasattr(env.unwrapped, "P")
    env.close()
    if getattr(observed, "shape", None) is None or not hasattr(observed, "low"):
        remedy = "wrap it, and pass a function that makes it to EnvironmentSource in Python"
        if has_table:
            remedy = f"it has a table of its dynamics: pass --mdp gymnasium:{env_id}"
        raise ValueError(f"--env {env_id}: its observations are {observed}, not a Box; {remedy}")
    return observed, acting


def _bounds(options, observed):
    """Return what is scaled to [−1, 1]."""
    if options.bounds is not None:
        try:
            pairs = np.array([[float(x) for x in word.split(":")] for word in options.bounds.split(",")])
        except ValueError:
            pairs = np.zeros(0)
        if pairs.shape != (observed.low.size, 2) or not np.all(pairs[:, 0] < pairs[:, 1]):
            raise ValueError(
                f"--bounds {options.bounds}: pass LOW:HIGH for each of the {observed.low.size} observed numbers, separated by commas"
            )
        return pairs.T
    if options.env in BOUNDS:
        return BOUNDS[options.env]
    if not (np.isfinite(observed.low).all() and np.isfinite(observed.high).all()):
        raise ValueError(
            f"--env {options.env} names no bounds of its observations; pass --bounds LOW:HIGH,LOW:HIGH,..."
        )
    return np.ravel(observed.low).astype(float), np.ravel(observed.high).astype(float)


def _features(spec, low, high):
    kind, _, number = spec.partition(":")
    if kind == "scaled" and not number:
        return features.Scaled(low, high)
    if re.fullmatch("[0-9]{1,3}", number) and 0 < int(number) <= 100:
        n = int(number)
        if kind == "polynomial":
            return features.Polynomial(low, high, order=n, total=n)
        if kind == "fourier":
            return features.Fourier(low, high, order=n)
        if kind == "tiles":
            return features.Tiles(low, high, tiles=np.full(len(low), n), tilings=8)
    raise ValueError(
        f"--features {spec}: for --env pass scaled, polynomial:ORDER, fourier:ORDER or tiles:PER_DIMENSION"
    )


def _theta(options, policy):
    if options.theta == "zeros":
        return np.zeros(policy.n_parameters)
    theta = models.array("--theta", options.theta) if options.theta.lower().endswith((".npy", ".json")) else None
    if theta is None:
        raise ValueError(f"--theta {options.theta}: with --env pass zeros, file.npy or file.json")
    arguments.check_shape(f"--theta {options.theta}", theta, shape=(policy.n_parameters,))
    return theta
