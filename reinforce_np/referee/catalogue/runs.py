"""Judge many entries of the catalogue at once."""

from reinforce_np import parallel
from reinforce_np.referee.panel import PANEL

ENTRIES_OF_JOB = 4  # judged on one problem, whose batches are listed once for all of them


def judge_each(specimens, problems=None, *, executor=None):
    """Judge entries of the catalogue, exactly.

    Parameters
    ----------
    specimens : sequence of Specimen
        Such as `CATALOGUE`.
    problems : sequence of Problem, optional
        Judge each entry on all of these that it applies to, `PANEL` for one. If not given, on
        the problem of the panel that its numbers are stated on.
    executor : concurrent.futures.Executor, optional
        Judges them side by side; the result is the same, bit for bit.

    Returns
    -------
    dict
        {name of the entry: {name of the problem: Verdict}}

    Examples
    --------
    >>> from reinforce_np.referee.catalogue import CATALOGUE
    >>> found = judge_each(CATALOGUE[:2])
    >>> {name: [verdict.kind for verdict in verdicts.values()] for name, verdicts in found.items()}
    {'wrong_sign': ['proportional'], 'gamma_t_dropped': ['biased']}
    """
    parallel.check_executor(executor)
    jobs = []
    for problem in PANEL if problems is None else problems:
        chosen = [one for one in specimens if (problem.name == one.on if problems is None else one.applies_to(problem))]
        jobs += [(chosen[i : i + ENTRIES_OF_JOB], problem) for i in range(0, len(chosen), ENTRIES_OF_JOB)]
    found: dict = {specimen.name: {} for specimen in specimens}
    for (some, problem), verdicts in zip(jobs, parallel.in_order(_judged, jobs, executor, len(jobs) + 1), strict=True):
        for specimen, verdict in zip(some, verdicts, strict=True):
            found[specimen.name][problem.name] = verdict
    return found


def _judged(specimens, problem):
    return [specimen.judge(problem) for specimen in specimens]
