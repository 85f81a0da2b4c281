"""Trains the built-in encoder from nothing: no photograph, no data set, no label of any inspection task.

    python -m tools.train_builtin_encoder

A vision transformer learns on surfaces made up while it trains (`tools/pretraining/scenes.py`), first to describe
patches, then to tell edited patches from untouched ones by their distance to other instances of the same surface
(`tools/pretraining/objective.py`). The generator shares no code and no category with the built-in parts, and nothing is
chosen on their test split.

The defaults are the recipe of the shipped file, whose metadata hold its seed, time and final losses. State is kept
every `--keep_every` steps under `--work_dir`; the same command continues after an interruption, and gives what an
uninterrupted run gives. On an accelerator raise `--episodes` and the numbers of steps.
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
_FIRST = flags.DEFINE_integer("first_steps", 2000, "Steps that fit the teacher's targets.", lower_bound=2)
_SECOND = flags.DEFINE_integer("second_steps", 3000, "Steps that compare instances.", lower_bound=2)
_EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes a step, of four images each.", lower_bound=1)
_ECHO = flags.DEFINE_integer("echo", 2, "Steps that learn from the same images before new ones are made.")
_FIRST_RATE = flags.DEFINE_float("first_rate", 1e-3, "Highest learning rate of the first stage.")
_SECOND_RATE = flags.DEFINE_float("second_rate", 3e-4, "Highest learning rate of the second stage.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, images and windows.")
_WIDTH = flags.DEFINE_integer("width", 256, "Channels, a multiple of 32.", lower_bound=64)
_DEPTH = flags.DEFINE_integer("depth", 4, "Blocks; the last two are averaged.", lower_bound=2)
_SIZE = flags.DEFINE_integer("size", 112, "Side of the training images in pixels, a multiple of 14.", lower_bound=14)
_KEEP = flags.DEFINE_integer("keep_every", 250, "Steps between kept states and log lines.", lower_bound=1)

_HELD_OUT = 16  # batches of episodes that are never trained on
_SEEN_FIRST = 8  # batches of images that scales and the patch embedding are taken from

State = dict[str, Any]
"""{"weights": {"encoder", "head"}, "optimiser", "teacher", "step", "seconds"}."""


def architecture() -> tuple[vit.ViTConfig, tuple[int, ...]]:
    """The encoder's architecture, with positions for 224 pixels, and the blocks that are averaged."""
    config = vit.ViTConfig(
        width=_WIDTH.value, depth=_DEPTH.value, heads=_WIDTH.value // 32, position_grid=16, position_mode="plain"
    )
    return config, (_DEPTH.value - 1, _DEPTH.value)


def optimiser() -> optax.GradientTransformation:
    """AdamW; each stage has its warm-up and cosine decay, and matrices only are decayed. All numbers are our choice."""
    stages = [(_FIRST.value, _FIRST_RATE.value), (_SECOND.value, _SECOND_RATE.value)]
    rates = [
        optax.warmup_cosine_decay_schedule(0.0, rate, min(100, steps // 2), steps, 0.03 * rate)
        for steps, rate in stages
    ]
    rate = optax.join_schedules(rates, [_FIRST.value])
    matrices = functools.partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    return optax.chain(optax.clip_by_global_norm(3.0), optax.adamw(rate, b2=0.98, weight_decay=0.02, mask=matrices))


def singles(key: jax.Array) -> jax.Array:
    """Images of the first stage, as many as the second's episodes hold."""
    count = _EPISODES.value * (objective.MEMORY + 2)
    return jax.vmap(lambda one: objective.single(one, _SIZE.value))(jax.random.split(key, count))


def episodes(key: jax.Array) -> objective.Episode:
    """Episodes of the second stage."""
    return jax.vmap(lambda one: objective.episode(one, _SIZE.value))(jax.random.split(key, _EPISODES.value))


def whiten(images: np.ndarray, config: vit.ViTConfig) -> dict[str, jax.Array]:
    """A patch embedding whose outputs are uncorrelated over images: the principal components of patches, scaled.

    Patches are nearly all alike in their coarse part; from random weights it takes long to see the rest.
    """
    side, patch = images.shape[1] // config.patch, config.patch
    pixels = np.asarray(vit.normalise(jnp.asarray(images), config), np.float64)
    patches = pixels.reshape(-1, side, patch, side, patch, 3).swapaxes(2, 3).reshape(-1, 3 * patch**2)
    mean = patches.mean(0)
    values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
    kernel = 0.5 * vectors[:, ::-1][:, : config.width] / np.sqrt(values[::-1][: config.width] + 1e-3)
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(-mean @ kernel, jnp.float32)}


def start(key: jax.Array) -> State:
    """The state before the first step."""
    config, blocks = architecture()
    of_weights, of_images, of_teacher = jax.random.split(key, 3)
    draw = jax.jit(singles)
    images = jnp.concatenate([draw(jax.random.fold_in(of_images, number)) for number in range(_SEEN_FIRST)])
    encoder: Any = jax.jit(vit.ViT(config, blocks).init)(of_weights, jnp.zeros((224, 224, 3)))
    encoder["params"]["embed"] = whiten(np.asarray(images), config)
    first = {"encoder": encoder, "head": jnp.array([np.log(20.0), 0.05])}
    fitted = jax.jit(teacher.fit, static_argnums=(2, 3))(images, of_teacher, config.patch, config.width)
    return {"weights": first, "optimiser": optimiser().init(first), "teacher": fitted, "step": 0, "seconds": 0.0}


def compile_stage(draw: Callable, loss: Callable) -> tuple[Callable, Callable, Callable]:
    """Builds `draw(key)`, `train_step(weights, moments, teacher, key, drawn)`, `measure(weights, teacher, drawn)`."""
    config, blocks = architecture()
    transform = optimiser()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(values, moments, fitted, key, drawn):
        slope = jax.value_and_grad(loss, has_aux=True)
        (value, metrics), gradient = slope(values, key, drawn, fitted, config, blocks)
        updates, moments = transform.update(gradient, moments, values)
        # Two numbers that belong to no feature, far from where they start: they may move faster.
        updates = {**updates, "head": 10.0 * updates["head"]}
        return optax.apply_updates(values, updates), moments, {"loss": value, **metrics}

    @jax.jit
    def measure(values, fitted, drawn):
        value, metrics = loss(values, jax.random.key(0), drawn, fitted, config, blocks)
        return {"loss": value, **metrics}

    return jax.jit(draw), train_step, measure


def train(state: State, key: jax.Array, keep: Callable[[State, dict[str, float]], None]) -> None:
    """Trains to the last step.

    Args:
      state: changed in place.
      key: of the training; every step's randomness depends on it and on the step's number alone.
      keep: called with the state and the metrics of held-out episodes every `--keep_every` steps and at the end.

    Raises:
      FloatingPointError: naming the step, if the loss is not finite.
    """
    stages = [compile_stage(singles, objective.first_loss), compile_stage(episodes, objective.second_loss)]
    of_images, of_windows, of_held_out = jax.random.split(key, 3)
    total, position, drawn = _FIRST.value + _SECOND.value, None, None
    with tqdm(total=total, initial=state["step"], disable=not sys.stderr.isatty()) as bar:
        while state["step"] < total:
            begin, step = time.perf_counter(), state["step"]
            stage = int(step >= _FIRST.value)
            draw, train_step, _ = stages[stage]
            if position != (position := (stage, step // _ECHO.value)):
                drawn = draw(jax.random.fold_in(of_images, position[1]))
            state["weights"], state["optimiser"], metrics = train_step(
                state["weights"], state["optimiser"], state["teacher"], jax.random.fold_in(of_windows, step), drawn
            )
            if not np.isfinite(loss := float(metrics["loss"])):
                raise FloatingPointError(f"the loss is {loss} at step {step}; lower the learning rate")
            state["step"] = step + 1
            state["seconds"] += time.perf_counter() - begin
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
            if state["step"] % _KEEP.value == 0 or state["step"] == total:
                keep(state, _measure(state, of_held_out, *stages[1]))


def _measure(state: State, key: jax.Array, draw: Callable, _: Callable, measure: Callable) -> dict[str, float]:
    """Means of the second stage's metrics over held-out episodes."""
    batches = (draw(jax.random.fold_in(key, number)) for number in range(_HELD_OUT))
    found = [measure(state["weights"], state["teacher"], batch) for batch in batches]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def store(state: State, measured: dict[str, float]) -> None:
    """Writes the encoder's file in half precision, with what it was trained on and how."""
    config, blocks = architecture()
    here = pathlib.Path(__file__).parent
    sources = [pathlib.Path(__file__), *sorted((here / "pretraining").glob("*.py"))]
    images = (_FIRST.value + _SECOND.value) * _EPISODES.value * (objective.MEMORY + 2) // _ECHO.value
    provenance = {
        "source": "tools/train_builtin_encoder.py and tools/pretraining",
        "source_sha256": hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest(),
        "licence": "Apache-2.0",
        "layout": "pirn_jax",
        "description": (
            f"Trained by pirn_jax {__version__} on {images:,} made-up images of {_SIZE.value} pixels, each seen "
            f"{_ECHO.value} times: {state['step']} steps, seed {_SEED.value}, {state['seconds'] / 60:.0f} minutes on "
            f"{jax.devices()[0].device_kind} with jax {jax.__version__}. On held-out episodes its loss is "
            f"{measured['loss']:.3f}, and {100 * measured['ranked']:.1f} % of edits raise the highest distance."
        ),
    }
    stored = weights.Stored(config, state["weights"]["encoder"], blocks, provenance)
    weights.save(pathlib.Path(_OUTPUT.value), stored, np.float16)


def recipe() -> dict[str, Any]:
    """Everything that decides what is learned; a kept state continues under the same recipe only."""
    kept = (_FIRST, _SECOND, _EPISODES, _ECHO, _FIRST_RATE, _SECOND_RATE, _SEED, _WIDTH, _DEPTH, _SIZE)
    return {**{holder.name: holder.value for holder in kept}, "jax": jax.__version__}


def resume(path: pathlib.Path, state: State) -> State:
    """The state kept at `path`, or the given one if there is none.

    Raises:
      ValueError: if the kept one belongs to another recipe.
    """
    if not path.exists():
        return state
    kept = flax.serialization.msgpack_restore(path.read_bytes())
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

    def keep(state: State, measured: dict[str, float]) -> None:
        facts = {"step": state["step"], "minutes": round(state["seconds"] / 60, 1)} | measured
        print(" ".join(f"{name} {value:.4g}" for name, value in facts.items()), flush=True)
        arrays = jax.tree.map(np.asarray, flax.serialization.to_state_dict(state))
        with atomic.replacing(path) as file:
            file.write(flax.serialization.msgpack_serialize({**arrays, "recipe": json.dumps(recipe())}))
        store(state, measured)

    try:
        train(resume(path, start(of_weights)), of_training, keep)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"interrupted; the same command continues from {path}")


if __name__ == "__main__":
    app.run(main)
