"""``plot``: learning curves beside the exact gradient, clouds of estimates, landscapes of J."""

import functools
from typing import Any

import numpy as np

from reinforce_np import arguments, plots
from reinforce_np.command_line import models, recipes, train
from reinforce_np.command_line.workers import positive, workers
from reinforce_np.environments import ModelSource
from reinforce_np.estimators import GAE, Estimator, RewardToGo, algorithms
from reinforce_np.exact import values
from reinforce_np.files.disk import replacing
from reinforce_np.policies import LinearSoftmax
from reinforce_np.training import SGD, Evaluation, NaturalGradient, clouds, exact_fisher, exact_path
from reinforce_np.training import train as train_policy

BATCHES = 1000  # points of a cloud
DAMPING = 0.05  # of the natural gradient, so that it stays near the others where nothing is left to learn
RUNS = 3  # of a learning curve
MOST_BATCHES = 100_000
CORNERS = {"kakade_two_state": (2.0, -2.0)}  # where a landscape starts: where little is learned at first
LARGE = 16_384  # parameters of a cloud, whose covariance is a square of them


def add_to(commands):
    """Add the command and its pictures to the parser."""
    parser = commands.add_parser(
        "plot",
        help="draw learning curves, clouds of estimates, or a landscape of J",
        description="Draw a picture of training. Bias and variance as one thing varies are drawn by `variance KIND --plot FILE`.",
    )
    parser.set_defaults(run=functools.partial(_no_picture, parser))
    kinds = parser.add_subparsers(metavar="KIND")
    _learning(kinds)
    _cloud(kinds)
    _landscape(kinds)


def _no_picture(parser, options):
    parser.print_help()
    return 2


def _output(parser):
    group = parser.add_argument_group("the output")
    group.add_argument("--out", metavar="FILE", required=True, help="file.png, file.svg or file.pdf (needs matplotlib)")


def _learning(kinds):
    parser = kinds.add_parser(
        "learning", conflict_handler="resolve", help="learning curves, with the exact J and the path of the exact gradient",
        description="Train with several algorithms and seeds, and draw what they earned beside the exact J and what the exact gradient would have done.",
    )  # fmt: skip
    train.add_problem(parser)
    train.add_training(parser)
    group = parser.add_argument_group("the training, continued")
    group.add_argument(
        "--algorithm",
        metavar="LIST",
        default="reinforce,reinforce-baseline",
        help="names separated by commas (default: reinforce,reinforce-baseline)",
    )
    group.add_argument(
        "--runs", type=positive, default=RUNS, metavar="N", help=f"seeds, from --seed on (default: {RUNS})"
    )
    _output(parser)
    parser.set_defaults(run=learning)


def _cloud(kinds):
    parser = kinds.add_parser(
        "cloud", conflict_handler="resolve", help="estimates from many batches around the true gradient",
        description="Estimate the gradient from many batches and draw the estimates around the true one, with the exact mean and deviation of each estimator.",
    )  # fmt: skip
    models.add_options(parser)
    group = parser.add_argument_group("the cloud")
    group.add_argument(
        "--batch-size", type=positive, default=20, metavar="N", help="trajectories in a batch (default: 20)"
    )
    group.add_argument("--batches", type=positive, default=BATCHES, metavar="N", help=f"default: {BATCHES}")
    _output(parser)
    parser.set_defaults(run=cloud)


def _landscape(kinds):
    parser = kinds.add_parser(
        "landscape", conflict_handler="resolve", help="the exact J over two parameters, with paths through it",
        description="Draw the exact J of a problem with two parameters, and the paths of the exact gradient, the natural gradient, REINFORCE, "
        "and REINFORCE with a learned baseline.",
    )  # fmt: skip
    models.add_options(parser)
    group = parser.add_argument_group("the paths")
    group.add_argument("--mdp", metavar="MODEL", default="kakade_two_state", help="default: kakade_two_state")
    group.add_argument("--theta", metavar="THETA", help="where to start (default: a corner where little is learned)")
    group.add_argument("--rate", type=train.positive_real, default=0.5, help="step size (default: 0.5)")
    group.add_argument("--steps", type=positive, default=200, metavar="N", help="default: 200")
    group.add_argument(
        "--batch-size", type=positive, default=10, metavar="N", help="trajectories in a batch (default: 10)"
    )
    _output(parser)
    parser.set_defaults(run=landscape)


def learning(options):
    """Draw learning curves and return the exit code."""
    check_picture(options)
    names = options.algorithm.split(",")
    unknown = [name for name in names if name not in recipes.ALGORITHMS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"--algorithm {options.algorithm}: pass each once, of {', '.join(recipes.ALGORITHMS)}")
    for name, value in {
        "checkpoint": None,
        "resume": False,
        "moments": False,
        "evaluate_every": None,
        "test_episodes": None,
    }.items():
        setattr(options, name, value)
    groups = [recipes.group_size(options, recipes.ALGORITHMS[name]) for name in names]
    options.batch_size = recipes.batch_size(options, max(groups))  # the same for all
    first = 0 if options.seed is None else options.seed
    histories, path = {}, None
    given = (options.mdp, options.policy, options.theta)
    for name in names:
        options.algorithm, (options.mdp, options.policy, options.theta) = name, given
        task = train.Task(options)
        runs = []
        for seed in range(first, first + options.runs):
            options.seed = seed
            with workers(options.workers) as executor:
                runs.append(task.train(executor, None, None).history)
        histories[name] = runs
        if task.finite and path is None:
            path = exact_path(
                task.source.mdp, task.source.policy, task.optimiser, iterations=task.iterations, theta=task.theta,
                clip_norm=task.update.clip_norm,
            )  # fmt: skip
    return _drawn(options, lambda: plots.learning_curves(histories, path))


def cloud(options):
    """Draw clouds of estimates and return the exit code."""
    check_picture(options)
    problem = models.problem(options)
    mdp, policy, theta = problem.mdp, problem.policy, problem.theta
    if policy.n_parameters > LARGE or options.batches > MOST_BATCHES:
        raise arguments.TooLargeError(
            f"{policy.n_parameters} parameters and {options.batches} batches are above the limits of {LARGE} and {MOST_BATCHES}; pass fewer --batches"
        )
    V = values(mdp, policy, theta)
    estimators = {
        "REINFORCE, total return": algorithms.reinforce(reward_to_go=False),
        "reward-to-go": algorithms.reinforce(),
        "reward-to-go, baseline V": Estimator(RewardToGo(V)),
        "GAE 0.5, no critic": Estimator(GAE(np.zeros(mdp.n_states), 0.5)),
    }
    with models.told_of_the_horizon(problem):
        found = clouds(
            mdp, policy, theta, estimators, batch_size=options.batch_size, batches=options.batches, rng=options.seed
        )
    return _drawn(options, lambda: plots.estimate_cloud(found))


def landscape(options):
    """Draw a landscape with paths and return the exit code."""
    check_picture(options)
    mdp, policy, theta, names = _two_parameters(options)
    runs: dict[str, Any] = {}
    exactly = {"iterations": options.steps, "theta": theta}
    runs["exact gradient"] = exact_path(mdp, policy, SGD(options.rate), **exactly).theta
    runs["natural gradient, exact"] = exact_path(
        mdp, policy, NaturalGradient(options.rate, DAMPING, exact_fisher), **exactly
    ).theta
    baseline = recipes.ALGORITHMS["reinforce-baseline"].make(recipes.DEFAULTS)
    for name, estimator, critic in (
        ("REINFORCE", algorithms.reinforce(), None),
        ("REINFORCE, learned baseline", baseline, recipes.LeastSquares(memory=recipes.MEMORY)),
    ):
        run = train_policy(
            ModelSource(mdp, policy), estimator, SGD(options.rate), iterations=options.steps, batch_size=options.batch_size,
            theta=theta, critic=critic, evaluation=Evaluation(keep_theta=True), rng=options.seed,
        )  # fmt: skip
        runs[name] = run.history.theta
    return _drawn(options, lambda: plots.landscape(mdp, policy, runs, names=names))


def _two_parameters(options):
    """Return model, policy with two parameters, start, and the names of the parameters."""
    name = options.mdp.replace("-", "_")
    start, options.theta = options.theta, "zeros"
    mdp = models.problem(options).mdp
    if options.features is None and mdp.probability.shape[:2] == (2, 2):
        features = np.zeros((2, 2, 2))
        features[[0, 1], 0, [0, 1]] = 1.0  # θ_s is the log-odds of action 0 in state s
        policy = LinearSoftmax(features)
        names = ("log-odds of action 0 in state 0", "log-odds of action 0 in state 1")
        options.theta = start
        theta = np.array(CORNERS.get(name, (0.0, 0.0))) if start is None else models.theta_of(options, policy)
        return mdp, policy, theta, names
    options.theta = "zeros" if start is None else start
    problem = models.problem(options)
    if problem.policy.n_parameters != 2:
        raise ValueError(
            f"--mdp {options.mdp} with this policy has {problem.policy.n_parameters} parameters; a landscape needs 2: pass --policy linear "
            "--features random:2, or a model with two states and two actions"
        )
    return problem.mdp, problem.policy, problem.theta, ("θ₁", "θ₂")


def check_picture(options):
    """Refuse a file that cannot be drawn, before the work."""
    if not options.out.lower().endswith(plots.PICTURES):
        raise ValueError(f"--out {options.out}: pass a file ending in {', '.join(plots.PICTURES)}")
    train.check_place("out", options.out)
    plots.matplotlib_figure()


def _drawn(options, draw):
    """Draw, write the file, and say what is seen."""
    ax = draw()
    data = plots.image(lambda _: ax, None, options.out)
    with replacing(options.out) as stream:
        stream.write(data)
    print(f"{options.out}: {ax.get_title(loc='left')}".replace("\u00a0", " "))
    return 0
