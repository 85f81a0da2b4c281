"""Tilted, rough plates of random colours as files."""

import numpy as np
import PIL.Image
import tifffile

SIZE = 40, 60


def write_parts(folder, count, masks):
    """Plates as parts of MVTec 3D-AD and of one's own, with masks or without."""
    rng = np.random.default_rng(0)
    for kind in ("rgb", "xyz", *(("gt",) if masks else ())):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        rows, columns = np.mgrid[:40, :60] / 1000
        xyz = np.stack([columns, rows, 0.5 + 0.2 * rows + rng.normal(scale=1e-4, size=SIZE)], -1).astype(np.float32)
        tifffile.imwrite(folder / "xyz" / f"{i:03}.tiff", xyz, photometric="rgb")
        PIL.Image.fromarray(rng.integers(256, size=(*SIZE, 3), dtype=np.uint8)).save(folder / "rgb" / f"{i:03}.png")
        if masks:
            PIL.Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "gt" / f"{i:03}.png")
