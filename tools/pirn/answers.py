"""JSON that answers a request to inspect a part."""

import base64
import io
from typing import Any

import numpy as np
import PIL.Image
import tifffile

from pirn_jax.inspection.verdicts import Limits
from pirn_jax.report import inspection
from tools.pirn.worker import Answer

MAPS = ("none", "png", "tiff", "raw")
"""Forms of the map."""

_POINTS = 40_000
"""Most points of a scan that the page draws (our choice)."""


def told(answer: Answer, limit: Limits, form: str) -> dict[str, Any]:
    """The answer as JSON, with the map in one of `MAPS`."""
    verdict, values = answer.verdict, answer.values
    found: dict[str, Any] = {
        "verdict": verdict.verdict,
        "score": verdict.score,
        "p_value": verdict.p_value,
        "threshold": limit.score.as_json()["value"],
        "map_threshold": limit.values.as_json()["value"],
        "regions": [region._asdict() | {"text": inspection.region_text(region)} for region in verdict.regions],
        "note": answer.ready.prepared.note,
        "size": values.shape,
    }
    part = answer.ready.part
    if form == "png":
        found["map"] = _png(inspection.overlay(part.rgb, values, limit))
    elif form == "tiff":
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values)
        found["map"] = _base64(buffer.getvalue())
    elif form == "raw":
        found |= {"map": _base64(values.astype("<f4").tobytes()), "brightest": limit.highest}
        found |= {"surface": _png(answer.ready.prepared.values[1]), "scan": _thinned(part.xyz, values.shape)}
    return found


def _thinned(xyz: np.ndarray | None, size: tuple[int, ...]) -> dict[str, Any] | None:
    """Every so manieth row and column of a scan of the image's size; None of another one."""
    if xyz is None or xyz.shape[:2] != size:
        return None
    step = 1
    while (size[0] // step) * (size[1] // step) > _POINTS:
        step += 1
    few = np.nan_to_num(xyz[::step, ::step]).astype("<f4")
    return {"step": step, "rows": few.shape[0], "columns": few.shape[1], "points": _base64(few.tobytes())}


def _png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "png")
    return _base64(buffer.getvalue())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
