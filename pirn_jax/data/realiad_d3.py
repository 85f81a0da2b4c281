"""Real-IAD D3 on disk (Zhu et al., 2025), in either of two layouts.

The archive, unpacked: `realiad_d3_jsons` beside `realiad_d3_raw`; `realiad_d3_lists` tells more. Wherever such lists
are, they count. Otherwise the folders that the authors' loader reads: `realiad_d3_folders` tells more.

Of the five lights of a part the fifth one is read. Clouds are organised, NaN where nothing was seen. The sizes of
colour image, cloud and pseudo-3D (normals as colours, from photometric stereo) differ; all show the same field. The
colours of pseudo-3D are taken for those of common normal maps (red right, green up, blue towards the camera), and the
unit of clouds for metres: neither layout says.
"""

import pathlib
from collections.abc import Sequence

from pirn_jax.data import realiad_d3_folders, realiad_d3_lists
from pirn_jax.data.options import Options
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Splits

CATEGORIES = (
    "audio_jack_socket",
    "common_mode_filter",
    "connector_housing-female",
    "crimp_st_cable_mount_box",
    "dc_power_connector",
    "ethernet_connector",
    "ferrite_bead",
    "fork_crimp_terminal",
    "fuse_holder",
    "headphone_jack_socket",
    "humidity_sensor",
    "knob-cap",
    "lattice_block_plug",
    "lego_pin_connector_plate",
    "lego_propeller",
    "limit-switch",
    "miniature_lifting_motor",
    "power_jack",
    "purple-clay-pot",
    "telephone_spring_switch",
)
"""Folders of the whole data set; the archive has `_` wherever these have `-`."""

PUBLISHED: dict[str, dict[str, int]] = {category: {} for category in CATEGORIES}
"""No counts: the paper gives totals only."""

PUBLISHED_TOTALS = {"good": 5000, "defective": 3450}
"""Parts of all categories together."""


def read(
    directory: pathlib.Path,
    categories: Sequence[str] = (),
    options: Options = Options(),  # noqa: B008
    problems: Problems | None = None,
) -> dict[str, Splits]:
    """Finds the parts of each category; no file of a part is opened.

    Args:
      directory: folder of the data set.
      categories: names, with `-` or `_`; none means all that are there.
      options: `unit` and `native_normals` count; with the latter a part needs no cloud.
      problems: where problems are noted; None stops with all of them.

    Raises:
      InputError: if a folder or list is missing or broken, a split is empty or a part lacks a file or has several.
    """
    lists = realiad_d3_lists.find(directory)
    if lists is None:
        return realiad_d3_folders.read(directory, categories, options, problems)
    return realiad_d3_lists.read(lists, directory / "realiad_d3_raw", categories, options, problems)
