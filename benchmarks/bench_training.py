"""Training: what a book printed, how long a task takes beside a deep-RL library, and runs that are killed.

Three families: the short corridor of Sutton & Barto (Figures 13.1 and 13.2), FrozenLake and CartPole to a
stated score, and 20 runs that are killed at random moments and resumed, on processes and on Dask. Every table asserts what it shows.

    python -m benchmarks training              or, as a plain script, python -m benchmarks.bench_training
    python -m benchmarks --peers training      beside PyTorch and Stable-Baselines3, where they are installed
"""

import concurrent.futures
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import short_corridor
from reinforce_np import EnvironmentSource, Estimator, FeatureSoftmax, RewardToGo, TabularSoftmax, examples, features
from reinforce_np.exact import Undiscounted
from reinforce_np.exact import objective as exact_objective
from reinforce_np.training import Adam, Evaluation, LeastSquares, train

LAKE_SUCCESS = 0.70  # within 100 steps, 4x4, slippery; the best policy has 0.74
POLE_RETURN = 475.0  # mean of 20 episodes: what Gymnasium calls solved
POLE_LOW, POLE_HIGH = [-2.4, -3.0, -0.21, -3.0], [2.4, 3.0, 0.21, 3.0]
QUIET = Evaluation(every=0)


def report(options):
    """Yield the tables of `benchmarks.harness`."""
    from benchmarks.harness import Table

    for title, columns, rows, note in tables(options.peers, options.quick):
        yield Table(title, columns, rows, note)


def tables(peers, quick):
    """Yield (title, columns, rows, note)."""
    yield corridor(quick)
    yield tasks(peers, quick)
    yield killed(2 if quick else 20)
    yield executors()


def corridor(quick):
    """The two figures: total reward on an episode, averaged over 100 runs."""
    runs, episodes = (25, 200) if quick else (100, 1000)
    windows = [slice(0, 5), slice(90, 110)] + ([] if quick else [slice(380, 420), slice(900, 1000)])
    curves = {
        f"REINFORCE, alpha 2^-{a}": short_corridor.reproduce(2.0**-a, runs=runs, episodes=episodes) for a in (13, 14)
    }
    curves["REINFORCE, alpha 2^-12"] = short_corridor.reproduce(2.0**-12, runs=runs, episodes=episodes)
    curves["with baseline, 2^-9 and 2^-6"] = short_corridor.reproduce(2.0**-9, 2.0**-6, runs=runs, episodes=episodes)
    curves["one step an episode, 2^-13"] = short_corridor.once_an_episode(2.0**-13, runs=runs, episodes=episodes)
    rows = [[name, *[float(curve[w].mean()) for w in windows]] for name, curve in curves.items()]
    good, slow, large, baseline, once = (row[-1] for row in rows)
    assert slow < good - 1 and (quick or large < good - 1), "2^-13 is the best of the three step sizes"
    assert baseline > good - 0.1 and abs(baseline - short_corridor.OPTIMUM) < 1.5, (
        "the baseline learns faster, to the optimum"
    )
    assert quick or abs(good - short_corridor.OPTIMUM) < 1.5, "a good step size approaches the optimum"
    assert abs(once - good) < (6 if quick else 1), "a step an episode and a step a step are much the same"
    columns = ["", *[f"episodes {w.start + 1}-{w.stop}" for w in windows]]
    note = f"optimum {short_corridor.OPTIMUM:.1f}; start at p(right) = 0.05, where J = -82; {runs} runs, both probabilities kept above {short_corridor.FLOOR}"
    return "Sutton & Barto, Figures 13.1 and 13.2: total reward on an episode", columns, rows, note


def tasks(peers, quick):
    """Wall time to a stated score, and the score of policies that were trained that long."""
    rows = [["FrozenLake 4x4, this package", *frozen_lake()], ["CartPole-v1, this package", *cart_pole()]]
    if peers:
        for name, run in (
            ("PyTorch, textbook REINFORCE", torch_cart_pole),
            ("Stable-Baselines3, PPO", stable_baselines_cart_pole),
        ):
            try:
                rows.append([f"CartPole-v1, {name}", *run(10_000 if quick else 200_000)])
            except ImportError as error:
                rows.append([f"CartPole-v1, {name}", None, None, f"not installed: {error}"])
    columns = ["", "seconds", "score", "steps"]
    note = "score: probability of success, exact; mean return of 20 new episodes. Seconds until the score was reached, tests of it left out"
    return "Time to a score", columns, rows, note


def frozen_lake():
    """Success probability >= 0.70 within 100 steps."""
    mdp, policy = examples.frozen_lake(), TabularSoftmax(16, 4)
    began = time.perf_counter()
    run = train(
        (mdp, policy), lambda V: Estimator(RewardToGo(V)), Adam(0.1), iterations=150, batch_size=100,
        critic=LeastSquares(memory=0.5), evaluation=QUIET, rng=0,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    success = float(exact_objective(mdp, policy, run.theta, objective=Undiscounted()))
    assert success >= LAKE_SUCCESS, success
    return seconds, success, int(run.history.steps[-1])


def cart_pole(seed=0):
    """Mean return >= 475 over 20 episodes, on features that are the observation and a constant."""
    policy = FeatureSoftmax(features.Polynomial(POLE_LOW, POLE_HIGH, order=1, total=1), 2)
    source = EnvironmentSource("CartPole-v1", policy, gamma=0.99, lanes=16)
    critic = LeastSquares(features.Polynomial(POLE_LOW, POLE_HIGH, order=2, total=2), 1e-3, 0.5)
    seconds, theta, iterations = 0.0, None, 0
    while True:  # the score is looked at every 5 steps; the time of looking is not counted
        iterations += 5
        began = time.perf_counter()
        run = train(
            source, lambda V: Estimator(RewardToGo(V), discounted_score=False), Adam(0.3), iterations=iterations, batch_size=16,
            theta=theta, critic=critic, rng=seed,
        )  # fmt: skip
        seconds = time.perf_counter() - began  # of the whole run from the start
        returns = source.draw(run.theta, 20, rng=10_000 + iterations).trajectories.lengths
        if returns.mean() >= POLE_RETURN:
            return seconds, float(returns.mean()), int(run.history.steps[-1])
        assert iterations < 200, "CartPole was not learned"


def torch_cart_pole(most_steps):
    """The loop of a tutorial: a network of one hidden layer, one environment, one step an episode."""
    import gymnasium
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = torch.nn.Sequential(torch.nn.Linear(4, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2))
    optimiser, env = torch.optim.Adam(network.parameters(), lr=1e-2), gymnasium.make("CartPole-v1")
    seconds, steps, episode, recent = 0.0, 0, 0, []
    while steps < most_steps:
        began = time.perf_counter()
        state, logs, rewards, over = env.reset(seed=episode)[0], [], [], False
        while not over:
            law = torch.distributions.Categorical(logits=network(torch.as_tensor(state)))
            action = law.sample()
            logs.append(law.log_prob(action))
            state, reward, terminated, truncated, _ = env.step(int(action))
            rewards.append(reward)
            over = terminated or truncated
        returns, G = [], 0.0
        for reward in reversed(rewards):
            G = reward + 0.99 * G
            returns.insert(0, G)
        weights = torch.tensor(returns)
        weights = (weights - weights.mean()) / (weights.std() + 1e-8)
        optimiser.zero_grad()
        (-(torch.stack(logs) * weights).sum()).backward()
        optimiser.step()
        seconds += time.perf_counter() - began
        steps, episode, recent = steps + len(rewards), episode + 1, [*recent[-19:], sum(rewards)]
        if len(recent) == 20 and np.mean(recent) >= POLE_RETURN:  # generous: its last 20 episodes, no new ones
            break
    return seconds, float(np.mean(recent)), steps


def stable_baselines_cart_pole(most_steps):
    """PPO with the settings that its authors tuned for CartPole (8 environments, batches of 256), on one thread."""
    import gymnasium
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy", make_vec_env("CartPole-v1", n_envs=8), n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20,
        ent_coef=0.0, learning_rate=1e-3, clip_range=0.2, seed=0, device="cpu",
    )  # fmt: skip
    seconds, steps, score = 0.0, 0, 0.0
    while steps < most_steps and score < POLE_RETURN:
        began = time.perf_counter()
        model.learn(5_120, reset_num_timesteps=False)
        seconds, steps = seconds + time.perf_counter() - began, steps + 5_120
        score, _ = evaluate_policy(
            model, gymnasium.make("CartPole-v1"), n_eval_episodes=20, deterministic=False, warn=False
        )
    return seconds, float(score), steps


# --- killed, and gone on with -------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "reinforce_np", "train", "--mdp", "referee", "--algorithm", "ppo", "--batch-size", "12", "--seed", "5",
           "--evaluate-every", "10", "--checkpoint-every", "0", "--json", "--episodes"]  # fmt: skip
EPISODES = 12 * 150


def killed(n):
    """Kill a run at random moments, half by SIGKILL and half by SIGINT, each time resume it, and compare the end."""
    whole = subprocess.run([*COMMAND, str(EPISODES)], capture_output=True, check=True).stdout
    length, moments = 1.5, random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "run.npz"
        reached, interrupts = [], 0
        for i in range(n):  # the same run, again and again, until it has been stopped n times or is over
            how = (signal.SIGKILL, signal.SIGINT)[i % 2]
            with subprocess.Popen(
                [*COMMAND, str(EPISODES), "--checkpoint", str(path), "--resume"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                time.sleep(0.3 + moments.random() * length)
                process.send_signal(how)
                process.communicate()
            interrupts += process.returncode == 130
            assert process.returncode in (0, 130, -how), process.returncode
            reached.append(_iteration(path))
            if reached[-1] == EPISODES // 12:  # over: begin anew, so that later moments meet a run as well
                path.unlink()
        done = subprocess.run(
            [*COMMAND, str(EPISODES), "--checkpoint", str(path), "--resume"], capture_output=True, check=True
        )
    assert done.stdout == whole, "the resumed run differs"
    rows = [[n, interrupts, " ".join(map(str, reached)), "the same document, digit for digit"]]
    return (
        "Runs killed at random moments and resumed",
        ["stopped", "with 130", "iterations reached", "the end"],
        rows,
        "",
    )


def _iteration(path):
    """How many iterations the checkpoint holds; 0 without one."""
    from reinforce_np.files import as_npz
    from reinforce_np.training import checkpoints

    if not path.exists():
        return 0
    found = as_npz.arrays(path.read_bytes(), lambda text: checkpoints._wanted(text, {}, None))
    return json.loads(found["header"].tobytes())["iteration"]


def executors():
    """The same run on this process, threads, processes and Dask: the same bits."""
    rows = [["this process", digest(None)]]
    for name, make in (
        ("2 threads", lambda: concurrent.futures.ThreadPoolExecutor(2)),
        ("2 processes", lambda: concurrent.futures.ProcessPoolExecutor(2)),
    ):
        with make() as executor:
            rows.append([name, digest(executor)])
    try:
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
            Client(cluster) as client,
        ):
            rows.append(["Dask on loopback", digest(client.get_executor())])
    except ImportError as error:
        rows.append(["Dask on loopback", f"not installed: {error}"])
    assert len({row[1] for row in rows if not row[1].startswith("not")}) == 1, rows
    return (
        "The same run by others",
        ["", "theta"],
        rows,
        "first digits of a digest of all parameters and of the history",
    )


def digest(executor):
    """A digest of a run that draws several blocks per batch."""
    from reinforce_np.training.fingerprints import fingerprint

    mdp = examples.frozen_lake(gamma=0.99)
    run = train(
        (mdp, TabularSoftmax(16, 4)), lambda V: Estimator(RewardToGo(V)), Adam(0.1), iterations=3, batch_size=50_000,
        critic=LeastSquares(), executor=executor, rng=0,
    )  # fmt: skip
    return fingerprint((run.theta, run.history.objective, run.history.mean_return))[:16]


class Loop:
    """What an iteration costs, in asv's shape."""

    params = ((10, 1000),)
    param_names = ("batch_size",)

    def setup(self, batch_size):
        """Take FrozenLake, 4x4."""
        self.problem = examples.frozen_lake(), TabularSoftmax(16, 4)

    def time_ten_iterations(self, batch_size):
        """Sample, score, update, ten times."""
        train(self.problem, lambda V: Estimator(RewardToGo(V)), Adam(0.1), iterations=10, batch_size=batch_size, critic=LeastSquares(), evaluation=QUIET, rng=0)  # fmt: skip


def main():
    """Print the tables."""
    for title, columns, rows, note in tables("--peers" in sys.argv, "--quick" in sys.argv):
        print(title)
        for row in [columns, *rows]:
            print(
                "  "
                + "  ".join(
                    (f"{x:.4g}" if isinstance(x, float) else str(x)).ljust(w)
                    for x, w in zip(row, [32, 18, 18, 18, 18], strict=False)
                )
            )
        print(f"  {note}\n", flush=True)


if __name__ == "__main__":
    main()
