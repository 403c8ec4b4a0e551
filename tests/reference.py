"""A slow and obvious oracle: every answer from a list of all trajectories, in exact fractions.

It imports nothing from reinforce_np and reads only these attributes of a model: probability, next_state, reward and
terminated [s][a][k], initial [s], gamma, horizon. Every input is turned into a Fraction, which is exact for a float
too; results are Fractions. A policy is a table pi[s][a] of probabilities; a score is a function of (s, a) that returns
the D numbers of grad log pi(a|s).

Conventions: steps[t] = (s, a, r), where r is paid for action a taken in state s at time t and is discounted by
gamma**t. A terminated outcome ends an episode; `horizon` steps truncate it.
"""

import functools
import itertools
import math
from fractions import Fraction


def exact(x):
    """The number x, without rounding, as a Fraction (NaN and infinity are errors)."""
    if isinstance(x, Fraction):
        return x
    return of_number(x.item() if hasattr(x, "item") else x)  # NumPy scalars become Python numbers first


of_number = functools.cache(Fraction)  # the same few numbers come again and again


def dot(xs, ys):
    """The sum of the products of two lists."""
    return sum((exact(x) * exact(y) for x, y in zip(xs, ys, strict=True)), Fraction(0))


def weighted_sum(pairs, D):
    """The sum of weight times vector over pairs (weight, D numbers)."""
    total = [Fraction(0)] * D
    for weight, vector in pairs:
        total = [x + weight * exact(y) for x, y in zip(total, vector, strict=True)]
    return total


def outcomes(mdp, s, a):
    """Yield (probability, next state, reward, terminated) of each possible outcome of action a in state s."""
    for k in range(len(mdp.probability[s][a])):
        p = exact(mdp.probability[s][a][k])
        if p != 0:
            yield p, int(mdp.next_state[s][a][k]), exact(mdp.reward[s][a][k]), bool(mdp.terminated[s][a][k])


def trajectories(mdp, pi):
    """Yield (probability, steps, terminated, final_state) of every trajectory of positive probability.

    Paths are not merged: two outcomes with the same reward and next state give two trajectories.
    """
    if mdp.horizon is None:
        raise ValueError("horizon=None has no list of all trajectories; give the model a finite horizon")

    def continue_from(p, steps, s):
        if len(steps) == mdp.horizon:
            yield p, steps, False, s
            return
        for a in [a for a in range(len(pi[s])) if pi[s][a] != 0]:
            for p_outcome, s_next, r, terminated in outcomes(mdp, s, a):
                p_longer, longer = p * exact(pi[s][a]) * p_outcome, [*steps, (s, a, r)]
                if terminated:
                    yield p_longer, longer, True, s_next
                else:
                    yield from continue_from(p_longer, longer, s_next)

    for s in range(len(mdp.initial)):
        if mdp.initial[s] != 0:
            yield from continue_from(exact(mdp.initial[s]), [], s)


def count_trajectories(mdp, pi):
    """The number of trajectories of positive probability."""
    return sum(1 for _ in trajectories(mdp, pi))


def discounted_return(steps, gamma):
    """R = sum over t of gamma**t r_t."""
    return dot([exact(gamma) ** t for t in range(len(steps))], [r for _, _, r in steps])


def objective(mdp, pi, gamma=None):
    """J = E[R]; `gamma` replaces the model's own, so gamma=1 is the undiscounted objective."""
    gamma = mdp.gamma if gamma is None else gamma
    return sum((p * discounted_return(steps, gamma) for p, steps, _, _ in trajectories(mdp, pi)), Fraction(0))


def values(mdp, pi):
    """V[t][s], t = 0 .. horizon, of the discounted reward still to come: backwards from V[horizon] = 0."""
    V = [[Fraction(0)] * len(pi)]
    for _ in range(mdp.horizon):
        V.insert(0, [dot(pi[s], q) for s, q in enumerate(backup(mdp, V[0]))])
    return V


def action_values(mdp, pi):
    """Q[t][s][a], t = 0 .. horizon - 1."""
    return [backup(mdp, V_next) for V_next in values(mdp, pi)[1:]]


def backup(mdp, V_next):
    """Q(s, a) = sum over outcomes of p (r + gamma V_next(s')), where V_next counts 0 after a termination."""
    Q = [[Fraction(0) for _ in row] for row in mdp.probability]
    for s, a in itertools.product(range(len(Q)), range(len(Q[0]))):
        for p, s_next, r, terminated in outcomes(mdp, s, a):
            Q[s][a] += p * (r if terminated else r + exact(mdp.gamma) * V_next[s_next])
    return Q


def occupancy(mdp, pi):
    """d[t][s] = gamma**t Pr(the episode takes a step at time t, in state s), t = 0 .. horizon - 1."""
    d, now = [], [exact(p) for p in mdp.initial]
    for _ in range(mdp.horizon):
        d.append(now)
        now = [Fraction(0)] * len(pi)
        for s, a in itertools.product(range(len(pi)), range(len(pi[0]))):
            for p, s_next, _, terminated in outcomes(mdp, s, a):
                if not terminated:
                    now[s_next] += exact(mdp.gamma) * d[-1][s] * exact(pi[s][a]) * p
    return d


def softmax(logits_row, temperature=1):
    """Probabilities proportional to exp(logit / temperature), as floats."""
    largest = max(logits_row)
    exponentials = [math.exp((x - largest) / temperature) for x in logits_row]
    return [e / math.fsum(exponentials) for e in exponentials]


def tabular_features(S, A):
    """Features that make a linear policy tabular: parameter s * A + a is the logit of action a in state s."""
    return [[[int(d == s * A + a) for d in range(S * A)] for a in range(A)] for s in range(S)]


def score_linear(features, theta, s, a, temperature=1):
    """(features[s][a] - sum over b of pi(b|s) features[s][b]) / temperature, as floats."""
    pi = softmax([math.fsum(x * y for x, y in zip(phi, theta, strict=True)) for phi in features[s]], temperature)
    columns = zip(*features[s], strict=True)  # column d holds the feature d of every action
    return [math.fsum([c[a]] + [-p * x for p, x in zip(pi, c, strict=True)]) / temperature for c in columns]


def score_tabular(theta, s, a, S, A, temperature=1):
    """(Indicator of a minus pi(.|s)) / temperature in the entries of state s, 0 elsewhere, as floats; theta is flat."""
    pi = softmax([theta[s * A + b] for b in range(A)], temperature)
    own = [((b == a) - pi[b]) / temperature for b in range(A)]
    return [0.0] * (s * A) + own + [0.0] * ((S - s - 1) * A)


def score_exact(features, pi, s, a):
    """`score_linear` in Fractions, for a softmax policy whose probabilities pi are given instead of its theta."""
    return [exact(c[a]) - dot(pi[s], c) for c in zip(*features[s], strict=True)]


def softmax_derivative(features, weights, s, a):
    """d pi(a|s) / d theta by the quotient rule on pi = w_a / Z, Z = sum of w, where w = exp(logit) has dw = w phi."""
    w = [exact(x) for x in weights[s]]
    return [(w[a] * exact(c[a]) * sum(w) - w[a] * dot(w, c)) / sum(w) ** 2 for c in zip(*features[s], strict=True)]


def gradient_by_log_derivative(mdp, pi, score, gamma=None):
    """Gradient of J: sum over trajectories of p (sum of scores) R."""
    gamma, weighted = mdp.gamma if gamma is None else gamma, []
    for p, steps, _, _ in trajectories(mdp, pi):
        R = discounted_return(steps, gamma)
        weighted += [(p * R, score(s, a)) for s, a, _ in steps]
    return weighted_sum(weighted, D=len(score(0, 0)))


def derivative_in_probabilities(mdp, pi, gamma=None):
    """dJ / d pi[s][a], each entry of pi moved alone: the product rule on the factors pi of every trajectory."""
    gamma = mdp.gamma if gamma is None else gamma
    derivative = [[Fraction(0) for _ in row] for row in pi]
    ones = [[1 for _ in row] for row in pi]  # with them, p is the product of the model's factors alone
    for p, steps, _, _ in trajectories(mdp, ones):
        R = discounted_return(steps, gamma)
        for s, a, others in [(s, a, steps[:t] + steps[t + 1 :]) for t, (s, a, _) in enumerate(steps)]:
            derivative[s][a] += p * R * math.prod(exact(pi[i][j]) for i, j, _ in others)
    return derivative


def gradient_by_quotient(mdp, pi, policy_derivative, gamma=None):
    """Gradient of J by the chain rule; policy_derivative(s, a) returns the D numbers d pi[s][a] / d theta.

    With `softmax_derivative` it uses no score and no logarithm: a route independent of the log-derivative.
    """
    dJ = derivative_in_probabilities(mdp, pi, gamma)
    weighted = [(dJ[s][a], policy_derivative(s, a)) for s in range(len(pi)) for a in range(len(pi[s]))]
    return weighted_sum(weighted, D=len(policy_derivative(0, 0)))


def moments(weighted):
    """Mean (D,) and covariance (D, D) of a list of (probability, D numbers)."""
    D = len(weighted[0][1])
    mean = weighted_sum(weighted, D)
    products = []
    for p, g in weighted:
        deviation = [exact(g[d]) - mean[d] for d in range(D)]
        products.append((p, [x * y for x in deviation for y in deviation]))
    flat = weighted_sum(products, D * D)
    return mean, [flat[d * D : (d + 1) * D] for d in range(D)]


def estimator_mean_and_second_moment(mdp, pi, f):
    """Mean and covariance (the central second moment) of f(steps, terminated, final_state) over one trajectory."""
    return moments([(p, f(*episode)) for p, *episode in trajectories(mdp, pi)])


def batch_mean_and_second_moment(mdp, pi, f, n):
    """Mean and covariance of f(batch) over n independent trajectories; batch[i] = (steps, terminated, final_state)."""
    batches = itertools.product(list(trajectories(mdp, pi)), repeat=n)
    return moments([(math.prod(p for p, *_ in batch), f([tuple(e) for _, *e in batch])) for batch in batches])


def batch_mean(mdp, pi, f, n):
    """Mean of f(batch) over all n-tuples of trajectories (for groups that share a prompt, fix `initial`)."""
    return batch_mean_and_second_moment(mdp, pi, f, n)[0]


def reinforce(steps, score, gamma, kind="total", baseline=None, discounted_score=True):
    """The textbook estimate of the gradient of J from one trajectory; baseline is None or a function of (t, s).

    total   sum over t of score_t (R - b_t)
    to_go   sum over t of gamma**t score_t (G_t - b_t), G_t = r_t + gamma r_(t+1) + ...; the factor gamma**t is
            left out (a famous mistake) when discounted_score is False
    """
    if kind not in ("total", "to_go") or (kind == "total" and not discounted_score):
        raise ValueError(
            f"{kind=}, {discounted_score=}: use 'total' or 'to_go'; only 'to_go' has a gamma**t to leave out"
        )
    weighted = []
    for t, (s, a, _) in enumerate(steps):
        weight = discounted_return(steps if kind == "total" else steps[t:], gamma)
        weight -= 0 if baseline is None else exact(baseline(t, s))
        if kind == "to_go" and discounted_score:
            weight *= exact(gamma) ** t
        weighted.append((weight, score(s, a)))
    return weighted_sum(weighted, D=len(score(0, 0)))
