"""Flags of the evaluation of anomaly maps."""

from absl import flags

from pirn_jax.data.problems import InputError
from pirn_jax.metrics import evaluation, exact, peer
from pirn_jax.metrics.evaluation import MetricSettings

flags.DEFINE_enum("metrics", "exact", evaluation.FORMS, "All thresholds, or 100 as public codes take.")
flags.DEFINE_list(
    "limits", [str(x) for x in exact.LIMITS], "False positive rates that AUPRO ends at, besides 0.3, the headline's."
)
flags.DEFINE_integer(
    "resolution", None, "Longer side of resized maps and masks; default the image's, with --metrics=peer 224."
)
flags.DEFINE_string(
    "image_score",
    "max",
    "Score of an image: max of its map, or the mean of this top share of its pixels, such as 0.01.",
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
    try:
        share = 0.0 if FLAGS.image_score == "max" else float(FLAGS.image_score)
        if FLAGS.image_score != "max" and share == 0:
            raise ValueError("image score 0: give max, or a share of pixels above 0 and up to 1")
        return MetricSettings(FLAGS.metrics, tuple(map(float, FLAGS.limits)), resolution, share, FLAGS.normalisation)
    except ValueError as error:
        raise InputError(f"--metrics, --limits, --resolution, --image_score: {error}") from error
