"""Rows of the studies of choices: settings changed from the default of `experiments.fewshot`."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from experiments import builtin_parts
from pirn_jax import methods
from pirn_jax.data import catalogue
from pirn_jax.encoders import pretrained
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.study.spec import Spec

_PATCHCORE = {"method": "patchcore", "grid": 16}
_FINE = {"method": "patchcore", "grid": 28}
_UIP_AD = {"method": "uip_ad", "grid": 16}
_CFR = {"method": "cfr", "grid": 16}


def _each(name: str, *values: Any, start: Mapping[str, Any] = MappingProxyType({})) -> list[dict[str, Any]]:
    """The default, and a row for each other value of a setting."""
    return [{**start}, *({**start, name: value} for value in values)]


STUDIES: dict[str, list[dict[str, Any]]] = {
    "background": [*_each("background", "keep", start=_PATCHCORE), *_each("background", "keep")],
    "encoders": _each("encoder", "builtin", "lite1", "chroma", "builtin,lite1", start=_PATCHCORE),
    "modality_encoders": [
        {**_PATCHCORE, "modalities": (modality,), "encoder": encoder}
        for modality in ("rgb", "geometry")
        for encoder in (pretrained.DEFAULT, "builtin", "lite1", "chroma", "builtin,lite1", "fpfh", "builtin,fpfh")
    ],
    "lite": [
        *_each("encoder", "builtin,lite0,chroma", "builtin,lite2,chroma", start=_FINE),
        *_each("encoder", "builtin,lite0,chroma", start={"grid": 28}),
    ],
    "fusion": _each("fusion", "sum", "calibrated", "one_class", start=_PATCHCORE),
    "grid": [*_each("grid", 14, 28, start=_PATCHCORE), *_each("grid", 28)],
    "resolution": [_FINE, {**_FINE, "input_size": 336, "grid": 42}],
    "image_score": _each("top_share", 0.002, 0.01, start=_PATCHCORE),
    "sigma": _each("sigma", 2.0, 8.0, start=_PATCHCORE),
    "augmentation": [
        *_each("augmentation", "rotations", start=_PATCHCORE),
        *({}, {"augmentation": "rotations", "epochs": 3}),
        {"augmentation": "rotations", "epochs": 3, "grid": 28, "score": "gaussian"},
        *_each("augmentation", "rotations", start={"method": "inp_former", "grid": 16}),
        {**_PATCHCORE, "augmentation": "inp_former"},
    ],
    "reach": _each("reach", False, start=_FINE),
    "banks": _each("banks", "each", "joint", start=_FINE),
    "score": [
        *_each("score", "nearest", "gaussian", "cosine"),
        *_each("score", "nearest", "gaussian", start={"grid": 28}),
    ],
    "gaussian": _each("ridge", 0.01, 0.3, start={"method": "gaussian", "grid": 28}),
    "joint": _each("joint", False),
    "epochs": _each("epochs", 0, 20, 40, 80),
    "learning_rate": _each("learning_rate", 3e-4, 1e-3, 1e-2),
    "batch_size": _each("batch_size", 2, 10),
    "injection": [
        *_each("injection", "paper", "stop_gradient", "bottleneck", "dropout"),
        *_each("injection", "paper", "stop_gradient", "bottleneck", "dropout", start={"score": "cosine"}),
    ],
    "prototypes": _each("num_prototypes", 5, 30),
    "layers": _each("num_layers", 1, 4),
    "layer_prototypes": _each("layer_prototypes", True),
    "prototype_start": _each("prototype_start", "patches", "kmeans"),
    "tokens": _each("tokens", "length", "standardise"),
    "epsilon": _each("epsilon", 0.03, 0.2),
    "iterations": _each("sinkhorn_iterations", 5, 50),
    "mining": _each("mining_exponent", 0.0, 1.0),
    "neighbours": _each("neighbours", 1, 10),
    "heads": _each("heads", 1, 8),
    # Rows A to D of UIP-AD's Table 5, its numbers of prototypes, and what its equations leave open.
    "uip_ad": [
        _UIP_AD,
        {**_UIP_AD, "ucp": False},
        {**_UIP_AD, "cpg": False},
        {**_UIP_AD, "assignment_weight": 0.0},
        {**_UIP_AD, "entropy_weight": 0.0},
        *_each("num_prototypes", 6, 32, start=_UIP_AD)[1:],
        *({**_UIP_AD, **of} for of in ({"residual": True}, {"separate": True}, {"gather_weight": 0.0})),
        *_each("score", "cosine", start=_UIP_AD)[1:],
    ],
    "cfr": [_CFR, {**_CFR, "retrieval": False}, {**_CFR, "replacement": False}, {**_CFR, "cycle": False}],
    "combine": [
        *_each("combine", "sum", start={"method": "cfm", "grid": 16}),
        *_each("combine", "sum", start=_CFR),
    ],
    "inp_former": _each("score", "cosine", start={"method": "inp_former", "grid": 16}),
    "modules": [{}, {"apr": False}, {"mnc": False}, {"assignment": "softmax"}, {"gate_init": 0.0}],
}
"""Rows of each study: what a row changes of the default of `experiments.fewshot`."""


def spec_of(changes: Mapping[str, Any], shots: int, seeds: int) -> Spec:
    """The default study of the built-in parts with some settings changed."""
    fixed: dict[str, Any] = {"method": "pirn", "encoder": pretrained.DEFAULT, "top_share": 0.0, "input_size": 224}
    left = {**fixed, "grid": 16, **changes}
    method, encoder, top_share, size = (left.pop(name) for name in fixed)
    preset = methods.choose(method, "default")

    def changed(part: Any) -> Any:
        names = {field.name for field in dataclasses.fields(part)} & left.keys()
        return dataclasses.replace(part, **{name: left.pop(name) for name in names})

    config, recipe = changed(preset.config), preset.recipe and changed(preset.recipe)
    study = catalogue.BUILT_IN, (shots,), seeds, method, config, recipe, pretrained.load(encoder)
    preparation = dataclasses.replace(builtin_parts.preparation(), size=size)
    return Spec(*study, preparation, metrics=MetricSettings(top_share=top_share), **left)


def label(changes: Mapping[str, Any]) -> str:
    """Name of a row."""
    return " ".join(f"{name}={value}" for name, value in changes.items()) or "default"
