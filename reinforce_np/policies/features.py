"""Features of observations, written out by hand: from observations (M, d) to features (M, F).

    polynomial      φ_i(x) = Π_j x_j^{c_ij}
    Fourier         φ_i(x) = cos(π Σ_j c_ij x_j)
    tile coding     φ_i(x) = 1 where x falls into tile i, once per tiling
    radial basis    φ_i(x) = exp(−‖x − c_i‖² / 2σ²)

Each choice is a frozen record that is called like a function; nothing is
learned and nothing is remembered. The observation is first scaled by bounds
that the record states, so that every feature is of order one.

References
----------
Sutton & Barto, *Reinforcement Learning: An Introduction*, 2nd ed., sections
9.5.1 (polynomials), 9.5.2 (Fourier), 9.5.4 (tiles) and 9.5.5 (radial basis).
"""

import itertools
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from reinforce_np import arguments

LARGEST = 2**16  # features of one observation: products over the components grow fast


@dataclass(frozen=True, eq=False)
class Scaled:
    """φ_i(x) = x_i, the components themselves, scaled to [−1, 1], and no constant: what a network is fed.

    Outside the bounds x leaves [−1, 1].

    Parameters
    ----------
    low, high : array (d,)
        What is scaled to −1 and to 1.

    Examples
    --------
    >>> Scaled(low=[0.0, -2.0], high=[1.0, 2.0])(np.array([[0.5, 1.0]]))
    array([[0. , 0.5]])
    """

    low: np.ndarray
    high: np.ndarray

    def __post_init__(self):
        set_bounds(self)

    @property
    def n_features(self):
        """F = d."""
        return len(self.low)

    def __call__(self, observations):
        """Return φ, from (..., d) to (..., d)."""
        return centred(observations, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Polynomial:
    """φ_i(x) = Π_j x_j^{c_ij}, the products of powers of the components, scaled to [−1, 1].

    The first feature is the constant 1. Outside the bounds x leaves [−1, 1],
    and the polynomial goes on.

    Parameters
    ----------
    low, high : array (d,)
        What is scaled to −1 and to 1.
    order : int
        Largest power of a component.
    total : int, optional
        Largest sum of the powers of a product; without it there are
        (order + 1)^d features. 1 leaves the constant and the components.

    References
    ----------
    Sutton & Barto, 2nd ed., equation (9.17).

    Examples
    --------
    >>> quadratic = Polynomial(low=[-1.0, -2.0], high=[1.0, 2.0], order=2, total=2)
    >>> quadratic.exponents.tolist()
    [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]]
    >>> quadratic(np.array([[0.5, 1.0]]))
    array([[1.  , 0.5 , 0.5 , 0.25, 0.25, 0.25]])
    """

    low: np.ndarray
    high: np.ndarray
    _: KW_ONLY
    order: int
    total: int | None = None
    exponents: np.ndarray = field(init=False, repr=False)
    factors: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        set_bounds(self)
        c = exponents(len(self.low), self.order, self.total)
        columns = np.where(c > 0, (c - 1) * len(self.low) + np.arange(len(self.low)) + 1, 0)  # of [1, x, x², ...]
        n_factors = max(int((c > 0).sum(axis=1).max()), 1)
        object.__setattr__(self, "exponents", c)
        object.__setattr__(self, "factors", np.sort(columns, axis=1)[:, ::-1][:, :n_factors].T.copy())

    @property
    def n_features(self):
        """F."""
        return len(self.exponents)

    def __call__(self, observations):
        """Return φ, from (..., d) to (..., F)."""
        x = centred(observations, self.low, self.high)
        powers = [np.ones((*x.shape[:-1], 1)), x]
        for _ in range(self.order - 1):
            powers.append(powers[-1] * x)
        table = np.concatenate(powers, axis=-1)
        product = table[..., self.factors[0]]
        for column in self.factors[1:]:
            product = product * table[..., column]
        return product


@dataclass(frozen=True, eq=False)
class Fourier:
    """φ_i(x) = cos(π Σ_j c_ij x_j), the Fourier cosine basis on x scaled to [0, 1].

    The first feature is the constant 1. Observations outside the bounds count
    as the nearest one inside.

    Parameters
    ----------
    low, high : array (d,)
        What is scaled to 0 and to 1.
    order : int
        Largest integer c_ij.
    total : int, optional
        Largest sum over the components of c_ij; without it there are
        (order + 1)^d features.

    References
    ----------
    Sutton & Barto, 2nd ed., equation (9.18).

    Examples
    --------
    >>> Fourier(low=[0.0], high=[2.0], order=2)(np.array([[0.0], [1.0], [9.0]])).round(12) + 0.0
    array([[ 1.,  1.,  1.],
           [ 1.,  0., -1.],
           [ 1., -1.,  1.]])
    """

    low: np.ndarray
    high: np.ndarray
    _: KW_ONLY
    order: int
    total: int | None = None
    frequencies: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        set_bounds(self)
        object.__setattr__(self, "frequencies", exponents(len(self.low), self.order, self.total))

    @property
    def n_features(self):
        """F."""
        return len(self.frequencies)

    def __call__(self, observations):
        """Return φ, from (..., d) to (..., F)."""
        return np.cos(np.pi * (clipped(observations, self.low, self.high) @ self.frequencies.T))


@dataclass(frozen=True, eq=False)
class Tiles:
    """φ_i(x) = 1 where x falls into tile i: several grids, each shifted a little against the next.

    Tiling k is shifted by k·(1, 3, 5, ...)/n_tilings tiles, modulo one tile, and covers the
    bounds with one tile more per component than ``tiles``, because of the
    shift. Exactly n_tilings features of an observation are one. Observations
    outside the bounds count as the nearest one inside.

    Parameters
    ----------
    low, high : array (d,)
        The bounds.
    tiles : int or int array (d,)
        Number of tiles between the bounds, for each component.
    tilings : int
        Number of grids.

    References
    ----------
    Sutton & Barto, 2nd ed., section 9.5.4; the displacement by odd numbers is
    the one recommended there, after Miller & Glanz (1996).

    Examples
    --------
    >>> grid = Tiles(low=[0.0], high=[1.0], tiles=2, tilings=2)
    >>> grid(np.array([[0.1], [0.3], [0.6]]))
    array([[1., 0., 0., 1., 0., 0.],
           [1., 0., 0., 0., 1., 0.],
           [0., 1., 0., 0., 1., 0.]])
    """

    low: np.ndarray
    high: np.ndarray
    _: KW_ONLY
    tiles: np.ndarray
    tilings: int
    strides: np.ndarray = field(init=False, repr=False)
    shifts: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        set_bounds(self)
        d, n = len(self.low), arguments.integer("tilings", self.tilings, low=1)
        tiles = np.broadcast_to(arguments.integer_array("tiles", self.tiles, low=1, high=LARGEST), (d,))
        refuse_many(n * np.prod(tiles + 1.0), f"tiles={tiles.tolist()}, tilings={n}")
        shifts = np.outer(np.arange(n), 2 * np.arange(d) + 1) % n / n  # (tilings, d), in tiles
        strides = np.append(np.cumprod((tiles + 1)[:0:-1])[::-1], 1).astype(np.intp)
        for name, value in {"tiles": tiles, "shifts": shifts, "strides": strides}.items():
            object.__setattr__(self, name, value)

    @property
    def n_features(self):
        """F = tilings · Π(tiles + 1)."""
        return self.tilings * self.tiles_of_a_tiling

    @property
    def tiles_of_a_tiling(self):
        """Π(tiles + 1)."""
        return int(np.prod(self.tiles + 1))

    def active(self, observations):
        """Return the indices of the features that are one, shape (..., tilings)."""
        x = clipped(observations, self.low, self.high) * self.tiles
        tile = np.floor(x[..., None, :] + self.shifts).astype(np.intp)  # (..., tilings, d)
        return tile @ self.strides + np.arange(self.tilings) * self.tiles_of_a_tiling

    def __call__(self, observations):
        """Return φ, from (..., d) to (..., F)."""
        active = self.active(observations)
        features = np.zeros((*active.shape[:-1], self.n_features))
        np.put_along_axis(features, active, 1.0, axis=-1)
        return features


@dataclass(frozen=True, eq=False)
class RadialBasis:
    """φ_i(x) = exp(−‖x − c_i‖² / 2σ²), bells around the points of a grid, x scaled to [0, 1].

    A constant 1 comes first. Nothing is clipped: far outside the bounds only
    the constant is left.

    Parameters
    ----------
    low, high : array (d,)
        What is scaled to 0 and to 1.
    centres : int or int array (d,)
        Number of grid points along each component, from bound to bound; a
        single one stands in the middle.
    width : float
        σ > 0, in the scaled units.

    References
    ----------
    Sutton & Barto, 2nd ed., section 9.5.5.

    Examples
    --------
    >>> RadialBasis(low=[0.0], high=[4.0], centres=3, width=0.5)(np.array([[2.0]])).round(4)
    array([[1.    , 0.6065, 1.    , 0.6065]])
    """

    low: np.ndarray
    high: np.ndarray
    _: KW_ONLY
    centres: np.ndarray
    width: float
    points: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        set_bounds(self)
        d = len(self.low)
        counts = np.broadcast_to(arguments.integer_array("centres", self.centres, low=1, high=LARGEST), (d,))
        refuse_many(np.prod(counts.astype(float)), f"centres={counts.tolist()}")
        axes = [np.linspace(0.0, 1.0, n) if n > 1 else np.array([0.5]) for n in counts]
        object.__setattr__(self, "centres", counts)
        object.__setattr__(self, "points", np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=-1))
        object.__setattr__(
            self, "width", arguments.number("width", self.width, low=0.0, open_low=True, rule="a number > 0")
        )

    @property
    def n_features(self):
        """F, the constant included."""
        return len(self.points) + 1

    def __call__(self, observations):
        """Return φ, from (..., d) to (..., F)."""
        x = scaled(observations, self.low, self.high) / self.width
        squares = ((x[..., None, :] - self.points / self.width) ** 2).sum(axis=-1)
        return np.concatenate([np.ones((*squares.shape[:-1], 1)), np.exp(-squares / 2)], axis=-1)


@dataclass(frozen=True, eq=False)
class OneHot:
    """φ_i(o) = 1 where o = i: a table, for observations that are whole numbers.

    Parameters
    ----------
    n : int
        Number of observations; they are 0, ..., n − 1.

    Examples
    --------
    >>> OneHot(3)(np.array([[2.0], [0.0]]))
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """

    n: int

    def __post_init__(self):
        refuse_many(arguments.integer("n", self.n, low=1), f"n={self.n}")

    @property
    def n_features(self):
        """F = n."""
        return self.n

    def __call__(self, observations):
        """Return φ, from (..., 1) to (..., n)."""
        index = arguments.integer_array("observations", observations, low=0, high=self.n)
        if index.shape[-1:] != (1,):
            raise ValueError(f"observations have shape {index.shape}; for OneHot the last axis must have length 1")
        features = np.zeros((*index.shape[:-1], self.n))
        np.put_along_axis(features, index, 1.0, axis=-1)
        return features


@dataclass(frozen=True, eq=False)
class FeatureFunction:
    """Any function of yours from observations (M, d) to features (M, F).

    Parameters
    ----------
    function : callable
        Pure. Defined in a module, if other processes are to use it.
    n_features : int
        F.

    Examples
    --------
    >>> FeatureFunction(lambda x: np.concatenate([x, np.abs(x)], axis=-1), n_features=4)(np.array([[1.0, -2.0]]))
    array([[ 1., -2.,  1.,  2.]])
    """

    function: Callable
    n_features: int

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"function={self.function!r} is not a function; pass one from (M, d) to (M, F)")
        arguments.integer("n_features", self.n_features, low=1)

    def __call__(self, observations):
        """Return what the function says, its shape checked."""
        features = np.asarray(self.function(observations), dtype=np.float64)
        if features.shape != (*np.shape(observations)[:-1], self.n_features):
            raise ValueError(
                f"function returned shape {features.shape} for observations of shape {np.shape(observations)}; "
                f"the last axis must become n_features={self.n_features}"
            )
        return features


def scaled(observations, low, high):
    """(o − low)/(high − low), which is 0 at `low` and 1 at `high`, shape (..., d)."""
    return (rows_of(observations, low) - low) / (high - low)


def centred(observations, low, high):
    """(o − middle)/(half the width), which is −1 at `low` and 1 at `high`, shape (..., d)."""
    return (rows_of(observations, low) - (low + high) / 2) / ((high - low) / 2)


def rows_of(observations, low):
    """Return observations as an array (..., d), refusing those of another length than the bounds."""
    observations = np.asarray(observations, dtype=np.float64)
    if observations.shape[-1:] != low.shape:
        raise ValueError(f"observations have shape {observations.shape}; the last axis must have length {len(low)}")
    return observations


def clipped(observations, low, high):
    """The same as `scaled`, moved into [0, 1]."""
    return np.minimum(np.maximum(scaled(observations, low, high), 0.0), 1.0)


def exponents(d, order, total=None):
    """Return all integer vectors c in {0, ..., order}^d with Σc <= total, by increasing sum, shape (F, d)."""
    order = arguments.integer("order", order)
    total = d * order if total is None else arguments.integer("total", total)
    if total == d * order:
        refuse_many((order + 1.0) ** d, f"order={order} in {d} components")
    chosen: list[tuple[int, ...]] = [()]
    for _ in range(d):
        chosen = [(*c, n) for c, n in itertools.product(chosen, range(order + 1)) if sum(c) + n <= total]
        refuse_many(len(chosen), f"order={order}, total={total} in {d} components")
    return np.array(sorted(chosen, key=lambda c: (sum(c), [-n for n in c])))


def set_bounds(features):
    """Set ``low`` and ``high`` of a frozen record, checked."""
    low = arguments.real_array("low", features.low, ndim=1)
    high = arguments.real_array("high", features.high, shape=low.shape)
    wrong = ~(low < high)
    if wrong.any():
        (j,) = arguments.first_index(wrong)
        raise ValueError(f"low[{j}]={low[j]} is not below high[{j}]={high[j]}; state the bounds of each component")
    if not len(low):
        raise ValueError("low is empty; state the bounds of each component of an observation")
    object.__setattr__(features, "low", low)
    object.__setattr__(features, "high", high)


def refuse_many(n, what):
    """Refuse more features than anybody wants."""
    if n > LARGEST:
        raise arguments.TooLargeError(f"{what} make {n:.3g} features, above the limit of {LARGEST}; use fewer")
