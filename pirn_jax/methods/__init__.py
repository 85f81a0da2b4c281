"""Methods: frozen patch features of good parts in, anomaly distances of every patch out."""

from pirn_jax.methods import cfm, cfr, gaussian, inp_former, patchcore, pirn, uip_ad
from pirn_jax.methods.base import Entry

METHODS: dict[str, Entry] = {
    "pirn": pirn.ENTRY,
    "uip_ad": uip_ad.ENTRY,
    "cfr": cfr.ENTRY,
    "cfm": cfm.ENTRY,
    "inp_former": inp_former.ENTRY,
    "patchcore": patchcore.ENTRY,
    "gaussian": gaussian.ENTRY,
}
"""By the name that `--method` takes."""


def find(name: str) -> Entry:
    """A method of the catalogue.

    Raises:
      ValueError: listing the names, if there is none like this.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def choose(name: str, preset: str):
    """A preset of a method.

    Raises:
      ValueError: listing the names, if there is no such method or preset.
    """
    presets = find(name).presets
    if preset not in presets:
        raise ValueError(f"unknown preset {preset!r} of {name}; choose one of {', '.join(presets)}")
    return presets[preset]
