"""Language models in miniature: prompts, tokens, a verifier."""

import numpy as np

from reinforce_np import arguments
from reinforce_np.mdp import FiniteMDP


def token_sequences(vocabulary, max_length, verifier, prompts, *, weights=None, limit=100_000):
    """Writing an answer to a prompt, token by token, for a verifier's score.

    The states are the nodes of one prefix tree per prompt: a state *is* a
    prompt and what has been written so far. Actions 0 … V − 1 write a token of
    the vocabulary, the last action, V, is the *end token*. An answer ends,
    with its score as the only reward,

    - when the end token is taken: the answer is what was written before. The
      end token is an action (a step, a term of the score function) but not
      part of the answer and does not count towards `max_length`;
    - when the `max_length`-th token is written: at once, with no end token.

    So an answer of length l takes l + 1 actions, but `max_length` actions when
    l = `max_length`; no episode is ever truncated. The empty answer is
    possible. The transition that ends an answer stays in its state.

    **Known answer.** J = Σ_prompts w(prompt) Σ_answers π(answer | prompt) ·
    verifier(prompt, answer), a finite sum over all answers; under the uniform
    policy π(answer | prompt) = (V + 1)^−(number of actions).

    Parameters
    ----------
    vocabulary : sequence, length V
        The tokens, any objects; a string is a sequence of letters.
    max_length : int
        Largest number of tokens of an answer, at least 1.
    verifier : callable
        ``verifier(prompt, tokens) -> float``, with `tokens` a tuple of
        vocabulary entries; False and True are 0 and 1. It is called once for
        every prompt and answer.
    prompts : sequence
        The prompts, any objects.
    weights : array (number of prompts,), optional
        Probability of each prompt; uniform by default.
    limit : int
        Largest number of (prompt, answer) pairs.

    Returns
    -------
    FiniteMDP
        One state per prompt and prefix shorter than `max_length`, in the
        order of `token_sequence_states`; V + 1 actions, 1 outcome, γ = 1,
        horizon `max_length`. The initial states are the empty prefixes.

    Raises
    ------
    TooLargeError
        When there are more than `limit` answers to score, before any is.

    See Also
    --------
    token_sequence_states : The prompt and prefix of every state.

    Examples
    --------
    One prompt, the tokens a and b; the score is the number of a's:

    >>> mdp = token_sequences("ab", 2, lambda prompt, tokens: tokens.count("a"), ["hello"])
    >>> token_sequence_states("ab", 2, ["hello"])
    [('hello', ()), ('hello', ('a',)), ('hello', ('b',))]
    >>> mdp.next_state[:, :, 0]  # columns: write a, write b, end
    array([[1, 2, 0],
           [1, 1, 1],
           [2, 2, 2]])
    >>> mdp.reward[:, :, 0]
    array([[0., 0., 0.],
           [2., 1., 1.],
           [1., 0., 0.]])
    """
    vocabulary, prompts = list(vocabulary), list(prompts)
    n_prefixes = _tree_size(vocabulary, max_length, prompts, limit)
    states = token_sequence_states(vocabulary, max_length, prompts, limit=limit)
    n_tokens, end = len(vocabulary), len(vocabulary)
    # Breadth-first numbering makes the children of node i of a V-ary tree V·i + 1 … V·i + V.
    node = np.arange(n_prefixes)
    child = n_tokens * node[:, None] + 1 + np.arange(n_tokens)
    over = np.ones((n_prefixes, n_tokens + 1), dtype=bool)
    over[:, :end] = child >= n_prefixes
    next_node = np.tile(node[:, None], n_tokens + 1)
    next_node[:, :end] = np.where(over[:, :end], next_node[:, :end], child)

    over = np.tile(over, (len(prompts), 1))
    first = n_prefixes * np.arange(len(prompts))
    reward = np.zeros(over.shape)
    for s, a in np.argwhere(over):
        prompt, prefix = states[s]
        tokens = prefix if a == end else (*prefix, vocabulary[a])
        score = verifier(prompt, tokens)
        score = float(score) if isinstance(score, (bool, np.bool_)) else score  # a verdict is a score of 0 or 1
        reward[s, a] = arguments.number(f"verifier({prompt!r}, {tokens!r})", score)

    initial = np.zeros(len(states))
    initial[first] = 1.0 / len(prompts) if weights is None else _prompt_weights(weights, len(prompts))
    return FiniteMDP(
        probability=np.ones((*over.shape, 1)),
        next_state=(first[:, None, None] + next_node).reshape(*over.shape, 1),
        reward=reward[..., None],
        terminated=over[..., None],
        initial=initial,
        gamma=1.0,
        horizon=max_length,
    )


def token_sequence_states(vocabulary, max_length, prompts, *, limit=100_000):
    """The prompt and the prefix behind every state of `token_sequences`.

    Prompt by prompt, and for each all prefixes shorter than `max_length`,
    the short ones first, those of equal length in the order of the
    vocabulary.

    Parameters
    ----------
    vocabulary, max_length, prompts, limit
        As in `token_sequences`.

    Returns
    -------
    list of (prompt, tuple of tokens)
        Entry s describes state s.

    Examples
    --------
    >>> [("".join(prefix)) for prompt, prefix in token_sequence_states("ab", 3, ["?"])]
    ['', 'a', 'b', 'aa', 'ab', 'ba', 'bb']
    """
    vocabulary, prompts = list(vocabulary), list(prompts)
    n_prefixes = _tree_size(vocabulary, max_length, prompts, limit)
    prefixes: list[tuple] = [()]
    while len(prefixes) < n_prefixes:
        parent = prefixes[(len(prefixes) - 1) // len(vocabulary)]
        prefixes += [(*parent, token) for token in vocabulary]
    return [(prompt, prefix) for prompt in prompts for prefix in prefixes]


def copy_task(*, vocabulary="ab", prompts=("a", "ba"), max_length=3):
    """Copy the prompt, then stop: a 0/1 verifier.

    The score is 1 when the answer is the prompt, token for token, and 0
    otherwise.

    **Known answer.** J is the probability of writing the prompt and ending.
    Under the uniform policy a prompt of l < `max_length` tokens is copied
    with probability (V + 1)^−(l + 1), for the defaults J = (1/9 + 1/27) / 2 =
    2/27; with a tabular softmax the gradient at the prompt's first state is
    w J_prompt (1 − π) for the right token and −w J_prompt π for the others,
    w the prompt's weight. (An own construction; no source needed.)

    Parameters
    ----------
    vocabulary : sequence
        The tokens.
    prompts : sequence of sequences of tokens
        What is to be copied; each equally likely.
    max_length : int
        Largest number of tokens of an answer.

    Returns
    -------
    FiniteMDP
        As from `token_sequences`.

    Examples
    --------
    >>> mdp = copy_task()
    >>> mdp
    FiniteMDP(n_states=14, n_actions=3, n_outcomes=1, gamma=1, horizon=3)
    >>> mdp.initial.nonzero()[0], float(mdp.reward.sum())
    (array([0, 7]), 2.0)
    """
    return token_sequences(vocabulary, max_length, lambda prompt, tokens: tuple(prompt) == tokens, prompts)


def _tree_size(vocabulary, max_length, prompts, limit):
    """Return the number of prefixes per prompt; refuse what is empty or huge."""
    max_length = arguments.integer("max_length", max_length, low=1)
    if not vocabulary:
        raise ValueError("vocabulary is empty; pass at least one token")
    if not prompts:
        raise ValueError("prompts is empty; pass at least one prompt")
    n_prefixes, level = 0, 1
    for _ in range(max_length):
        n_prefixes, level = n_prefixes + level, level * len(vocabulary)
        if len(prompts) * (n_prefixes + level) > limit:
            raise arguments.TooLargeError(
                f"max_length={max_length} with {len(vocabulary)} tokens and {len(prompts)} prompts "
                f"gives {_answers(vocabulary, max_length, prompts)} answers to score, more than limit={limit}; "
                "shorten the answers, use fewer tokens or prompts, or raise the limit"
            )
    return n_prefixes


def _answers(vocabulary, max_length, prompts):
    """Return the number of (prompt, answer) pairs in words that stay short."""
    digits = max_length * np.log10(len(vocabulary)) + np.log10(len(prompts))
    if digits > 30:
        return f"about 10^{digits:.0f}"
    lengths = max_length + 1
    per_prompt = lengths if len(vocabulary) == 1 else sum(len(vocabulary) ** length for length in range(lengths))
    return str(len(prompts) * per_prompt)


def _prompt_weights(weights, n_prompts):
    weights = arguments.probability_array("weights", weights, shape=(n_prompts,))
    arguments.check_sums("weights", weights.sum())
    return weights
