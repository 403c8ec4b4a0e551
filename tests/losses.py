"""The published losses of the estimator family, transcribed as plain loops, one citation each.

Nothing here is imported from the package: own softmax, own log-probabilities, own sums. Every objective is a scalar,
to be *maximised*, and a complex-analytic function of θ, so that its gradient comes from the complex step. What a paper
holds constant (advantages, old policies, "stop gradient") is computed from the real θ₀; what a paper decides by
comparing (min, clip, truncation) is decided on real parts.

An objective is called as ``objective(log_pi, log_pi0, data)``: the complex log-probabilities [s][a] at θ, the real ones
at θ₀, and the data. Where a paper averages over time steps (Ê_t) without saying by what it divides, the sum over the
steps of an episode is divided by the number of episodes, and the score of step t carries γᵗ when `discounted`.
"""

import cmath
import math
from typing import NamedTuple

STEP = 1e-20


class Episode(NamedTuple):
    """What happened, as lists: one entry a step."""

    states: list
    actions: list
    rewards: list
    log_mu: list
    final_state: int
    truncated: bool
    group: int

    def __len__(self):
        return len(self.states)


class Data(NamedTuple):
    """Episodes and the problem they belong to; features [s][a][d] make the logits."""

    episodes: list
    gamma: float
    features: list
    temperature: float = 1.0


def episodes_of(trajectories):
    """The record of padded arrays as episodes: padding is never read."""
    return [
        Episode(
            trajectories.states[n, :length].tolist(),
            trajectories.actions[n, :length].tolist(),
            trajectories.rewards[n, :length].tolist(),
            trajectories.log_probabilities[n, :length].tolist(),
            int(trajectories.final_states[n]),
            bool(trajectories.truncated[n]),
            int(trajectories.groups[n]),
        )
        for n, length in enumerate(trajectories.lengths.tolist())
    ]


def tabular_features(n_states, n_actions):
    """One parameter per state and action."""
    return [
        [[float(d == s * n_actions + a) for d in range(n_states * n_actions)] for a in range(n_actions)]
        for s in range(n_states)
    ]


def log_policy(theta, features, temperature=1.0):
    """log softmax of z(s, a) = Σ_d φ(s,a)_d θ_d / τ, as lists [s][a]; θ real or complex."""
    table = []
    for row in features:
        z = [sum(f * x for f, x in zip(phi, theta, strict=True)) / temperature for phi in row]
        top = max(complex(x).real for x in z)
        log_sum = cmath.log(sum(cmath.exp(x - top) for x in z))
        table.append([x - top - log_sum for x in z])
    return table


def gradient(objective, data, theta):
    """∇ of the objective by complex step."""
    theta = [float(x) for x in theta]
    log_pi0 = [[x.real for x in row] for row in log_policy(theta, data.features, data.temperature)]
    result = []
    for i in range(len(theta)):
        moved = [complex(x, STEP if i == j else 0.0) for j, x in enumerate(theta)]
        value = objective(log_policy(moved, data.features, data.temperature), log_pi0, data)
        result.append(complex(value).imag / STEP)
    return result


# What the objectives are made of


def lookup(table, t, s):
    """A number, b(s) or b(t, s)."""
    if not hasattr(table, "__len__"):
        return float(table)
    return float(table[t][s]) if hasattr(table[0], "__len__") else float(table[s])


def smaller(x, y):
    return x if complex(x).real <= complex(y).real else y


def larger(x, y):
    return x if complex(x).real >= complex(y).real else y


def clip(x, low, high):
    return larger(low, smaller(x, high))


def mean(xs):
    return math.fsum(xs) / len(xs)


def deviation(xs, ddof):
    center = mean(xs)
    return math.sqrt(math.fsum((x - center) ** 2 for x in xs) / (len(xs) - ddof))


def ratio(log_pi, e, t):
    """π(a|s)/μ(a|s) of step t."""
    return cmath.exp(log_pi[e.states[t]][e.actions[t]] - e.log_mu[t])


def log_prob(log_pi, e, t):
    return log_pi[e.states[t]][e.actions[t]]


def product(xs):
    result = 1.0
    for x in xs:
        result = result * x
    return result


def whole_return(rewards, gamma):
    return sum(gamma**t * r for t, r in enumerate(rewards))


def return_from(rewards, gamma, t):
    return sum(gamma ** (u - t) * rewards[u] for u in range(t, len(rewards)))


def value_after(critic, e, t, bootstrap):
    """V(s_t) along an episode; at its end V of the final state where something was cut off, and otherwise zero."""
    if t < len(e):
        return lookup(critic, t, e.states[t])
    if not (e.truncated and bootstrap):
        return 0.0
    rows = hasattr(critic, "__len__") and hasattr(critic[0], "__len__")
    return 0.0 if rows and t >= len(critic) else lookup(critic, t, e.final_state)


def rewards_of(log_pi0, data, penalties):
    """r_t plus what the penalties in the reward add, all at θ₀."""
    return [
        [
            r + sum(term(log_pi0, e, t) for place, term in penalties if place == "reward")
            for t, r in enumerate(e.rewards)
        ]
        for e in data.episodes
    ]


def groups_of(data):
    """The members of the group of each episode."""
    return [[m for m, other in enumerate(data.episodes) if other.group == e.group] for e in data.episodes]


# Advantages: functions (data, rewards) → [n][t], measured from t on unless `from_start`


def total_return(b=0.0):
    """R − b (Williams 1992, equation 11)."""

    def advantage(data, rewards, log_pi0):
        return [[whole_return(r, data.gamma) - b] * len(r) for r in rewards]

    advantage.from_start = True
    return advantage


def reward_to_go(b=0.0):
    """G_t − b(s_t) (Sutton & Barto, equation 13.11)."""

    def advantage(data, rewards, log_pi0):
        return [
            [return_from(r, data.gamma, t) - lookup(b, t, e.states[t]) for t in range(len(r))]
            for r, e in zip(rewards, data.episodes, strict=True)
        ]

    return advantage


def n_step_estimator(e, r, gamma, critic, t, n, bootstrap):
    """Â⁽ⁿ⁾_t = r_t + γ r_{t+1} + … + γⁿ⁻¹ r_{t+n−1} + γⁿ V(s_{t+n}) − V(s_t) (Schulman et al. 2016, equation 13-14)."""
    n = min(n, len(e) - t)
    rewards = sum(gamma**j * r[t + j] for j in range(n))
    return rewards + gamma**n * value_after(critic, e, t + n, bootstrap) - lookup(critic, t, e.states[t])


def n_step(critic, n, bootstrap=False):
    """n steps of reward, then the critic (Sutton & Barto, equation 7.1; Mnih et al. 2016, section 4)."""

    def advantage(data, rewards, log_pi0):
        return [
            [n_step_estimator(e, r, data.gamma, critic, t, n, bootstrap) for t in range(len(e))]
            for r, e in zip(rewards, data.episodes, strict=True)
        ]

    return advantage


def gae(critic, lam, bootstrap=False):
    """(1−λ)(Â⁽¹⁾ + λÂ⁽²⁾ + λ²Â⁽³⁾ + …), all beyond the end being the last (Schulman et al. 2016, equation 16, first line)."""

    def one(e, r, gamma, t):
        last = len(e) - t
        terms = [n_step_estimator(e, r, gamma, critic, t, n, bootstrap) for n in range(1, last + 1)]
        return (1 - lam) * sum(lam**j * a for j, a in enumerate(terms[:-1])) + lam ** (last - 1) * terms[-1]

    def advantage(data, rewards, log_pi0):
        return [[one(e, r, data.gamma, t) for t in range(len(e))] for r, e in zip(rewards, data.episodes, strict=True)]

    return advantage


def leave_one_out():
    """R_i − 1/(k−1) Σ_{j≠i} R_j (Kool et al. 2019; Ahmadian et al. 2024, section 2.3)."""

    def advantage(data, rewards, log_pi0):
        R = [whole_return(r, data.gamma) for r in rewards]
        return [
            [R[n] - mean([R[m] for m in members if m != n])] * len(rewards[n])
            for n, members in enumerate(groups_of(data))
        ]

    advantage.from_start = True
    return advantage


def leave_one_out_per_step():
    """The same for rewards-to-go, those of the others being zero after their end."""

    def advantage(data, rewards, log_pi0):
        return [
            [
                return_from(r, data.gamma, t)
                - mean([return_from(rewards[m], data.gamma, t) for m in members if m != n])
                for t in range(len(r))
            ]
            for n, (r, members) in enumerate(zip(rewards, groups_of(data), strict=True))
        ]

    return advantage


def group_mean():
    """R_i − mean(R) (Liu et al. 2025, Dr. GRPO, section 3.2)."""

    def advantage(data, rewards, log_pi0):
        R = [whole_return(r, data.gamma) for r in rewards]
        return [[R[n] - mean([R[m] for m in members])] * len(rewards[n]) for n, members in enumerate(groups_of(data))]

    advantage.from_start = True
    return advantage


def group_standardised(ddof, eps, over_batch=False):
    """(R_i − mean(R)) / std(R) of the group (Shao et al. 2024, section 4.1.2; Zheng et al. 2025, equation 6).

    Over the batch: the differences from the group's mean, standardised once more over the batch (Hu et al. 2025,
    REINFORCE++ with baseline).
    """

    def advantage(data, rewards, log_pi0):
        R = [whole_return(r, data.gamma) for r in rewards]
        groups = groups_of(data)
        A = [R[n] - mean([R[m] for m in members]) for n, members in enumerate(groups)]
        if over_batch:
            center, spread = mean(A), deviation(A, ddof)
            A = [(a - center) / (spread + eps) for a in A]
        else:
            A = [a / (deviation([R[m] for m in members], ddof) + eps) for a, members in zip(A, groups, strict=True)]
        return [[a] * len(r) for a, r in zip(A, rewards, strict=True)]

    advantage.from_start = True
    return advantage


def batch_standardised(of, ddof, eps, per_token=True):
    """(A − mean(A)) / std(A) over the batch (Hu et al. 2025, global advantage normalisation)."""

    def advantage(data, rewards, log_pi0):
        A = of(data, rewards, log_pi0)
        if per_token:
            every = [a for row in A for a in row]
        else:  # one number a trajectory, those of length zero included
            every = [whole_return(r, data.gamma) for r in rewards]
            A = [[R] * len(r) for R, r in zip(every, rewards, strict=True)]
        center, spread = mean(every), deviation(every, ddof)
        return [[(a - center) / (spread + eps) for a in row] for row in A]

    advantage.from_start = getattr(of, "from_start", False)
    return advantage


def in_sample_optimal():
    """R − Σ‖z‖²R / Σ‖z‖², z the score sums of the batch itself (Weaver & Tao 2001); scores written out."""

    def advantage(data, rewards, log_pi0):
        R = [whole_return(r, data.gamma) for r in rewards]
        squares = [sum(x * x for x in score_sum(log_pi0, e, data)) for e in data.episodes]
        b = sum(z * x for z, x in zip(squares, R, strict=True)) / sum(squares)
        return [[x - b] * len(r) for x, r in zip(R, rewards, strict=True)]

    advantage.from_start = True
    return advantage


def score_sum(log_pi0, e, data):
    """Σ_t ∇log π(a_t|s_t) = Σ_t (φ(s,a) − Σ_b π(b|s) φ(s,b))/τ (Sutton & Barto, exercise 13.3)."""
    total = [0.0] * len(data.features[0][0])
    for s, a in zip(e.states, e.actions, strict=True):
        for d in range(len(total)):
            expected = sum(math.exp(lp) * phi[d] for lp, phi in zip(log_pi0[s], data.features[s], strict=True))
            total[d] += (data.features[s][a][d] - expected) / data.temperature
    return total


def action_dependent(b):
    """G_t − b(s_t, a_t), the correction left out (Tucker et al. 2018, equation 2)."""

    def advantage(data, rewards, log_pi0):
        return [
            [return_from(r, data.gamma, t) - float(b[e.states[t]][e.actions[t]]) for t in range(len(r))]
            for r, e in zip(rewards, data.episodes, strict=True)
        ]

    return advantage


# Penalties: pairs (place, term(log_pi, e, t)), added to the reward or to the loss of step t


def kl(reference, beta, kind, place, corrected=False):
    """−β k, k1 = d, k2 = d²/2, k3 = exp(−d) − 1 + d, d = log π/π_ref; "full" sums over actions.

    Schulman, "Approximating KL Divergence" (2020); k3 in the loss is Shao et al. 2024, equation 4; k1 in the reward
    Ouyang et al. 2022, equation 2. `reference` holds log-probabilities [s][a].
    """

    def term(log_pi, e, t):
        s, a = e.states[t], e.actions[t]
        if kind == "full":
            return -beta * sum(cmath.exp(lp) * (lp - lr) for lp, lr in zip(log_pi[s], reference[s], strict=True))
        d = log_pi[s][a] - reference[s][a]
        k = {"k1": d, "k2": d * d / 2, "k3": cmath.exp(-d) - 1 + d}[kind]
        return -beta * (ratio(log_pi, e, t) * k if corrected else k)

    return place, real_in_reward(term, place)


def entropy(beta, place, sampled):
    """+β H(s) = −β Σ π log π (Mnih et al. 2016, section 4), or −β log π(a|s)."""

    def term(log_pi, e, t):
        s = e.states[t]
        if sampled:
            return -beta * log_pi[s][e.actions[t]]
        return -beta * sum(cmath.exp(lp) * lp for lp in log_pi[s])

    return place, real_in_reward(term, place)


def real_in_reward(term, place):
    return term if place == "loss" else lambda log_pi, e, t: complex(term(log_pi, e, t)).real


# Normalisers: functions (data, n) → factor


def per_trajectory(data, n):
    return 1.0 / len(data.episodes)


def per_length(data, n):
    """Shao et al. 2024, equation 3."""
    return 1.0 / (len(data.episodes) * len(data.episodes[n]))


def per_token(data, n):
    """Yu et al. 2025, equations 8 and 12."""
    return 1.0 / sum(len(e) for e in data.episodes)


def constant(c):
    """Liu et al. 2025, listing 1."""
    return lambda data, n: 1.0 / (len(data.episodes) * c)


# Ratios: functions (log_pi, log_pi0, data, n, A, factor) → Σ_t of episode n, factor[t] = γᵗ or 1


def on_policy(log_pi, log_pi0, data, n, A, factor):
    """Σ_t log π A (Williams 1992)."""
    e = data.episodes[n]
    return sum(factor[t] * log_prob(log_pi, e, t) * A[t] for t in range(len(e)))


def token(log_pi, log_pi0, data, n, A, factor):
    """Σ_t ρ_t A_t (Schulman et al. 2017, equation 6)."""
    e = data.episodes[n]
    return sum(factor[t] * ratio(log_pi, e, t) * A[t] for t in range(len(e)))


def trajectory(log_pi, log_pi0, data, n, A, factor):
    """sg(Πρ) Σ_t log π A: importance sampling of the whole trajectory (Jie & Abbeel 2010, equation 4)."""
    e = data.episodes[n]
    w = product(ratio(log_pi0, e, t).real for t in range(len(e)))
    return w * on_policy(log_pi, log_pi0, data, n, A, factor)


def truncated(limit, whole=False):
    """sg(min(ratio, limit)) log π A (Ionides 2008, equation 4)."""

    def surrogate(log_pi, log_pi0, data, n, A, factor):
        e = data.episodes[n]
        rho = [ratio(log_pi0, e, t).real for t in range(len(e))]
        if whole:
            rho = [product(rho)] * len(e)
        return sum(factor[t] * min(rho[t], limit) * log_prob(log_pi, e, t) * A[t] for t in range(len(e)))

    return surrogate


def masked(low, high, whole=False):
    """sg(ratio · 1{low ≤ ratio ≤ high}) log π A (IcePop, Ling Team 2025)."""

    def surrogate(log_pi, log_pi0, data, n, A, factor):
        e = data.episodes[n]
        rho = [ratio(log_pi0, e, t).real for t in range(len(e))]
        if whole:
            rho = [product(rho)] * len(e)
        kept = [r if low <= r <= high else 0.0 for r in rho]
        return sum(factor[t] * kept[t] * log_prob(log_pi, e, t) * A[t] for t in range(len(e)))

    return surrogate


def self_normalised(log_pi, log_pi0, data, n, A, factor):
    """sg(w_n / mean(w)) log π A, w = Πρ (Precup et al. 2000, section 3, weighted importance sampling)."""
    w = [product(ratio(log_pi0, e, t).real for t in range(len(e))) for e in data.episodes]
    return w[n] / mean(w) * on_policy(log_pi, log_pi0, data, n, A, factor)


def clipped(lower, upper, dual=None):
    """min(ρA, clip(ρ, 1−ε, 1+ε)A) (Schulman et al. 2017, equation 7; two ranges: Yu et al. 2025, equation 10).

    With the dual clip, max(that, cA) where A < 0 (Ye et al. 2020).
    """

    def surrogate(log_pi, log_pi0, data, n, A, factor):
        e, result = data.episodes[n], 0.0
        for t in range(len(e)):
            r = ratio(log_pi, e, t)
            value = smaller(r * A[t], clip(r, 1 - lower, 1 + upper) * A[t])
            if dual is not None and A[t] < 0:
                value = larger(value, dual * A[t])
            result = result + factor[t] * value
        return result

    return surrogate


def gspo_token(lower=None, upper=None):
    """1/|y| Σ_t min(s_t A_t, clip(s_t) A_t), s_t = sg(s) π/sg(π) (Zheng et al. 2025, equations 13 and 14).

    For an advantage equal at all steps its gradient is that of the sequence's own min(sA, clip(s)A), equation 5.
    """

    def surrogate(log_pi, log_pi0, data, n, A, factor):
        e, result = data.episodes[n], 0.0
        if not len(e):
            return 0.0
        s = math.exp(mean([log_prob(log_pi0, e, t) - e.log_mu[t] for t in range(len(e))]))
        for t in range(len(e)):
            s_t = s * cmath.exp(log_prob(log_pi, e, t) - log_prob(log_pi0, e, t))
            value = s_t * A[t] if lower is None else smaller(s_t * A[t], clip(s_t, 1 - lower, 1 + upper) * A[t])
            result = result + factor[t] * value / len(e)
        return result

    return surrogate


def family(advantage, surrogate=on_policy, penalties=(), normaliser=per_trajectory, discounted=True):
    """The slots put together, each step's loss being its surrogate plus its penalties, times γᵗ."""

    def objective(log_pi, log_pi0, data):
        A = advantage(data, rewards_of(log_pi0, data, penalties), log_pi0)
        total = 0.0
        for n, e in enumerate(data.episodes):
            if not len(e):
                continue
            discount = [data.gamma**t if discounted else 1.0 for t in range(len(e))]
            factor = [1.0] * len(e) if getattr(advantage, "from_start", False) else discount
            value = surrogate(log_pi, log_pi0, data, n, A[n], factor)
            for place, term in penalties:
                if place == "loss":
                    value = value + sum(discount[t] * term(log_pi, e, t) for t in range(len(e)))
            total = total + normaliser(data, n) * value
        return total

    return objective


# Corrections that look inside the advantage: whole objectives of their own


def per_decision_return(b=0.0):
    """Σ_t γᵗ r_t Π_{u≤t} ρ_u, differentiated as it stands (Precup et al. 2000, section 3, equation 3).

    The baseline is the control variate Σ_t γᵗ sg(Π_{u<t} ρ_u) ρ_t b(s_t), of expectation constant in θ.
    """

    def objective(log_pi, log_pi0, data):
        total = 0.0
        for e in data.episodes:
            w, before = 1.0, 1.0
            for t, r in enumerate(e.rewards):
                w = w * ratio(log_pi, e, t)
                variate = before * ratio(log_pi, e, t) * lookup(b, t, e.states[t])
                before = before * ratio(log_pi0, e, t).real
                total = total + data.gamma**t * (w * r - variate)
        return total / len(data.episodes)

    return objective


def per_decision(critic, lam, past=True, bootstrap=False, discounted=True):
    """Σ_t γᵗ log π_t Σ_l (γλ)ˡ sg(ρ_0 … ρ_{t+l}) δ_{t+l}; without the past, sg(ρ_t … ρ_{t+l})."""

    def objective(log_pi, log_pi0, data):
        total = 0.0
        for e in data.episodes:
            rho = [ratio(log_pi0, e, t).real for t in range(len(e))]
            for t in range(len(e)):
                A = 0.0
                for k in range(t, len(e)):
                    delta = n_step_estimator(e, e.rewards, data.gamma, critic, k, 1, bootstrap)
                    A += (data.gamma * lam) ** (k - t) * product(rho[0 if past else t : k + 1]) * delta
                total = total + (data.gamma**t if discounted else 1.0) * log_prob(log_pi, e, t) * A
        return total / len(data.episodes)

    return objective


def v_trace(critic, rho_limit, c_limit, lam=1.0, bootstrap=False, discounted=True):
    """ρ_s log π(a_s|x_s) (r_s + γ v_{s+1} − V(x_s)), v_s = V(x_s) + Σ_t γᵗ⁻ˢ (Π_{i<t} c_i) ρ_t (r_t + γV(x_{t+1}) − V(x_t)).

    Espeholt et al. 2018, equation 1 and section 4.2, with c_i = λ min(c̄, π/μ) of remark 2. For λ < 1 the target of the
    policy is mixed as in rlax, λ v_{s+1} + (1−λ) V(x_{s+1}); the paper, whose policy gradient is written for λ = 1,
    says nothing of it.
    """

    def objective(log_pi, log_pi0, data):
        total, gamma = 0.0, data.gamma
        for e in data.episodes:
            ratios = [ratio(log_pi0, e, t).real for t in range(len(e))]
            rho, c = [min(r, rho_limit) for r in ratios], [lam * min(r, c_limit) for r in ratios]
            V = [value_after(critic, e, t, bootstrap) for t in range(len(e) + 1)]
            v = [
                V[s]
                + sum(
                    gamma ** (t - s) * product(c[s:t]) * rho[t] * (e.rewards[t] + gamma * V[t + 1] - V[t])
                    for t in range(s, len(e))
                )
                for s in range(len(e) + 1)
            ]
            for s in range(len(e)):
                target = e.rewards[s] + gamma * (lam * v[s + 1] + (1 - lam) * V[s + 1])
                factor = gamma**s if discounted else 1.0
                total = total + factor * rho[s] * log_prob(log_pi, e, s) * (target - V[s])
        return total / len(data.episodes)

    return objective


# The named algorithms, written out one by one


def reinforce(log_pi, log_pi0, data):
    """1/N Σ_n R_n Σ_t log π(a_t|s_t) (Williams 1992, equation 11)."""
    total = 0.0
    for e in data.episodes:
        R = sum(data.gamma**t * r for t, r in enumerate(e.rewards))
        total = total + R * sum(log_prob(log_pi, e, t) for t in range(len(e)))
    return total / len(data.episodes)


def gpomdp(b=0.0):
    """1/N Σ_n Σ_t γᵗ (r_t Σ_{u≤t} log π_u − b log π_t): rewards times eligibility traces (Peters & Schaal 2008, section 3.2)."""

    def objective(log_pi, log_pi0, data):
        total = 0.0
        for e in data.episodes:
            z = 0.0
            for t, r in enumerate(e.rewards):
                z = z + log_prob(log_pi, e, t)
                total = total + data.gamma**t * (r * z - lookup(b, t, e.states[t]) * log_prob(log_pi, e, t))
        return total / len(data.episodes)

    return objective


def actor_critic(critic, discounted=True):
    """1/N Σ Σ γᵗ log π_t (r_t + γ V(s_{t+1}) − V(s_t)) (Sutton & Barto, equations 13.12 to 13.14 and the box after it)."""

    def objective(log_pi, log_pi0, data):
        total = 0.0
        for e in data.episodes:
            for t, r in enumerate(e.rewards):
                after = lookup(critic, t + 1, e.states[t + 1]) if t + 1 < len(e) else 0.0
                delta = r + data.gamma * after - lookup(critic, t, e.states[t])
                total = total + (data.gamma**t if discounted else 1.0) * log_prob(log_pi, e, t) * delta
        return total / len(data.episodes)

    return objective


def a2c(critic, lam, beta, bootstrap, discounted):
    """Σ log π_t Â_t + β H(s_t) (Mnih et al. 2016, section 4 and algorithm S3; Â of Schulman et al. 2016, equation 16)."""

    def objective(log_pi, log_pi0, data):
        A, total = gae(critic, lam, bootstrap)(data, [e.rewards for e in data.episodes], log_pi0), 0.0
        for n, e in enumerate(data.episodes):
            for t in range(len(e)):
                H = -sum(cmath.exp(lp) * lp for lp in log_pi[e.states[t]])
                step = log_prob(log_pi, e, t) * A[n][t] + beta * H
                total = total + (data.gamma**t if discounted else 1.0) * step
        return total / len(data.episodes)

    return objective


def ppo(critic, lam, epsilon, beta, bootstrap, discounted):
    """min(ρÂ, clip(ρ, 1−ε, 1+ε)Â) + c₂ S (Schulman et al. 2017, equations 7, 9 and 11)."""

    def objective(log_pi, log_pi0, data):
        A, total = gae(critic, lam, bootstrap)(data, [e.rewards for e in data.episodes], log_pi0), 0.0
        for n, e in enumerate(data.episodes):
            for t in range(len(e)):
                r = ratio(log_pi, e, t)
                S = -sum(cmath.exp(lp) * lp for lp in log_pi[e.states[t]])
                step = smaller(r * A[n][t], clip(r, 1 - epsilon, 1 + epsilon) * A[n][t]) + beta * S
                total = total + (data.gamma**t if discounted else 1.0) * step
        return total / len(data.episodes)

    return objective


def rloo(reference=None, beta=0.0):
    """1/k Σ_i (R_i − 1/(k−1) Σ_{j≠i} R_j) log π(y_i|x), R = r − β log π(y|x)/π_ref(y|x) (Ahmadian et al. 2024, section 2)."""

    def objective(log_pi, log_pi0, data):
        R = []
        for e in data.episodes:
            rewards = list(e.rewards)
            if reference is not None:
                for t in range(len(e)):
                    rewards[t] -= beta * (log_prob(log_pi0, e, t) - log_prob(reference, e, t))
            R.append(whole_return(rewards, data.gamma))
        total = 0.0
        for i, members in enumerate(groups_of(data)):
            others = [R[j] for j in members if j != i]
            e = data.episodes[i]
            total = total + (R[i] - mean(others)) * sum(log_prob(log_pi, e, t) for t in range(len(e)))
        return total / len(data.episodes)

    return objective


def reinforce_plus_plus(epsilon, eps, reference=None, beta=0.0, old=False):
    """A_t = return − β Σ_{i≥t} KL(i), standardised over all tokens of the batch, in PPO's clipped objective.

    Hu et al. 2025. The paper's KL(i) = log π_old/π_ref is that of the policy that drew the data (`old`); with
    old=False it is that of the present one, which is the same on-policy.
    """

    def objective(log_pi, log_pi0, data):
        A = []
        for e in data.episodes:
            rewards = list(e.rewards)
            if reference is not None:
                for t in range(len(e)):
                    now = e.log_mu[t] if old else log_prob(log_pi0, e, t)
                    rewards[t] -= beta * (now - log_prob(reference, e, t))
            A.append([return_from(rewards, data.gamma, t) for t in range(len(e))])
        tokens = [a for row in A for a in row]
        center, spread = mean(tokens), deviation(tokens, 0)
        total = 0.0
        for n, e in enumerate(data.episodes):
            for t in range(len(e)):
                normed, r = (A[n][t] - center) / (spread + eps), ratio(log_pi, e, t)
                step = smaller(r * normed, clip(r, 1 - epsilon, 1 + epsilon) * normed)
                total = total + data.gamma**t * step
        return total / len(tokens)

    return objective


def reinforce_plus_plus_baseline(epsilon, eps, reference=None, beta=0.0):
    """A = (R − mean_group)/std_batch, clipped, minus β k2 (Hu et al. 2025, the variant with a baseline)."""

    def objective(log_pi, log_pi0, data):
        A = group_standardised(0, eps, over_batch=True)(data, [e.rewards for e in data.episodes], log_pi0)
        total = 0.0
        for n, e in enumerate(data.episodes):
            for t in range(len(e)):
                r = ratio(log_pi, e, t)
                total = total + smaller(r * A[n][t], clip(r, 1 - epsilon, 1 + epsilon) * A[n][t])
                if reference is not None:
                    d = log_prob(log_pi, e, t) - log_prob(reference, e, t)
                    total = total - data.gamma**t * beta * d * d / 2
        return total / sum(len(e) for e in data.episodes)

    return objective


def grpo(epsilon, ddof, eps, reference=None, beta=0.0):
    """1/G Σ_i 1/|o_i| Σ_t {min[ρÂ, clip(ρ)Â] − β (π_ref/π − log π_ref/π − 1)} (Shao et al. 2024, equations 3 and 4)."""

    def objective(log_pi, log_pi0, data):
        R = [whole_return(e.rewards, data.gamma) for e in data.episodes]
        total = 0.0
        for i, members in enumerate(groups_of(data)):
            e, G = data.episodes[i], [R[j] for j in members]
            A = (R[i] - mean(G)) / (deviation(G, ddof) + eps)
            for t in range(len(e)):
                r = ratio(log_pi, e, t)
                step = smaller(r * A, clip(r, 1 - epsilon, 1 + epsilon) * A)
                if reference is not None:
                    log_ratio = log_prob(reference, e, t) - log_prob(log_pi, e, t)
                    step = step - data.gamma**t * beta * (cmath.exp(log_ratio) - log_ratio - 1)
                total = total + step / len(e)
        return total / len(data.episodes)

    return objective


def dr_grpo(epsilon, c):
    """1/G Σ_i 1/c Σ_t min[ρÂ, clip(ρ)Â], Â = R − mean(R) (Liu et al. 2025, section 3.2; the constant of listing 1)."""

    def objective(log_pi, log_pi0, data):
        R = [whole_return(e.rewards, data.gamma) for e in data.episodes]
        total = 0.0
        for i, members in enumerate(groups_of(data)):
            e, A = data.episodes[i], R[i] - mean([R[j] for j in members])
            for t in range(len(e)):
                r = ratio(log_pi, e, t)
                total = total + smaller(r * A, clip(r, 1 - epsilon, 1 + epsilon) * A) / c
        return total / len(data.episodes)

    return objective


def dapo(lower, upper, ddof, eps):
    """1/Σ|o_i| Σ_i Σ_t min[ρÂ, clip(ρ, 1−ε_low, 1+ε_high)Â] (Yu et al. 2025, equations 8 to 10)."""

    def objective(log_pi, log_pi0, data):
        R = [whole_return(e.rewards, data.gamma) for e in data.episodes]
        total = 0.0
        for i, members in enumerate(groups_of(data)):
            e, G = data.episodes[i], [R[j] for j in members]
            A = (R[i] - mean(G)) / (deviation(G, ddof) + eps)
            for t in range(len(e)):
                r = ratio(log_pi, e, t)
                total = total + smaller(r * A, clip(r, 1 - lower, 1 + upper) * A)
        return total / sum(len(e) for e in data.episodes)

    return objective


def gspo(lower, upper, ddof, eps):
    """1/G Σ_i min(s_i Â_i, clip(s_i, 1−ε, 1+ε) Â_i), s_i = (π(y_i)/π_old(y_i))^{1/|y_i|} (Zheng et al. 2025, equations 5 to 7)."""

    def objective(log_pi, log_pi0, data):
        R = [whole_return(e.rewards, data.gamma) for e in data.episodes]
        total = 0.0
        for i, members in enumerate(groups_of(data)):
            e, G = data.episodes[i], [R[j] for j in members]
            if not len(e):
                continue
            A = (R[i] - mean(G)) / (deviation(G, ddof) + eps)
            s = cmath.exp(sum(log_prob(log_pi, e, t) - e.log_mu[t] for t in range(len(e))) / len(e))
            total = total + smaller(s * A, clip(s, 1 - lower, 1 + upper) * A)
        return total / len(data.episodes)

    return objective
