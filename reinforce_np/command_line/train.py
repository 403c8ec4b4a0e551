"""``train``: sample, score, update, repeat, with the exact answer beside it where the model is finite."""

import argparse
import json
import os
import sys
from typing import Any

import numpy as np

from reinforce_np import exact, plots
from reinforce_np.command_line import black_boxes, models, recipes
from reinforce_np.command_line.progress import Progress
from reinforce_np.command_line.workers import add_option, positive, workers
from reinforce_np.environments import ModelSource
from reinforce_np.files.disk import replacing
from reinforce_np.training import Checkpoint, Evaluation, exact_path, train
from reinforce_np.training.checkpoints import SECONDS

DEFAULT_MDP = "frozen_lake"
EPISODES = 20_000
ROWS = 10  # of the table
POINTS = 100  # exact evaluations of a run, about
TEST_EPISODES = 20  # of a black box
SUFFIXES = (".npz", ".csv", ".json")


def add_to(commands):
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="train a policy: sample, score, update, repeat",
        description="Train a policy on a finite model, where the exact J is computed beside the noisy returns, or on an environment "
        "that can only be stepped. The same seed gives the same bits, also when the run is stopped and resumed, and for any number of workers.",
        epilog="algorithms: " + "; ".join(f"{name}: {recipe.about}" for name, recipe in recipes.ALGORITHMS.items()),
        conflict_handler="resolve",
    )  # fmt: skip
    add_problem(parser)
    add_training(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def add_problem(parser):
    """Add the options that choose a problem, a model or a black box."""
    models.add_options(parser)
    group = parser.add_argument_group("the problem, continued")
    group.add_argument(
        "--mdp", metavar="MODEL",
        help=f"a name from `reinforce-np examples`, a file.npz or file.json, or gymnasium:ENV_ID (default: {DEFAULT_MDP})",
    )  # fmt: skip
    group.add_argument(
        "--env", metavar="ENV_ID", help="instead of --mdp: an environment of Gymnasium's, as a black box"
    )
    group.add_argument(
        "--policy", choices=("tabular", *black_boxes.POLICIES),
        help="for --mdp tabular or linear, for --env linear, neural or gaussian (default: tabular; linear, gaussian for continuous actions)",
    )  # fmt: skip
    group.add_argument(
        "--features", metavar="FEATURES",
        help="for --mdp with --policy linear: file.npy, random:D or indicator; for --env: scaled, polynomial:ORDER, fourier:ORDER "
        "or tiles:PER_DIMENSION (default: the model's own; polynomial:1)",
    )  # fmt: skip
    group.add_argument(
        "--theta",
        metavar="THETA",
        help="where to start: zeros, random:SEED or a file (default: zeros; neural: of the seed)",
    )
    group.add_argument(
        "--hidden", type=positive, metavar="H", help=f"units of --policy neural (default: {black_boxes.HIDDEN})"
    )
    group.add_argument("--bounds", metavar="LIST", help="LOW:HIGH of each observed number, where --env names none")
    group.add_argument("--max-steps", type=positive, metavar="STEPS", help="truncate the episodes of --env")
    group.add_argument(
        "--lanes", type=positive, metavar="N", help=f"environments side by side (default: {black_boxes.LANES})"
    )
    parser.add_argument(
        "--seed", type=models.whole, help="of everything random (default: 0, or that of the checkpoint)"
    )


def add_training(parser):
    """Add the options that choose how to train."""
    group = parser.add_argument_group("the training")
    group.add_argument(
        "--algorithm",
        choices=tuple(recipes.ALGORITHMS),
        default="reinforce-baseline",
        help="default: reinforce-baseline",
    )
    group.add_argument("--episodes", type=positive, default=EPISODES, metavar="N", help=f"default: {EPISODES}")
    group.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help=f"episodes in a batch (default: {recipes.BATCH_SIZE}, or the next whole number of groups)",
    )
    group.add_argument(
        "--group-size",
        type=positive,
        metavar="N",
        help=f"episodes that share their first state (default: {recipes.GROUP_SIZE} where compared)",
    )
    group.add_argument(
        "--optimiser", choices=("sgd", "momentum", "rmsprop", "adam", "natural"), default="adam", help="default: adam"
    )
    group.add_argument(
        "--rate", type=positive_real, default=recipes.DEFAULT_RATE, help=f"step size (default: {recipes.DEFAULT_RATE})"
    )
    group.add_argument(
        "--schedule",
        default="constant",
        metavar="KIND:STEPS",
        help="constant; inverse or exponential, halved after STEPS; linear, to 0",
    )
    group.add_argument("--momentum", type=models.real, help="of --optimiser momentum (default: 0.9)")
    group.add_argument("--damping", type=models.real, help="of --optimiser natural (default: 0.001)")
    group.add_argument("--fisher", choices=("estimated", "exact"), help="of --optimiser natural (default: estimated)")
    group.add_argument("--lam", type=models.real, help="lambda of a2c and ppo (default: 0.95)")
    group.add_argument("--clip", type=models.real, help="range of the ratio (default: 0.2)")
    group.add_argument("--entropy", type=models.real, help="weight of the entropy bonus of a2c and ppo (default: 0)")
    group.add_argument(
        "--score", choices=("discounted", "plain"),
        help="whether the score of step t carries gamma^t; plain is the usual, biased shortcut (default: discounted)",
    )  # fmt: skip
    group.add_argument(
        "--epochs", type=positive, metavar="N", help="times a batch is gone through (default: 1; ppo: 4)"
    )
    group.add_argument(
        "--minibatches", type=positive, metavar="N", help="parts of a batch, a step each (default: 1; ppo: 4)"
    )
    group.add_argument(
        "--accumulate", type=positive, default=1, metavar="N", help="batches averaged for one step (default: 1)"
    )
    group.add_argument(
        "--target-kl",
        type=positive_real,
        metavar="NATS",
        help="leave a batch when the policy is this far from its data's",
    )
    group.add_argument("--clip-norm", type=positive_real, metavar="LENGTH", help="longest gradient")
    group.add_argument("--critic", choices=("least-squares", "td"), help="how V is learned (default: least-squares)")
    group.add_argument(
        "--critic-rate", type=positive_real, help=f"step size of --critic td (default: {recipes.CRITIC_RATE})"
    )
    group.add_argument(
        "--memory", type=models.real, help=f"what earlier batches count in least squares (default: {recipes.MEMORY})"
    )
    group.add_argument("--in-sample", action="store_true", help="fit V on the batch it is used on: biased")
    add_option(group, "draw episodes")
    parser.set_defaults(discounted_score=None)


def add_output(parser):
    """Add the options that say what is kept and shown."""
    group = parser.add_argument_group("the output")
    group.add_argument(
        "--checkpoint", metavar="FILE", help="save the run to file.npz now and then, at the end and when interrupted"
    )
    group.add_argument("--checkpoint-every", type=models.real, metavar="SECONDS", help=f"default: {SECONDS:g}")
    group.add_argument("--resume", action="store_true", help="go on from --checkpoint, if it is there")
    group.add_argument(
        "--exact-path",
        action="store_true",
        help="also follow the exact gradient with the same optimiser (finite models)",
    )
    group.add_argument(
        "--moments", action="store_true", help="also compute the exact signal and noise of an estimate (finite models)"
    )
    group.add_argument(
        "--evaluate-every",
        type=models.whole,
        metavar="N",
        help=f"batches between exact evaluations (default: about {POINTS} in all)",
    )
    group.add_argument(
        "--test-episodes", type=models.whole, metavar="N",
        help=f"new episodes of the final policy (default: {TEST_EPISODES} for --env; 0 for --mdp, where J is exact)",
    )  # fmt: skip
    group.add_argument("--save-theta", metavar="FILE", help="write the final parameters to file.npy")
    group.add_argument(
        "--history", metavar="FILE", help="write the course of the run to file.npz, file.csv or file.json"
    )
    group.add_argument(
        "--plot", metavar="FILE", help="draw the learning curve: file.png, file.svg or file.pdf (needs matplotlib)"
    )
    group.add_argument("--json", action="store_true", help="print one JSON document instead")


def positive_real(text):
    """Parse a number > 0."""
    value = models.real(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not positive")
    return value


def run(options):
    """Run the command and return its exit code."""
    check_options(options)
    check_files(options)
    task = Task(options)
    checkpoint = None
    if options.checkpoint is not None:
        every = SECONDS if options.checkpoint_every is None else options.checkpoint_every
        checkpoint = Checkpoint(options.checkpoint, every, options.resume)
    progress = Progress(task.iterations)
    try:
        with workers(options.workers) as executor:
            done = task.train(executor, checkpoint, progress)
    except KeyboardInterrupt:
        progress.close()
        if checkpoint is not None and os.path.exists(checkpoint.path):
            _say(f"stopped; {checkpoint.path} has the run so far: repeat the command with --resume to go on")
        raise
    finally:
        progress.close()
    if len(done.history) > task.iterations:
        _say(
            f"--episodes {options.episodes}: {options.checkpoint} is at {len(done.history) * task.step} already; nothing was added"
        )
    found = task.result(done)
    if options.save_theta is not None:
        with replacing(options.save_theta) as stream:
            np.save(stream, done.theta)
    if options.history is not None:
        done.history.save(options.history)
    if options.plot is not None:
        with replacing(options.plot) as stream:
            stream.write(
                plots.image(
                    lambda _: plots.learning_curves({options.algorithm: [done.history]}, path=found["path"]),
                    None,
                    options.plot,
                )
            )
    if options.json:
        print(json.dumps(as_json(task, done, found), allow_nan=False))
    else:
        print(as_text(task, done, found))
    return 0


class Task:
    """What the options ask for: a source, and what `train` does with it."""

    def __init__(self, options):
        recipe = recipes.ALGORITHMS[options.algorithm]
        group_size = recipes.group_size(options, recipe)
        self.options, self.problem, self.black_box = options, None, None
        if options.env is not None:
            self.black_box = black_boxes.black_box(options, group_size)
            self.source, self.theta, features = (
                self.black_box.source,
                self.black_box.theta,
                self.black_box.critic_features,
            )
        else:
            self.problem = finite_problem(options)
            self.source = ModelSource(self.problem.mdp, self.problem.policy, group_size=group_size)
            self.theta, features = self.problem.theta, None
        self.finite = self.problem is not None
        self.estimator = recipes.estimator(options, recipe)
        self.update = recipes.update(options, recipe)
        self.optimiser = recipes.optimiser(options, self.finite)
        self.critic = recipes.critic(options, recipe, features)
        self.batch_size = recipes.batch_size(options, group_size)
        self.step = self.batch_size * options.accumulate  # episodes
        self.iterations, left_over = divmod(options.episodes, self.step)
        if not self.iterations:
            raise ValueError(
                f"--episodes {options.episodes} is less than one step of {self.step}; pass more, or a smaller --batch-size"
            )
        self.left_over = f" ({left_over} of {options.episodes} make no step)" if left_over else ""
        every = max(self.iterations // POINTS, 1) if options.evaluate_every is None else options.evaluate_every
        self.evaluation = Evaluation(every, moments=options.moments)

    def train(self, executor, checkpoint, watch):
        """Run it."""
        rng = self.options.seed
        if rng is None and not (checkpoint is not None and checkpoint.resume and os.path.exists(checkpoint.path)):
            rng = 0
        return train(
            self.source, self.estimator, self.optimiser, iterations=self.iterations, batch_size=self.batch_size,
            theta=self.theta, update=self.update, critic=self.critic, evaluation=self.evaluation, checkpoint=checkpoint,
            executor=executor, watch=watch, rng=rng,
        )  # fmt: skip

    def result(self, done):
        """Return what the final policy earns, and the path of the exact gradient if it was asked for."""
        options, found = self.options, dict.fromkeys(("objective", "total_reward", "test", "path"))
        if self.finite:
            problem = self.source.mdp, self.source.policy, done.theta
            found["objective"] = float(exact.objective(*problem))
            found["total_reward"] = total_reward(*problem)
            if options.exact_path:
                theta = self.theta
                found["path"] = exact_path(
                    *problem[:2],
                    self.optimiser,
                    iterations=len(done.history),
                    theta=theta,
                    clip_norm=self.update.clip_norm,
                )
        n = options.test_episodes
        n = (0 if self.finite else TEST_EPISODES) if n is None else n
        n = -(-n // self.source.group_size) * self.source.group_size
        if n:
            seed = np.random.SeedSequence(done.seed.entropy, spawn_key=(*done.seed.spawn_key, TESTING))
            trajectories = self.source.draw(done.theta, n, rng=seed).trajectories
            returns = np.where(trajectories.mask, trajectories.rewards, 0.0).sum(axis=1)
            found["test"] = {
                "episodes": n,
                "mean_return": float(returns.mean()),
                "lowest": float(returns.min()),
                "highest": float(returns.max()),
            }
        return found


TESTING = 2**32 - 2  # which child of the seed draws the test episodes


def total_reward(mdp, policy, theta):
    """Return the exact undiscounted return, or None where it has no limit."""
    try:
        return float(exact.objective(mdp, policy, theta, objective=exact.Undiscounted()))
    except ValueError:
        return None


def finite_problem(options):
    """Build the model and policy that the options name, refusing options of a black box."""
    for name in ("hidden", "bounds", "max_steps", "lanes"):
        if getattr(options, name) is not None:
            other = "use --horizon" if name == "max_steps" else "it needs --env"
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)}: {other}")
    if options.policy in ("neural", "gaussian"):
        raise ValueError(
            f"--policy {options.policy} acts on the observations of --env; for --mdp use tabular or linear"
        )
    options.mdp = DEFAULT_MDP if options.mdp is None else options.mdp
    options.policy = ("tabular" if options.features is None else "linear") if options.policy is None else options.policy
    options.theta = "zeros" if options.theta is None else options.theta
    return models.problem(options)


def check_options(options):
    """Refuse what would do nothing beside the other options."""
    if options.resume and options.checkpoint is None:
        raise ValueError("--resume goes on from a checkpoint; pass --checkpoint FILE too")
    if options.checkpoint_every is not None and options.checkpoint is None:
        raise ValueError("--checkpoint-every says how often --checkpoint FILE is written; pass that too")
    if options.checkpoint_every is not None and options.checkpoint_every < 0:
        raise ValueError(f"--checkpoint-every {options.checkpoint_every:g} is negative; pass seconds >= 0")
    if options.moments and options.evaluate_every == 0:
        raise ValueError(
            "--moments are part of the exact evaluations, and --evaluate-every 0 leaves them out; pass one of them"
        )
    for name in ("exact_path", "moments", "evaluate_every"):
        if options.env is not None and getattr(options, name):
            raise ValueError(
                f"--{name.replace('_', '-')}: nothing is known exactly of the black box --env {options.env}; use --mdp"
            )


def check_files(options):
    """Refuse what cannot be written, before the work, so that it is not in vain."""
    if options.checkpoint is not None and os.path.lexists(options.checkpoint) and not options.resume:
        raise ValueError(f"--checkpoint {options.checkpoint} exists; pass --resume to go on with it, or another path")
    if options.history is not None and not options.history.lower().endswith(SUFFIXES):
        raise ValueError(f"--history {options.history}: pass a file ending in {', '.join(SUFFIXES)}")
    if options.save_theta is not None and not options.save_theta.lower().endswith(".npy"):
        raise ValueError(f"--save-theta {options.save_theta}: pass a file ending in .npy")
    if options.plot is not None:
        if not options.plot.lower().endswith(plots.PICTURES):
            raise ValueError(f"--plot {options.plot}: pass a file ending in {', '.join(plots.PICTURES)}")
        plots.matplotlib_figure()
    for name in ("checkpoint", "history", "save_theta", "plot"):
        check_place(name.replace("_", "-"), getattr(options, name))


def check_place(option, path):
    """Refuse a path at which no file can be written."""
    if path is None:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or os.path.isdir(path):
        raise ValueError(f"--{option} {path}: its folder does not exist, or it is one; pass the path of a file")
    if not os.access(folder, os.W_OK | os.X_OK):  # a file appears in it under another name first
        raise ValueError(f"--{option} {path}: nothing can be written to its folder; pass a path in another one")


def _say(text):
    if sys.stderr is not None:
        print(f"reinforce-np: {text}", file=sys.stderr)


def as_json(task, done, found):
    """Return the run as a dictionary of plain numbers and lists."""
    options, history = task.options, done.history.as_dict()
    history.pop("theta")
    problem: dict[str, Any] = (
        {"env": options.env} if not task.finite else {"mdp": options.mdp, "horizon": task.source.mdp.horizon}
    )
    path = found["path"]
    return {
        **problem,
        "policy": task.problem.policy_name if task.finite else task.black_box.policy_name,
        "gamma": task.source.gamma,
        "algorithm": options.algorithm,
        "optimiser": repr(task.optimiser),
        "batch_size": task.batch_size,
        "seed": done.seed.entropy,
        "iterations": len(done.history),
        "objective": found["objective"],
        "total_reward": found["total_reward"],
        "test": found["test"],
        "theta": models.parameters(done.theta),
        "history": history,
        "exact_path": None if path is None else path.objective.tolist(),
    }


def as_text(task, done, found):
    """Return the run as a table and a sentence."""
    options, history = task.options, done.history
    if task.finite:
        mdp, policy = task.source.mdp, task.source.policy
        name, words, remarks = task.problem.name, task.problem.policy_name, task.problem.remarks
        model = f"{name}: {mdp.n_states} states, {mdp.n_actions} actions, gamma {mdp.gamma:g}, horizon {mdp.horizon}"
    else:
        policy, name, words, remarks = (
            task.source.policy,
            task.black_box.name,
            task.black_box.policy_name,
            task.black_box.remarks,
        )
        model = f"{name}, as a black box, gamma {task.source.gamma:g}"
    lines = [
        f"Model       {model}",
        f"Policy      {words}, {policy.n_parameters} parameters",
        *[f"            ({remark})" for remark in remarks],
        f"Training    {options.algorithm}, {_words(task.optimiser)}: {len(history)} steps of {task.step} episodes{task.left_over}, "
        f"seed {done.seed.entropy}",
        "",
        *_table(history, found["path"]),
        "",
        f"Result      {_sentence(task, done, found)}",
    ]
    return "\n".join(lines)


def _words(optimiser):
    name = {"SGD": "stochastic gradient ascent"}.get(type(optimiser).__name__, type(optimiser).__name__)
    rate = optimiser.rate
    return f"{name} with rate {rate:g}" if isinstance(rate, float) else f"{name} with {rate!r}"


def _table(history, path):
    """Return about ten rows of the history, with its exact columns where there are some."""
    exactly, with_moments = len(history.evaluated) > 0, not np.isnan(history.noise).all()
    header = ["step", "episodes", "mean return", "length", "|estimate|", "KL"]
    header += ["J exact", "|gradient|"] * exactly + ["signal/noise"] * with_moments
    header += ["J, exact gradient"] * (path is not None)
    steps = sorted(
        {0, *np.linspace(0, len(history), ROWS + 1).round().astype(int).tolist()} - ({0} if not exactly else set())
    )
    at = dict(zip(history.evaluated.tolist(), range(len(history.evaluated)), strict=True))
    table = [header]
    for step in steps:
        i = step - 1
        row = [str(step)]
        if i < 0:
            row += ["0", "-", "-", "-", "-"]
        else:
            row += [str(history.trajectories[i]), f"{history.mean_return[i]:.4g}", f"{history.length[i]:.1f}"]
            row += [f"{history.gradient_norm[i]:.3g}", f"{history.kl[i]:.2g}"]
        if exactly:
            e = at.get(step)
            row += ["-", "-"] if e is None else [f"{history.objective[e]:.4f}", f"{history.exact_gradient_norm[e]:.3g}"]
            if with_moments:
                row.append("-" if e is None else f"{history.signal_to_noise[e]:.3g}")
        row += [f"{path.objective[step]:.4f}"] if path is not None else []
        table.append(row)
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]


def _sentence(task, done, found):
    parts, n = [], int(done.history.trajectories[-1]) if len(done.history) else 0
    if found["objective"] is not None:
        parts.append(f"J = {found['objective']:.4f}, exact, after {n} episodes")
        if found["total_reward"] is not None and task.source.gamma != 1:
            parts.append(f"undiscounted {found['total_reward']:.4f}")
    if found["path"] is not None:
        parts.append(f"the exact gradient reached {found['path'].objective[-1]:.4f}")
    test = found["test"]
    if test is not None:
        first = "" if parts else f"after {n} episodes: "
        parts.append(
            f"{first}mean return {test['mean_return']:.4g} over {test['episodes']} new episodes ({test['lowest']:.4g} to {test['highest']:.4g})"
        )
    return "; ".join(parts) or f"after {n} episodes: mean return {done.history.mean_return[-1]:.4g} of the last batch"
