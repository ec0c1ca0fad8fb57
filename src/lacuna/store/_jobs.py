"""Which jobs a scheduler still has: asked once for all, and believed only if it answers."""

import os
import re
import subprocess
from collections.abc import Collection

# Variable that gave the job its number → what lists a user's jobs, a line for each. SLURM names
# both the task of an array (4713) and its place there (4711_2); the others' tasks share a number.
_SQUEUE = ("squeue", "--noheader", "--array", "--format=%A,%F_%K", "--user")
# A user's own filters would make the jobs that they hide look as if they were over.
_FILTERS = ("ACCOUNT", "LICENSES", "NAMES", "PARTITION", "QOS", "STATES")
_QUERIES = {
    "SLURM_JOB_ID": ("env", *(f"-uSQUEUE_{name}" for name in _FILTERS), *_SQUEUE),
    "PBS_JOBID": ("qstat", "-u"),
    "LSB_JOBID": ("bjobs", "-noheader", "-u"),
    "JOB_ID": ("qstat", "-u"),
}
_NUMBER = re.compile(r"\d+(_\d+)?")
_TIMEOUT_S = 60.0


def ask_schedulers(jobs: Collection[str]) -> dict[str, bool | None]:
    """Ask, once per scheduler, which jobs are not over: waiting, running, or about to run again.

    Parameters
    ----------
    jobs
        As owners' records name them: ``SLURM_JOB_ID=4713,4711_2``.

    Returns
    -------
    dict
        Job to whether it is not over; None where the scheduler did not say.
    """
    answers: dict[str, bool | None] = {}
    listed = {job.partition("=")[0] for job in jobs}
    unfinished = {variable: _list_unfinished(variable) for variable in sorted(listed)}
    for job in jobs:
        variable, _, value = job.partition("=")
        known, numbers = unfinished[variable], _numbers(value)
        answers[job] = None if known is None or not numbers else not known.isdisjoint(numbers)
    return answers


def _list_unfinished(variable: str) -> set[str] | None:
    """Return the numbers of this user's jobs; None if the scheduler does not tell."""
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
        found = subprocess.run(
            [*_QUERIES[variable], user],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except (OSError, KeyError, subprocess.SubprocessError):
        return None
    # LSF calls it a failure to have none.
    if found.returncode and "No unfinished job" not in found.stderr:
        return None
    first_words = [line.split()[0] for line in found.stdout.splitlines() if line.strip()]
    return {number for word in first_words for number in _numbers(word)}


def _numbers(text: str) -> set[str]:
    """Return the number that each part of a job's name begins with: ``1234[5].server`` is 1234."""
    found = [_NUMBER.match(part) for part in text.split(",")]
    return {match[0] for match in found if match}
