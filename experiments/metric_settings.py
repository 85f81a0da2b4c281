"""Flags that say how anomaly maps are evaluated, and what follows from them."""

from absl import flags

from pirn_jax.data.problems import InputError
from pirn_jax.protocol import evaluation, metrics, peer_metrics
from pirn_jax.protocol.evaluation import Settings

flags.DEFINE_enum("metrics", "exact", evaluation.FORMS, "All thresholds, or 100 as public codes take.")
flags.DEFINE_list(
    "limits", [str(x) for x in metrics.LIMITS], "False positive rates that AUPRO ends at, besides 0.3, the headline's."
)
flags.DEFINE_integer(
    "resolution", None, "Longer side of resized maps and masks; default the image's, with --metrics=peer 224."
)

FLAGS = flags.FLAGS


def read() -> Settings:
    """How maps are evaluated.

    Raises:
      InputError: if a flag has an impossible value.
    """
    resolution = FLAGS.resolution
    if resolution is None and FLAGS.metrics == "peer":
        resolution = peer_metrics.RESOLUTION
    try:
        return Settings(FLAGS.metrics, tuple(map(float, FLAGS.limits)), resolution)
    except ValueError as error:
        raise InputError(f"--metrics, --limits, --resolution: {error}") from error
