"""What each study of choices compares: rows of settings, changed from the default of `experiments.fewshot`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments import builtin_parts
from pirn_jax import methods
from pirn_jax.data import catalogue
from pirn_jax.encoders import pretrained
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.study.spec import Spec

_PATCHCORE = {"method": "patchcore", "grid": 16}
STUDIES: dict[str, list[dict[str, Any]]] = {
    "background": [{**_PATCHCORE, "background": "keep"}, _PATCHCORE, {"background": "keep"}, {}],
    "encoders": [
        *({**_PATCHCORE, "encoder": names} for names in ("builtin", "lite0", "chroma", "builtin,lite0")),
        _PATCHCORE,
    ],
    "fusion": [{**_PATCHCORE, "fusion": name} for name in ("sum", "calibrated", "maximum")],
    "grid": [{**_PATCHCORE, "grid": side} for side in (14, 16, 28)],
    "image_score": [{**_PATCHCORE, "top_share": share} for share in (0.0, 0.002, 0.01)],
    "sigma": [{**_PATCHCORE, "sigma": sigma} for sigma in (2.0, 4.0, 8.0)],
    "score": [{"score": "cosine"}, {"score": "residual"}],
    "epochs": [{"epochs": epochs} for epochs in (10, 20, 40, 80)],
    "learning_rate": [{"learning_rate": rate} for rate in (3e-4, 1e-3, 3e-3)],
    "injection": [
        {"injection": form, "score": score} for form in ("query_only", "paper") for score in ("cosine", "residual")
    ],
    "prototypes": [{"num_prototypes": number} for number in (5, 10, 30)],
    "layers": [{"num_layers": number} for number in (1, 2, 4)],
    "epsilon": [{"epsilon": epsilon} for epsilon in (0.03, 0.05, 0.2)],
}
"""Rows of each study: what a row changes of the default of `experiments.fewshot`."""


def spec_of(changes: Mapping[str, Any], shots: int, seeds: int) -> Spec:
    """The default study of the built-in parts with some settings changed."""
    left = {"method": "pirn", "encoder": pretrained.DEFAULT, "grid": 16, "top_share": 0.0, **changes}
    method, encoder, top_share = (left.pop(name) for name in ("method", "encoder", "top_share"))
    preset = methods.choose(method, "default")

    def changed(part: Any) -> Any:
        names = {field.name for field in dataclasses.fields(part)} & left.keys()
        return dataclasses.replace(part, **{name: left.pop(name) for name in names})

    config, recipe = changed(preset.config), preset.recipe and changed(preset.recipe)
    fixed = catalogue.BUILT_IN, (shots,), seeds, method, config, recipe, pretrained.load(encoder)
    return Spec(*fixed, builtin_parts.preparation(), metrics=MetricSettings(top_share=top_share), **left)


def label(changes: Mapping[str, Any]) -> str:
    """Name of a row."""
    return " ".join(f"{name}={value}" for name, value in changes.items()) or "default"
