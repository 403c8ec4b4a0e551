"""What a user could pick instead: REINFORCE in Gymnasium, PyTorch and JAX, each written as its own users would.

Every function takes the model, the policy's features and θ as plain arrays,
and returns ``run``, whose result is the gradient, a NumPy array. What can be
compiled is, batches are arrays, and nothing comes back to Python between
steps. JAX and PyTorch work in float32, as they do unless told otherwise (`dtype`).
Imports are inside: a peer that is not installed raises ImportError.

The estimator is Σ_t γᵗ (G_t) ∇log π(a_t|s_t), averaged over trajectories. The
policy has logits φ(s,a)·θ; for a table of logits φ is None.
"""

import numpy as np

from reinforce_np.sampling.alias import alias_tables


def textbook(mdp, theta, n, env_id="FrozenLake8x8-v1"):
    """Gymnasium, one step at a time, and PyTorch's autograd, as textbooks show it."""
    import gymnasium
    import torch

    env = gymnasium.make(env_id, max_episode_steps=mdp.horizon)
    logits = torch.tensor(theta.reshape(mdp.n_states, mdp.n_actions), dtype=torch.float32, requires_grad=True)

    def run():
        loss = 0.0
        for episode in range(n):
            state, _ = env.reset(seed=0) if episode == 0 else env.reset()
            log_probabilities, rewards, done = [], [], False
            while not done:
                choice = torch.distributions.Categorical(logits=logits[state])
                action = choice.sample()
                state, reward, terminated, truncated, _ = env.step(action.item())
                log_probabilities.append(choice.log_prob(action))
                rewards.append(reward)
                done = terminated or truncated
            to_go, weights = 0.0, []
            for reward in reversed(rewards):
                to_go = reward + mdp.gamma * to_go
                weights.append(to_go)
            discount = mdp.gamma ** torch.arange(len(rewards))
            loss = loss - (torch.stack(log_probabilities) * torch.tensor(weights[::-1]) * discount).sum()
            run.transitions += len(rewards)
        logits.grad = None
        (loss / n).backward()
        return -logits.grad.numpy().ravel().astype(float)

    run.transitions = 0
    return run


def vector_env(mdp, theta, n, env_id="FrozenLake8x8-v1"):
    """Gymnasium's vector environment with a policy in NumPy; the gradient by hand."""
    import gymnasium

    envs = gymnasium.make_vec(env_id, num_envs=n, max_episode_steps=mdp.horizon)
    table = np.exp(theta.reshape(mdp.n_states, mdp.n_actions))
    pi = table / table.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(0)

    def run():
        states, _ = envs.reset(seed=0)
        live, history = np.ones(n, dtype=bool), []
        while live.any():
            actions = (pi[states].cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=mdp.n_actions - 1)
            after, rewards, terminated, truncated, _ = envs.step(actions)
            history.append((states, actions, rewards * live, live))
            run.transitions += live.sum()
            live = live & ~(terminated | truncated)  # what follows is the next episode of that environment
            states = after
        to_go, weights = np.zeros(n), np.zeros(pi.shape)
        for t, (states, actions, rewards, live) in reversed(list(enumerate(history))):
            to_go = rewards + mdp.gamma * to_go
            np.add.at(weights, (states[live], actions[live]), mdp.gamma**t * to_go[live])
        return ((weights - pi * weights.sum(axis=1, keepdims=True)) / n).ravel()

    run.transitions = 0
    return run


def torch_autograd(mdp, features, theta, n):
    """PyTorch, all trajectories at once, autograd of the surrogate Σ weight · log π."""
    import torch

    tables = plain_tables(mdp)
    start, cumulative, after, reward, ends = (torch.from_numpy(x) for x in tables)
    phi = None if features is None else torch.tensor(features, dtype=torch.float32)
    theta = torch.tensor(theta, dtype=torch.float32, requires_grad=True)
    A, K = mdp.n_actions, mdp.n_outcomes
    generator = torch.Generator().manual_seed(0)

    def run():
        logits = theta.view(-1, A) if phi is None else phi @ theta
        log_pi = torch.log_softmax(logits, dim=1)
        with torch.no_grad():
            choose = log_pi.exp().cumsum(dim=1).contiguous()
            state = torch.searchsorted(start, torch.rand(n, generator=generator), right=True).clamp_(
                max=mdp.n_states - 1
            )
            live, states, actions, rewards = torch.ones(n), [], [], []
            for _ in range(mdp.horizon):
                u, v = torch.rand((2, n, 1), generator=generator)
                action = torch.searchsorted(choose[state], u, right=True).squeeze(1).clamp_(max=A - 1)
                outcome = torch.searchsorted(cumulative[state * A + action], v, right=True).squeeze(1).clamp_(max=K - 1)
                cell = (state * A + action) * K + outcome
                states.append(state)
                actions.append(action)
                rewards.append(reward[cell] * live)
                live = live * ~ends[cell]
                state = after[cell]
                if not live.any():
                    break
            to_go, weights = torch.zeros(n), []
            for t in reversed(range(len(rewards))):
                to_go = rewards[t] + mdp.gamma * to_go
                weights.append(mdp.gamma**t * to_go)
            weights = torch.stack(weights[::-1])
        loss = (log_pi[torch.stack(states), torch.stack(actions)] * weights).sum() / n
        theta.grad = None
        loss.backward()
        return theta.grad.numpy().astype(float)

    return run


def jax_autograd(mdp, features, theta, n):
    """JAX, one jitted function: a scan over steps, and autograd of the surrogate."""
    import jax
    import jax.numpy as jnp

    start, cumulative, after, reward, ends = (jnp.asarray(x) for x in plain_tables(mdp))
    phi = None if features is None else jnp.asarray(features, dtype=jnp.float32)
    A, K = mdp.n_actions, mdp.n_outcomes
    first = jax.vmap(lambda row, u: jnp.searchsorted(row, u, side="right"))

    def log_policy(theta):
        return jax.nn.log_softmax(theta.reshape(-1, A) if phi is None else phi @ theta)

    def rollout(key, theta):
        choose = jnp.exp(log_policy(theta)).cumsum(axis=1)
        key, begin = jax.random.split(key)
        state = jnp.minimum(jnp.searchsorted(start, jax.random.uniform(begin, (n,)), side="right"), mdp.n_states - 1)

        def step(carry, key):
            state, live = carry
            u, v = jax.random.uniform(key, (2, n))
            action = (choose[state] <= u[:, None]).sum(axis=1).clip(max=A - 1)
            rows = cumulative[state * A + action]
            outcome = (rows <= v[:, None]).sum(axis=1) if K < 16 else first(rows, v)
            cell = (state * A + action) * K + outcome.clip(max=K - 1)
            return (after[cell], live & ~ends[cell]), (state, action, reward[cell] * live)

        _, history = jax.lax.scan(step, (state, jnp.ones(n, dtype=bool)), jax.random.split(key, mdp.horizon))
        return history

    def surrogate(theta, key):
        states, actions, rewards = rollout(key, jax.lax.stop_gradient(theta))

        def back(to_go, reward):
            to_go = reward + mdp.gamma * to_go
            return to_go, to_go

        _, to_go = jax.lax.scan(back, jnp.zeros(n), rewards, reverse=True)
        weights = mdp.gamma ** jnp.arange(mdp.horizon)[:, None] * to_go
        return (log_policy(theta)[states, actions] * weights).sum() / n

    gradient = jax.jit(jax.grad(surrogate))
    theta = jnp.asarray(theta, dtype=jnp.float32)
    keys = iter(jax.random.split(jax.random.key(0), 10_000))
    return lambda: np.asarray(gradient(theta, next(keys)), dtype=float)


def jax_tables(mdp, features, theta, n):
    """JAX by hand: alias tables, one word a draw, slots added up in the backward scan, no autograd.

    The tables are this package's, made once outside of what is timed.
    """
    import jax
    import jax.numpy as jnp

    phi = (
        np.eye(mdp.n_states * mdp.n_actions).reshape(mdp.n_states, mdp.n_actions, -1) if features is None else features
    )
    S, A, K = mdp.probability.shape
    logits = phi @ theta
    pi = np.exp(logits - logits.max(axis=1, keepdims=True))
    pi /= pi.sum(axis=1, keepdims=True)
    score = jnp.asarray(phi - (pi[:, :, None] * phi).sum(axis=1, keepdims=True), dtype=jnp.float32).reshape(S * A, -1)
    joint = A * K <= 64
    rows = [(pi[:, :, None] * mdp.probability).reshape(S, -1)] if joint else [pi, mdp.probability.reshape(S * A, K)]
    tables = [alias_tables(row) for row in rows]
    high = [jnp.asarray(table.high) for table in tables]
    entry = [jnp.asarray(table.entry.astype(np.int32)) for table in tables]
    after, reward = (
        jnp.asarray(mdp.next_state.ravel().astype(np.int32)),
        jnp.asarray(mdp.reward.ravel().astype(np.float32)),
    )
    ends = jnp.asarray(mdp.terminated.ravel())
    first = alias_tables(mdp.initial[None])

    def draw(i, row, word):
        bits = tables[i].log_columns
        column = (row << bits) + (word >> (32 - bits)).astype(jnp.int32)
        return entry[i][2 * column + (word > high[i][column])]

    def gradient(key):
        begin, key = jax.random.split(key)
        word = jax.random.bits(begin, (n,), jnp.uint32)
        column = (word >> (32 - first.log_columns)).astype(jnp.int32)
        state = jnp.asarray(first.entry.astype(np.int32))[2 * column + (word > jnp.asarray(first.high)[column])]

        def step(carry, key):
            state, live = carry
            words = jax.random.bits(key, (len(tables), n), jnp.uint32)
            if joint:
                cell = state * (A * K) + draw(0, state, words[0])
            else:
                pair = state * A + draw(0, state, words[0])
                cell = pair * K + draw(1, pair, words[1])
            return (after[cell], live & ~ends[cell]), (cell // K, reward[cell] * live)

        _, (pairs, rewards) = jax.lax.scan(step, (state, jnp.ones(n, dtype=bool)), jax.random.split(key, mdp.horizon))

        def back(carry, now):
            to_go, weights = carry
            pair, reward = now
            to_go = reward + mdp.gamma * to_go
            return (to_go, (mdp.gamma * weights).at[pair].add(to_go)), None

        (_, weights), _ = jax.lax.scan(back, (jnp.zeros(n), jnp.zeros(S * A)), (pairs, rewards), reverse=True)
        return weights @ score / n

    compiled = jax.jit(gradient)
    keys = iter(jax.random.split(jax.random.key(0), 10_000))
    return lambda: np.asarray(compiled(next(keys)), dtype=float)


def plain_tables(mdp):
    """Return cumulative starts, cumulative outcomes, next states, rewards and ends, by flat index where there are three."""
    cumulative = mdp.probability.cumsum(axis=2).reshape(-1, mdp.n_outcomes).astype(np.float32)
    cells = (mdp.next_state.ravel().copy(), mdp.reward.ravel().astype(np.float32), mdp.terminated.ravel().copy())
    return mdp.initial.cumsum().astype(np.float32), cumulative, *cells


# Gradients of each trajectory, from trajectories that are given.


def given(batch, dtype="float32"):
    """Return states, actions and rewards of a batch, each (N, T), as these libraries like them."""
    arrays = (batch.states.astype(np.int32), batch.actions.astype(np.int32), batch.rewards.astype(dtype))
    return (np.ascontiguousarray(array) for array in arrays)


def jax_vmap_grad(batch, gamma, theta, n_actions):
    """JAX: `vmap` of `grad` of the surrogate of one trajectory."""
    import jax
    import jax.numpy as jnp

    states, actions, rewards = (jnp.asarray(x) for x in given(batch))
    discount = gamma ** jnp.arange(batch.n_steps)

    def surrogate(theta, states, actions, rewards):
        log_pi = jax.nn.log_softmax(theta.reshape(-1, n_actions))
        weights = jnp.cumsum((discount * rewards)[::-1])[::-1]
        return (log_pi[states, actions] * weights).sum()

    each = jax.jit(jax.vmap(jax.grad(surrogate), in_axes=(None, 0, 0, 0)))
    theta = jnp.asarray(theta, dtype=jnp.float32)
    return lambda: each(theta, states, actions, rewards).block_until_ready()


def jax_scatter(batch, gamma, theta, n_actions, dtype="float32"):
    """JAX: weights scattered into a table for each trajectory, contracted with the score by hand."""
    import jax
    import jax.numpy as jnp

    n = len(batch)

    @jax.jit
    def each(theta, states, actions, rewards, discount):
        pi = jax.nn.softmax(theta.reshape(-1, n_actions))
        weights = jnp.cumsum((discount * rewards)[:, ::-1], axis=1)[:, ::-1]
        table = jnp.zeros((n, *pi.shape), dtype).at[jnp.arange(n)[:, None], states, actions].add(weights)
        return (table - pi * table.sum(axis=2, keepdims=True)).reshape(n, -1)

    with jax.enable_x64(dtype == "float64"):
        states, actions, rewards = (jnp.asarray(x) for x in given(batch, dtype))
        theta, discount = (jnp.asarray(x, dtype=dtype) for x in (theta, gamma ** np.arange(batch.n_steps)))

    def run():
        with jax.enable_x64(dtype == "float64"):
            return each(theta, states, actions, rewards, discount).block_until_ready()

    return run


def torch_vmap_grad(batch, gamma, theta, n_actions):
    """PyTorch: `torch.func.vmap` of `torch.func.grad`."""
    import torch

    states, actions, rewards = (torch.from_numpy(x) for x in given(batch))
    states, actions = states.long(), actions.long()
    discount = gamma ** torch.arange(batch.n_steps)

    def surrogate(theta, states, actions, rewards):
        log_pi = torch.log_softmax(theta.view(-1, n_actions), dim=1)
        weights = torch.flip(torch.cumsum(torch.flip(discount * rewards, [0]), 0), [0])
        return (log_pi[states, actions] * weights).sum()

    each = torch.func.vmap(torch.func.grad(surrogate), in_dims=(None, 0, 0, 0))
    theta = torch.tensor(theta, dtype=torch.float32)
    return lambda: each(theta, states, actions, rewards)
