"""Flags of several processes that share a study, by `jax.distributed`."""

import os
from collections.abc import Mapping

from absl import flags

from pirn_jax.data.problems import InputError
from pirn_jax.training import cluster

flags.DEFINE_string("coordinator_address", None, "host:port of process 0; told by SLURM, Open MPI and Kubernetes.")
flags.DEFINE_integer("num_processes", None, "Processes that share the study; told likewise.", lower_bound=1)
flags.DEFINE_integer("process_id", None, "Number of this process, from 0; told likewise.", lower_bound=0)

FLAGS = flags.FLAGS
_NAMES = ("coordinator_address", "num_processes", "process_id")
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Variables in which launchers tell the number of processes; without one of them this process is alone."""


def connect(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the processes of the study, if there are several.

    Raises:
      InputError: if flags do not fit, or the processes cannot be joined.
    """
    address, count, index = FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id
    given = dict(zip(_NAMES, (address, count, index), strict=True))
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        if detected(environment):
            cluster.connect(None, None, None)
        return
    if missing:
        raise InputError(f"{', '.join(missing)}: not given; without a launcher that tells them give all three")
    if index >= count:
        raise InputError(
            f"--process_id={index}: with --num_processes={count} ids go from 0 to {count - 1}; give one of them"
        )
    if count > 1:
        cluster.connect(address, count, index)


def detected(environment: Mapping[str, str]) -> bool:
    """True if a launcher has started several processes: `srun`, `mpirun`, or an indexed Kubernetes Job.

    The script of a SLURM job is one process; `srun` tells those that it starts how many they are. JAX asks the
    Kubernetes API for the rest, which needs its `kubernetes` package.
    """
    counts = [int(environment[name]) for name in _COUNTS if environment.get(name, "").isdecimal()]
    indexed = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return any(count > 1 for count in counts) or indexed
