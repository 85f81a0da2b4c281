"""Trains the built-in encoder from nothing: no photograph, no data set, no label of any inspection task.

    python -m tools.train_builtin_encoder

On surfaces made up while it trains (`tools/pretraining/scenes.py`) a vision transformer learns to describe patches by
local statistics that do not depend on how a patch is turned (`tools/pretraining/teacher.py`). The generator shares no
code and no category with the built-in parts. What the teacher describes was chosen by its own nearest neighbours on
built-in parts of another seed, so on other parts than those whose results are reported.

The defaults are the recipe of the shipped file, whose metadata hold its seed, time and final losses. State is kept
every `--keep_every` steps under `--work_dir`; the same command continues after an interruption, and gives what an
uninterrupted run gives. On an accelerator raise `--instances` and `--steps`.
"""

import functools
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from tqdm import tqdm

from pirn_jax import __version__, atomic, cache
from pirn_jax.encoders import vit, weights
from tools.pretraining import objective, teacher

_OUTPUT = flags.DEFINE_string("output", "pirn_jax/encoders/builtin.safetensors", "The encoder's file.")
_WORK = flags.DEFINE_string("work_dir", "outputs/builtin_encoder", "Where the state of an unfinished training is kept.")
_STEPS = flags.DEFINE_integer("steps", 5600, "Optimiser steps.", lower_bound=2)
_INSTANCES = flags.DEFINE_integer("instances", 20, "Surfaces a step, each as two images.", lower_bound=1)
_FAMILIES = flags.DEFINE_integer(
    "families", 320, "Families to whose pairs of good instances teacher and patch embedding are fitted.", lower_bound=2
)
_RATE = flags.DEFINE_float("learning_rate", 3e-3, "Highest learning rate.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, images and windows.")
_WIDTH = flags.DEFINE_integer("width", 256, "Channels, a multiple of 32.", lower_bound=64)
_DEPTH = flags.DEFINE_integer("depth", 4, "Blocks; the features are the output of the last.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 112, "Side of the training images in pixels, a multiple of 14.", lower_bound=14)
_KEEP = flags.DEFINE_integer("keep_every", 250, "Steps between kept states and log lines.", lower_bound=1)

_HELD_OUT = 16  # batches that are never trained on
_EMBEDDED = 0.05  # deviation of what the patch embedding puts out at the start
_ADDED = 0.1  # scale of what the blocks add to it at the start

State = dict[str, Any]
"""{"params", "optimiser", "teacher", "step", "seconds"}."""


def architecture() -> tuple[vit.ViTConfig, tuple[int, ...]]:
    """The encoder's architecture, with positions for 224 pixels, and the block whose output is the features."""
    config = vit.ViTConfig(
        width=_WIDTH.value, depth=_DEPTH.value, heads=_WIDTH.value // 32, position_grid=16, position_mode="plain"
    )
    return config, (_DEPTH.value,)


def optimiser() -> optax.GradientTransformation:
    """Muon with a warm-up and a cosine decay; matrices only are decayed. All numbers are our choice."""
    warm = min(50, _STEPS.value // 2)
    rate = optax.warmup_cosine_decay_schedule(0.0, _RATE.value, warm, _STEPS.value, 0.01 * _RATE.value)
    matrices = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    muon = optax.contrib.muon(rate, adam_b2=0.98, consistent_rms=0.2, weight_decay=0.02, weight_decay_mask=matrices)
    return optax.chain(optax.clip_by_global_norm(3.0), muon)


def draw(key: jax.Array) -> jax.Array:
    """The instances of a step, (instances, 2, size, size, 3)."""
    return jax.vmap(lambda one: objective.draw(one, _SIZE.value))(jax.random.split(key, _INSTANCES.value))


def whiten(images: np.ndarray, config: vit.ViTConfig) -> dict[str, jax.Array]:
    """A patch embedding whose outputs are uncorrelated over images: the principal components of patches, scaled.

    Patches are nearly all alike in their coarse part; from random weights it takes long to see the rest.
    """
    side, patch = images.shape[1] // config.patch, config.patch
    pixels = np.asarray(vit.normalise(jnp.asarray(images), config), np.float64)
    patches = pixels.reshape(-1, side, patch, side, patch, 3).swapaxes(2, 3).reshape(-1, 3 * patch**2)
    mean = patches.mean(0)
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    kernel = _EMBEDDED * vectors[:, ::-1][:, : config.width] / np.sqrt(values[::-1][: config.width] + 1e-3)
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(-mean @ kernel, jnp.float32)}


def quieten(params: dict[str, Any], constant: jax.Array) -> None:
    """Changes weights so that features start as the targets' mean, and what they are made from is small beside it.

    Without a final norm the features are everything that the blocks have added up; what served only as a step on the
    way has to be taken away again, if it is not small.

    Args:
      params: of the encoder, changed in place.
      constant: (c,) the targets' mean.
    """
    for number in range(1, _DEPTH.value + 1):
        block = params[f"block_{number}"]
        block["scale_1"] *= _ADDED
        if number < _DEPTH.value:
            block["scale_2"] *= _ADDED
        else:
            block["shrink"] = {"kernel": jnp.zeros_like(block["shrink"]["kernel"]), "bias": constant}


def start(key: jax.Array) -> State:
    """The state before the first step."""
    config, blocks = architecture()
    of_weights, of_images, of_teacher = jax.random.split(key, 3)
    make = jax.jit(lambda keys: jax.lax.map(lambda one: objective.draw_pair(one, _SIZE.value), keys))
    pairs = make(jax.random.split(of_images, _FAMILIES.value))
    fitted = jax.jit(teacher.fit, static_argnums=(2, 3))(pairs, of_teacher, config.patch, config.width)
    params: Any = jax.jit(vit.ViT(config, blocks).init)(of_weights, jnp.zeros((224, 224, 3)))
    params["params"]["embed"] = whiten(np.asarray(pairs).reshape(-1, *pairs.shape[3:]), config)
    quieten(params["params"], (fitted[0].constant + fitted[1].constant) / 2.0)
    return {"params": params, "optimiser": optimiser().init(params), "teacher": fitted, "step": 0, "seconds": 0.0}


def compile_programs() -> tuple[Callable, Callable, Callable]:
    """Builds `make(key)`, `train_step(params, moments, teacher, key, images)`, `measure(params, teacher, images)`."""
    config, blocks = architecture()
    transform = optimiser()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, moments, fitted, key, images):
        def loss(params):
            return jnp.mean(objective.loss(params, key, images, fitted, config, blocks))

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = transform.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value

    @jax.jit
    def measure(params, fitted, images):
        return objective.loss(params, jax.random.key(0), images, fitted, config, blocks)

    return jax.jit(draw), train_step, measure


def train(state: State, key: jax.Array, keep: Callable[[State, np.ndarray], None]) -> None:
    """Trains to the last step.

    Args:
      state: changed in place.
      key: of the training; every step's randomness depends on it and on the step's number alone.
      keep: called with the state and the two losses on held-out images every `--keep_every` steps and at the end.

    Raises:
      FloatingPointError: naming the step, if the loss is not finite.
    """
    make, train_step, measure = compile_programs()
    of_images, of_windows, of_held_out = jax.random.split(key, 3)
    with tqdm(total=_STEPS.value, initial=state["step"], disable=not sys.stderr.isatty()) as bar:
        while state["step"] < _STEPS.value:
            begin, step = time.perf_counter(), state["step"]
            images = make(jax.random.fold_in(of_images, step))
            state["params"], state["optimiser"], loss = train_step(
                state["params"], state["optimiser"], state["teacher"], jax.random.fold_in(of_windows, step), images
            )
            value = float(loss)
            if not np.isfinite(value):
                raise FloatingPointError(f"the loss is {value} at step {step}; lower --learning_rate")
            state["step"] = step + 1
            state["seconds"] += time.perf_counter() - begin
            bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
            bar.update()
            if state["step"] % _KEEP.value == 0 or state["step"] == _STEPS.value:
                batches = (make(jax.random.fold_in(of_held_out, number)) for number in range(_HELD_OUT))
                keep(state, np.mean([measure(state["params"], state["teacher"], batch) for batch in batches], axis=0))


def store(state: State, held_out: np.ndarray) -> None:
    """Writes the encoder's file in half precision, with what it was trained on and how."""
    config, blocks = architecture()
    here = pathlib.Path(__file__)
    sources = [here, *sorted((here.parent / "pretraining").glob("*.py"))]
    images = 2 * state["step"] * _INSTANCES.value
    provenance = {
        "source": "tools/train_builtin_encoder.py and tools/pretraining",
        "source_sha256": hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest(),
        "licence": "Apache-2.0",
        "layout": "pirn_jax",
        "description": (
            f"Trained by pirn_jax {__version__} on {images:,} made-up images of {_SIZE.value} pixels: "
            f"{state['step']} steps, seed {_SEED.value}, {state['seconds'] / 60:.0f} minutes on "
            f"{jax.devices()[0].device_kind} with jax {jax.__version__}. On held-out images its features miss "
            f"{100 * held_out[0]:.1f} % (colour) and {100 * held_out[1]:.1f} % (normals) of the variance of its "
            "teacher's descriptors."
        ),
    }
    stored = weights.Stored(config, state["params"], blocks, provenance)
    weights.save(pathlib.Path(_OUTPUT.value), stored, np.float16)


def recipe() -> dict[str, Any]:
    """Everything that decides what is learned; a kept state continues under the same recipe only."""
    kept = (_STEPS, _INSTANCES, _FAMILIES, _RATE, _SEED, _WIDTH, _DEPTH, _SIZE)
    return {**{holder.name: holder.value for holder in kept}, "jax": jax.__version__}


def resume(path: pathlib.Path, state: State) -> State:
    """The state kept at `path`, or the given one if there is none.

    Raises:
      ValueError: if the kept one belongs to another recipe.
    """
    if not path.exists():
        return state
    kept: Any = flax.serialization.msgpack_restore(path.read_bytes())
    if kept.pop("recipe") != json.dumps(recipe()):
        raise ValueError(f"{path} belongs to another recipe; repeat its flags or name another --work_dir")
    restored = flax.serialization.from_state_dict(state, kept)
    return {**restored, "step": int(restored["step"]), "seconds": float(restored["seconds"])}


def main(arguments: list[str]) -> None:
    """Trains, or continues to train, and writes the file."""
    if len(arguments) > 1:
        raise app.UsageError(f"{arguments[1]!r} is no flag")
    jax.config.update("jax_compilation_cache_dir", str(cache.cache_directory() / "xla"))
    path = pathlib.Path(_WORK.value) / "state.msgpack"
    of_weights, of_training = jax.random.split(jax.random.key(_SEED.value))

    def keep(state: State, held_out: np.ndarray) -> None:
        losses = f"{held_out[0]:.4f} (colour) and {held_out[1]:.4f} (normals)"
        print(f"step {state['step']}, {state['seconds'] / 60:.1f} minutes, held-out losses {losses}", flush=True)
        arrays = jax.tree.map(np.asarray, flax.serialization.to_state_dict(state))
        with atomic.replacing(path) as file:
            file.write(flax.serialization.msgpack_serialize({**arrays, "recipe": json.dumps(recipe())}))
        store(state, held_out)

    try:
        train(resume(path, start(of_weights)), of_training, keep)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"interrupted; the same command continues from {path}")


if __name__ == "__main__":
    app.run(main)
