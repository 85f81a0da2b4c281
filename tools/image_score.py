"""Flag of the score of an image."""

from absl import flags

from pirn_jax.data.problems import InputError

flags.DEFINE_string(
    "image_score",
    "max",
    "Score of an image: max of its map, or the mean of this top share of its pixels, such as 0.01.",
)

FLAGS = flags.FLAGS


def top_share() -> float:
    """The share of pixels, 0 for the maximum.

    Raises:
      InputError: if the flag has an impossible value.
    """
    if FLAGS.image_score == "max":
        return 0.0
    try:
        share = float(FLAGS.image_score)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(f"--image_score={FLAGS.image_score}: give max, or a share of pixels above 0 and up to 1")
    return share
