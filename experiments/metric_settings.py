"""Flags of the evaluation of anomaly maps."""

from absl import flags

from pirn_jax.data.problems import InputError
from pirn_jax.metrics import evaluation, exact, peer
from pirn_jax.metrics.evaluation import MetricSettings
from tools import image_score

flags.DEFINE_enum("metrics", "exact", evaluation.FORMS, "All thresholds, or 100 as public codes take.")
flags.DEFINE_list(
    "limits", [str(x) for x in exact.LIMITS], "False positive rates that AUPRO ends at, besides 0.3, the headline's."
)
flags.DEFINE_integer(
    "resolution", None, "Longer side of resized maps and masks; default the image's, with --metrics=peer 224."
)
flags.DEFINE_enum(
    "normalisation",
    "none",
    evaluation.NORMALISATIONS,
    "Maps as they are; or divided by their means, each kind of metric as CFM and CFR do.",
)

FLAGS = flags.FLAGS


def read() -> MetricSettings:
    """Evaluation settings.

    Raises:
      InputError: if a flag has an impossible value.
    """
    resolution = FLAGS.resolution
    if resolution is None and FLAGS.metrics == "peer":
        resolution = peer.RESOLUTION
    share = image_score.top_share()
    try:
        return MetricSettings(FLAGS.metrics, tuple(map(float, FLAGS.limits)), resolution, share, FLAGS.normalisation)
    except ValueError as error:
        raise InputError(f"--metrics, --limits, --resolution: {error}") from error
