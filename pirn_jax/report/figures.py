"""Pictures of anomaly maps and scores: arrays in, arrays or inline SVG out."""

import base64
import io

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from pirn_jax.report.charts import text

# OKLab points (lightness, green-red, blue-yellow) from indigo over magenta and orange to cream, our choice. Lightness
# rises evenly, so that the order of values survives in grey print and for colour-blind eyes.
_CONTROL = np.array(
    [
        [0.12, 0.010, -0.050],
        [0.33, 0.060, -0.125],
        [0.54, 0.175, -0.035],
        [0.75, 0.110, 0.110],
        [0.96, -0.010, 0.075],
    ]
)
# Björn Ottosson, "A perceptual color space for image processing" (2020): OKLab to cones, cones to linear sRGB.
_LAB_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.707614701],
    ]
)
_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601, as Pillow's "L"
_BRIGHT, _DARK = np.array([[0, 230, 255], [0, 0, 0]], np.uint8)
_JPEG_QUALITY = 85
_FILL = {"good": "fill:var(--good,#2a78b8)", "defective": "fill:var(--defective,#d4601f)"}
_BINS = 24
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 250, 64, 28, 34, 54


def _colours() -> UInt8[np.ndarray, "256 3"]:
    """256 sRGB colours at equal OKLab distances along the smooth path through the control points."""
    knots = np.linspace(0, 1, len(_CONTROL))
    dense = np.linspace(0, 1, 2049)
    path = np.stack([np.polyval(np.polyfit(knots, channel, len(knots) - 1), dense) for channel in _CONTROL.T], axis=-1)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    length = np.concatenate([[0], np.cumsum(steps)])
    lab = np.stack([np.interp(np.linspace(0, length[-1], 256), length, channel) for channel in path.T], axis=-1)
    linear = np.clip(((lab @ _LAB_TO_CONES.T) ** 3) @ _CONES_TO_RGB.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)


_TABLE = _colours()


def _unit(values: Float[np.ndarray, "*shape"], low: float, high: float) -> Float[np.ndarray, "*shape"]:
    """`low`..`high` to 0..1, clipped; NaN (no value measured) and a scale of no extent go to 0."""
    if not (np.isfinite([low, high]).all() and low <= high):
        raise ValueError(f"a colour scale needs finite low <= high, got {low} and {high}")
    extent = high - low
    unit = (np.asarray(values, np.float64) - low) / extent if extent > 0 else np.zeros(np.shape(values))
    return np.clip(np.nan_to_num(unit, nan=0.0), 0, 1)


def heat(values: Float[np.ndarray, "h w"], low: float, high: float) -> UInt8[np.ndarray, "h w 3"]:
    """A map in perceptually uniform colours, dark at `low` and below, bright at `high` and above; NaN is dark."""
    return _TABLE[np.round(255 * _unit(values, low, high)).astype(np.uint8)]


def overlay(
    rgb: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "h w"], low: float, high: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The map over a grey photo: the part shows through where the map is low, the colour covers it where it is high."""
    _same_size(rgb, values)
    grey = (rgb @ _LUMA)[..., None]
    cover = 0.9 * np.sqrt(_unit(values, low, high))[..., None]
    return np.round((1 - cover) * grey + cover * heat(values, low, high)).astype(np.uint8)


def outline(rgb: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with a cyan line around the mask and a black one around that: seen on any background.

    The lines lie outside the mask, so that the defect itself stays in view, and widen with the image.
    """
    _same_size(rgb, mask)
    inner = outer = mask = np.asarray(mask, bool)
    for _ in range(1 + max(mask.shape) // 256):
        inner, outer = _grow(inner), _grow(_grow(outer))
    drawn = rgb.copy()
    drawn[outer & ~mask] = _DARK
    drawn[inner & ~mask] = _BRIGHT
    return drawn


def _same_size(rgb: np.ndarray, other: np.ndarray) -> None:
    if rgb.shape != (*other.shape, 3):
        raise ValueError(f"a photo of shape {rgb.shape} does not fit a map or mask of shape {other.shape}")


def _grow(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask and the four neighbours of its pixels."""
    padded = np.pad(mask, 1)
    return mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def data_uri(image: UInt8[np.ndarray, "h w *rgb"]) -> str:
    """An image as a `data:` address: JPEG for colour `(h, w, 3)`, lossless PNG for masks `(h, w)`."""
    buffer = io.BytesIO()
    kind = "jpeg" if image.ndim == 3 else "png"
    Image.fromarray(image).save(buffer, kind, **({"quality": _JPEG_QUALITY} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def heat_gradient() -> str:
    """The colour map as a CSS `linear-gradient`, dark left and bright right."""
    stops = ", ".join("#" + bytes(colour).hex() for colour in _TABLE[:: 255 // 15])
    return f"linear-gradient(to right, {stops})"


def histogram_counts(
    good: Float[np.ndarray, " n"], defect: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " edges"], np.ndarray, np.ndarray]:
    """Edges shared by both kinds of parts, and the number of good and of defective parts in each bin."""
    scores = np.concatenate([np.ravel(good), np.ravel(defect)]).astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, {np.count_nonzero(~np.isfinite(scores))} of {scores.size} are not")
    edges = np.histogram_bin_edges(scores, _BINS)
    return edges, np.histogram(good, edges)[0], np.histogram(defect, edges)[0]


def histogram_svg(good: Float[np.ndarray, " n"], defect: Float[np.ndarray, " m"]) -> str:
    """Inline SVG: how many good (upwards) and defective parts (downwards) have which score.

    Both share bins and scale, so that an overlap is seen without relying on colour. Colours are the custom properties
    `--good`, `--defective` and the current text colour of the page, with defaults where they are not set.
    """
    edges, ups, downs = histogram_counts(good, defect)
    unit = (_HEIGHT - _BOTTOM - _TOP) / max(ups.max() + downs.max(), 1)
    zero = _TOP + unit * ups.max()
    counts = f"Scores of {len(good)} good parts (bars up) and {len(defect)} defective parts (bars down)"
    return "".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="12">',
            f"<title>{counts}, from {edges[0]:.3g} to {edges[-1]:.3g}</title>",
            *_bars(edges, ups, zero, unit, "good"),
            *_bars(edges, downs, zero, -unit, "defective"),
            *_axes(edges, int(ups.max()), int(downs.max()), zero),
            *_legend(_LEFT, "good", len(good)),
            *_legend(_LEFT + 150, "defective", len(defect)),
            "</svg>",
        ]
    )


def _bars(edges: np.ndarray, counts: np.ndarray, zero: float, unit: float, kind: str) -> list[str]:
    width = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    return [
        f'<rect data-count="{count}" x="{_LEFT + i * width + 1:.1f}" y="{min(zero, zero - unit * count):.1f}" '
        f'width="{width - 2:.1f}" height="{abs(unit * count):.1f}" style="{_FILL[kind]}">'
        f"<title>{count} {kind}, score {edges[i]:.3g} to {edges[i + 1]:.3g}</title></rect>"
        for i, count in enumerate(counts)
        if count
    ]


def _axes(edges: np.ndarray, most_up: int, most_down: int, zero: float) -> list[str]:
    """Zero line, tick labels of the scores below, and the highest counts left."""
    right, bottom, middle = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, (_TOP + _HEIGHT - _BOTTOM) / 2
    ticks = zip(np.linspace(_LEFT, right, 5), np.linspace(edges[0], edges[-1], 5), strict=True)
    counts = {round(bottom): most_down, round(_TOP): most_up, round(zero): 0}
    return [
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}M{_LEFT} {zero:.1f}H{right}" fill="none" stroke="currentColor"/>',
        *(text(_LEFT - 8, y + 4, str(count), "end") for y, count in counts.items()),
        *(text(x, bottom + 20, f"{value:.3g}") for x, value in ticks),
        text((_LEFT + right) / 2, _HEIGHT - 6, "score"),
        f'<g transform="rotate(-90 14 {middle})">{text(14, middle, "parts")}</g>',
    ]


def _legend(x: int, kind: str, count: int) -> list[str]:
    return [
        f'<rect x="{x}" y="8" width="12" height="12" style="{_FILL[kind]}"/>',
        text(x + 18, 18, f"{kind} ({count})", "start"),
    ]
