"""Flags of the processes that share a study, and how SLURM and Kubernetes tell them."""

import os
import pathlib
from collections.abc import Mapping

from absl import flags

from pirn_jax.data.problems import InputError
from pirn_jax.processes import Team

flags.DEFINE_integer("num_processes", None, "Processes that share the study; by default SLURM's, or 1.", lower_bound=1)
flags.DEFINE_integer(
    "process_id", None, "Of this one, from 0; by default SLURM's, or that of a Kubernetes Job.", lower_bound=0
)
flags.DEFINE_float(
    "patience", 120.0, "Seconds without a sign of life after which another process counts as dead.", lower_bound=1.0
)

FLAGS = flags.FLAGS


def team(output: pathlib.Path, environment: Mapping[str, str] = os.environ) -> Team:
    """This process among those that share the study in a directory.

    Raises:
      InputError: if one of number and id is missing, or they do not fit.
    """
    index, count = _detect(environment)
    index = index if FLAGS.process_id is None else FLAGS.process_id
    count = count if FLAGS.num_processes is None else FLAGS.num_processes
    if index is None and count in (None, 1):
        return Team()
    if index is None or count is None:
        missing = "--process_id" if index is None else "--num_processes"
        raise InputError(f"{missing}: neither given nor told by SLURM or Kubernetes; give it")
    if index >= count:
        raise InputError(
            f"--process_id={index}: with --num_processes={count} ids go from 0 to {count - 1}; give one of them"
        )
    return Team(output / "processes", index, count, FLAGS.patience)


def _detect(environment: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Id of this process and number of processes, None where nobody tells.

    SLURM tells the number of a step's processes to those that `srun` starts, and not to the script of a job, which is
    one process. A Kubernetes Job with `completionMode: Indexed` tells each of its pods its index, but not their number:
    without --num_processes its pods are taken for studies of their own.
    """
    if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:
        return int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
    if "JOB_COMPLETION_INDEX" in environment and FLAGS.num_processes is not None:
        return int(environment["JOB_COMPLETION_INDEX"]), None
    return None, None
