"""Draw many trajectories at once.

alias     tables that draw from many distributions by two look-ups, exactly
tables    those of a policy on a model, and what their entries mean
blocks    walk a block of trajectories through them, and write it out
naive     the same walk as one would write it first, to compare
draw      blocks, seeds and executors; the public calls
"""

from reinforce_np.sampling.draw import sample, sample_blocks, seed_sequence

__all__ = ["sample", "sample_blocks", "seed_sequence"]
