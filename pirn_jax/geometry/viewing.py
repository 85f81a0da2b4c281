"""Images of a part as another view shows them."""

from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, UInt8

from pirn_jax.data.views import View
from pirn_jax.geometry import normal_images

_LUMA = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in grey (ITU-R BT.601)."""


def view_rgb(image: UInt8[np.ndarray, "s s 3"], view: View) -> UInt8[np.ndarray, "s s 3"]:
    """The image in RGB, interpolated bilinearly."""
    if view.grey:
        image = np.repeat(np.rint(image @ _LUMA).astype(np.uint8)[..., None], 3, axis=-1)
    return np.rint(_warp(image.astype(np.float32), view)).astype(np.uint8)


def view_normals(image: UInt8[np.ndarray, "s s 3"], view: View) -> UInt8[np.ndarray, "s s 3"]:
    """An image of normals, see `normal_images.to_image`: vectors turn with it, and unknown ones are not mixed in."""
    warped, share = _warp_known(normal_images.from_image(image), view)
    x, y, z = np.moveaxis(warped, -1, 0)
    x = -x if view.mirrored else x
    # In the camera frame y points down, so this is counter-clockwise in the image.
    cos, sin = np.cos(view.angle), np.sin(view.angle)
    turned = np.stack([x * cos + y * sin, y * cos - x * sin, z], axis=-1)
    length = np.linalg.norm(turned, axis=-1, keepdims=True)
    usable = (share >= 0.5) & (length > 1e-6)
    return normal_images.to_image(np.where(usable, turned / np.where(usable, length, 1), 0))


def view_depth(image: UInt8[np.ndarray, "s s 3"], view: View) -> UInt8[np.ndarray, "s s 3"]:
    """An image of depth, see `depth_images.to_image`: unknown pixels are not mixed in."""
    warped, share = _warp_known(image, view)
    return np.where(share >= 0.5, np.rint(warped / np.maximum(share, 0.5)), 0).astype(np.uint8)


def view_mask(mask: Bool[np.ndarray, "s s"], view: View) -> Bool[np.ndarray, "s s"]:
    """Pixels that show the part; what lies beyond a black border does not."""
    return _warp(mask[..., None].astype(np.float32), view)[..., 0] >= 0.5


def _warp_known(field: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """A field that is zero where it is not known, and the share of each pixel that is."""
    known = np.any(field != 0, axis=-1, keepdims=True)
    warped = _warp(np.concatenate([field, known], -1, dtype=np.float32), view)
    return warped[..., :-1], warped[..., -1:]


def _warp(image: np.ndarray, view: View) -> np.ndarray:
    """Interpolates each channel bilinearly where the view's pixels lie in the image."""
    side, (right, up) = len(image), view.shift
    # Rounded, so that quarter turns meet the pixels.
    cos, sin = np.round([np.cos(view.angle), np.sin(view.angle)], 12)
    turn = np.array([[cos, sin], [-sin, cos]])
    if view.mirrored:
        turn = np.diag([1.0, -1.0]) @ turn
    middle = np.full(2, (side - 1) / 2)
    offset: Any = middle - turn @ (middle + side * np.array([-up, right]))
    mode = "constant" if view.border == "black" else view.border
    channels = [scipy.ndimage.affine_transform(c, turn, offset, order=1, mode=mode) for c in np.moveaxis(image, -1, 0)]
    return np.stack(channels, axis=-1)
