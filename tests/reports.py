"""Small results and galleries for tests of reports, under names that try to break out of a page."""

import copy

import numpy as np

from pirn_jax.report import page

HOSTILE = '<b>Söhne</b> & "co" 歯車'


def results():
    """Two shots, two categories, three seeds; one category has no masks."""
    scores = {"image_auroc": [0.9, 0.8, 0.7], "pixel_auroc": [0.5, 0.25, 0.75], "aupro_30": [0.125, 0.5, 0.25]}
    unmasked = {"image_auroc": [1.0, 1.0, 0.4], "pixel_auroc": [None] * 3, "aupro_30": [None] * 3}
    dent = {"parts": 4, "regions": 6, "metrics": scores}
    scratch = {"parts": 7, "regions": None, "metrics": unmasked}
    of_pixels = {"pixel_auroc": [0.25, 0.75, 0.5], "aupro_30": [0.375, 0.5, 0.625]}
    small, large = ({"parts": 2, "regions": count, "metrics": of_pixels} for count in (3, 4))
    means = {"image_auroc": {"mean": 0.8111, "std": 0.0222}, "pixel_auroc": {"mean": 0.6333, "std": 0.0444}}
    means["aupro_30"] = {"mean": None, "std": None}
    categories = {"bracket": scores, HOSTILE: unmasked}
    parts = [["train/good/007"], ["train/good/008"], ["train/good/009"]]
    return {
        "schema": 1,
        "dataset": "procedural",
        "method": "pirn",
        "encoder": "tiny",
        "settings": {
            "metrics_form": "exact",
            "metrics_resolution": 224,
            "learning_rate": 0.001,
            "data_dir": None,
            "comment": "<script>alert(1)</script>",
        },
        "results": {"10": categories, "2": copy.deepcopy(categories)},
        "by_defect": {"10": {"bracket": {"<u>dent</u>": dent}, HOSTILE: {"scratch": scratch}}, "2": {}},
        "by_size": {"10": {"bracket": {"small": small, "large": large}, HOSTILE: {}}, "2": {}},
        "good_parts": {"bracket": 5},
        "mean": {"10": means, "2": copy.deepcopy(means)},
        "episodes": {shots: dict.fromkeys(categories, parts) for shots in ("10", "2")},
        "timings": {"train_s": 12.5, "total_s": None},
        "versions": {"jax": "1.2.3"},
        "notes": ["The encoder has random weights.", "A second, longer note " + "with many words " * 8 + "<i>."],
    }


def gallery():
    """One picture of each kind, under hostile names."""
    rng = np.random.default_rng(0)
    gt = np.zeros((32, 24), bool)
    gt[10:20, 5:15] = True

    def picture(kind, mask):
        rgb, normals = rng.integers(0, 255, (2, 32, 24, 3), np.uint8)
        maps, fused = {"RGB map": rng.random((32, 24)), "Normals map": rng.random((32, 24))}, rng.random((32, 24))
        return page.Picture(kind, HOSTILE, "<u>dent</u>", 0.123456, rgb, "Normals", normals, maps, fused, mask)

    masks = (gt, np.zeros_like(gt), None)
    pictures = [picture(kind, mask) for kind, mask in zip(page.KINDS, masks, strict=True)]
    return page.Gallery("2", HOSTILE, 1, pictures, rng.random(5), rng.random(9), (0.25, 0.875))
