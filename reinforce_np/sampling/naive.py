"""The sampler as one would write it first: a loop over steps and trajectories, in whole numbers.

It draws what `sample` draws, bit for bit, hundreds of times slower, and shares
nothing with it but the columns of `alias.split`. To be read, and to be compared.
"""

import numpy as np

from reinforce_np.sampling.alias import LOW_BITS, TOTAL, log_columns, split, whole_numbers
from reinforce_np.sampling.blocks import DROP


def naive_block(mdp, mu, entropy, spawn_key, n, *, group_size=1, joint=True, at_once=1):
    """Return n paths [(state, action, outcome), ...] and the final states, drawn with the block's seed.

    `mu` (S, A) are the probabilities of the actions; `joint` says whether
    (action, outcome) are drawn at once, `at_once` steps of them, or one after the other.
    """
    bits = np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=spawn_key))
    _, A, K = mdp.probability.shape
    first = draw_first(mdp.initial, n // group_size, bits)
    state = [first[i // group_size] for i in range(n)]
    ended = [False] * n
    paths: list[list[tuple]] = [[] for _ in range(n)]
    drawing = list(range(n))
    for t in range(0, mdp.horizon, at_once):
        if joint:
            rows = {key: path_probabilities(mdp, mu, *key, at_once) for key in {(state[i], ended[i]) for i in drawing}}
            numbers = draw([rows[state[i], ended[i]] for i in drawing], bits)
            choices = [[divmod(cell, K) for cell in digits(number, A * K, at_once)] for number in numbers]
        else:
            actions = draw([waiting(A) if ended[i] else mu[state[i]] for i in drawing], bits)
            pairs = zip(drawing, actions, strict=True)
            outcomes = draw([waiting(K) if ended[i] else mdp.probability[state[i], a] for i, a in pairs], bits)
            choices = [[choice] for choice in zip(actions, outcomes, strict=True)]
        for i, steps in zip(drawing, choices, strict=True):
            for a, k in steps[: mdp.horizon - t]:
                if not ended[i]:
                    s = state[i]
                    paths[i].append((s, a, k))
                    state[i], ended[i] = int(mdp.next_state[s, a, k]), bool(mdp.terminated[s, a, k])
        n_left = sum(not ended[i] for i in drawing)
        if DROP * (len(drawing) - n_left) >= len(drawing):
            movers = iter([i for i in drawing[n_left:] if not ended[i]])
            drawing = [next(movers) if ended[i] else i for i in drawing[:n_left]]
    return paths, state


def path_probabilities(mdp, mu, state, ended, n_steps):
    """Return the probabilities of all paths of cells (action, outcome), the first step the most significant."""
    _, A, K = mdp.probability.shape
    if n_steps == 0 or ended:
        return waiting((A * K) ** n_steps)[0]
    return np.concatenate([
        mu[state, a] * mdp.probability[state, a, k]
        * path_probabilities(mdp, mu, mdp.next_state[state, a, k], mdp.terminated[state, a, k], n_steps - 1)
        for a in range(A) for k in range(K)
    ])  # fmt: skip


def digits(number, base, n):
    """Return the n digits of a number, the most significant first."""
    return [number // base**i % base for i in reversed(range(n))]


def waiting(n_entries):
    """Return the probabilities from which a finished trajectory draws: always the first entry."""
    return np.eye(1, n_entries)


def draw_first(initial, n, bits):
    """Draw n first states; where there is but one, the words are passed over."""
    if np.count_nonzero(initial) > 1:
        return draw([initial] * n, bits)
    bits.random_raw((n + 1) // 2)
    return [int(np.argmax(initial))] * n


def draw(rows, bits):
    """Draw an entry from each row of probabilities: a word for each of them first, then a tail for each that ties."""
    columns = [columns_of(row) for row in rows]
    raw = [int(bits.random_raw()) for _ in range((len(rows) + 1) // 2)]
    words = [half for number in raw for half in (number % 2**32, number // 2**32)]
    return [pick(parts, word, bits) for parts, word in zip(columns, words, strict=False)]


def columns_of(probability):
    """Return own, keep and other of one row, as lists."""
    probability = np.reshape(probability, (1, -1))
    L = 2 ** log_columns(probability.shape[1])
    return [x[0].tolist() for x in split(whole_numbers(probability, L))]


def pick(columns, word, bits):
    """Return the entry that a random whole number of 62 bits falls into, of which `word` is the first 32."""
    own, keep, other = columns
    full = TOTAL // len(own)
    column = word * 2**LOW_BITS // full
    limit = column * full + keep[column]  # the first number that belongs to the other entry
    tie = word == (limit - 1) >> LOW_BITS
    tail = int(bits.random_raw()) >> (64 - LOW_BITS) if tie else 0
    return own[column] if word * 2**LOW_BITS + tail < limit else other[column]
