"""Converts public weights of DINO and DINOv2 to the project's own file of an encoder.

    python -m tools.convert_dinov2 --download=dinov2_vitb14
    python -m tools.convert_dinov2 --source=dinov2_vitb14_pretrain.pth --output=encoder.safetensors

Reads Facebook's, Hugging Face's and timm's files. Nothing in them is executed. What has been written is loaded again
and run on an image, and its features are described.
"""

import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from tqdm import tqdm

if __package__ in (None, ""):
    # Started by its path: the packages of the checkout are those beside this folder.
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from pirn_jax.cache import cache_directory
from pirn_jax.encoders import conversion, download, pretrained, vit, weights
from tools import console, public_files

FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "File of public weights: .pth, .pt, .bin or .safetensors.")
flags.DEFINE_enum("download", None, list(pretrained.CATALOGUE), "Public weights to download.")
flags.DEFINE_string("output", None, "File to write; by default where studies look for an encoder of this name.")
flags.DEFINE_enum(
    "position_mode", None, vit.POSITION_MODES, "How positions are resized; by default as the source does."
)
flags.DEFINE_enum("dtype", "float32", [str(dtype) for dtype in weights.DTYPES], "What numbers are stored as.")
flags.DEFINE_string("licence", None, "Licence of the weights; of those downloaded it is known.")
flags.DEFINE_list("blocks", None, "Blocks that are averaged by default, from 1; those that PIRN takes if not given.")

_SIDE = 224


def _fetch(name: str) -> pathlib.Path:
    source = pretrained.CATALOGUE[name]
    path = cache_directory() / "downloads" / source.address.rsplit("/", 1)[1]
    with tqdm(desc=path.name, unit="B", unit_scale=True, disable=not sys.stderr.isatty(), leave=False) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        download.fetch(source.address, path, progress, source.size, source.sha256)
    return path


def _blocks(depth: int) -> tuple[int, ...]:
    if FLAGS.blocks is None:
        return pretrained.default_blocks(depth)
    numbers = [int(text) if text.isdecimal() else 0 for text in FLAGS.blocks]
    if not numbers or min(numbers) < 1 or max(numbers) > depth:
        raise ValueError(f"--blocks={','.join(FLAGS.blocks)}: give numbers of blocks, which are 1 to {depth}")
    return tuple(sorted(set(numbers)))


def _convert(path: pathlib.Path, output: pathlib.Path, licence: str) -> None:
    begin = time.perf_counter()
    tensors = public_files.read(path)
    try:
        converted = conversion.convert(tensors, position_mode=FLAGS.position_mode)
    except conversion.ConversionError as error:
        raise ValueError(f"{path}: {error}") from error
    digest, blocks = download.file_sha256(path), _blocks(converted.config.depth)
    provenance = {
        "source": path.name,
        "source_sha256": digest,
        "licence": licence,
        "layout": converted.layout,
        "description": f"{FLAGS.download or path.stem}, converted from {converted.layout}'s weights",
    }
    stored = weights.Stored(converted.config, converted.params, blocks, provenance)
    weights.save(output, stored, np.dtype(FLAGS.dtype))
    count = sum(leaf.size for leaf in jax.tree.leaves(converted.params))
    _print_table(
        {
            "source": f"{path}, {path.stat().st_size:,} bytes",
            "SHA-256": digest,
            "licence": licence,
            "names": f"{converted.layout}'s",
            "tensors": f"{len(tensors) - len(converted.ignored)} used, {len(converted.ignored)} not needed"
            + "".join(f"\n{name}" for name in converted.ignored[:8]),
            "encoder": _architecture(converted.config),
            "parameters": f"{count:,}, stored as {FLAGS.dtype}",
            "positions": f"{converted.config.position_grid}x{converted.config.position_grid}, resized in mode "
            f"{converted.config.position_mode}",
            "blocks": f"{', '.join(map(str, blocks))}, averaged",
            "output": f"{output}, {output.stat().st_size:,} bytes, {time.perf_counter() - begin:.1f} s",
        }
    )


def _architecture(config: vit.ViTConfig) -> str:
    scale = "layer scale" if config.layer_scale else "no layer scale"
    return (
        f"{config.depth} blocks of {config.width} channels, {config.heads} heads, {config.mlp} MLP of {config.inner}, "
        f"{scale}, {config.registers} registers, patches of {config.patch} pixels"
    )


def _print_table(rows: Mapping[str, str]) -> None:
    for title, text in rows.items():
        print(f"{title:<12}" + text.replace("\n", "\n" + 12 * " "))


def check(path: pathlib.Path) -> None:
    """Loads an encoder, runs it on an image that is always the same, and prints a table of its features.

    Raises:
      ValueError: if the file holds no encoder, or a feature is not finite.
    """
    stored = weights.load(path)
    side = max(1, _SIDE // stored.config.patch) * stored.config.patch
    y, x = np.mgrid[:side, :side]
    image = np.stack([x * 255 // side, y * 255 // side, (x // 16 + y // 16) % 2 * 255], axis=-1).astype(np.uint8)
    pixels = vit.normalise(jnp.asarray(image), stored.config)
    model = vit.ViT(stored.config, stored.blocks)
    seen = jax.jit(lambda params: model.apply(params, pixels, capture_intermediates=_is_block))(stored.params)
    mean, inner = seen[0], seen[1]["intermediates"]
    rows = {str(n): inner[f"block_{n}"]["__call__"][0][1 + stored.config.registers :] for n in stored.blocks}
    print(f"\nfeatures of a test image of {side} pixels")
    print(f"{'block':<12}" + "".join(f"{title:>10}" for title in ("mean", "std", "min", "max", "norm")))
    for title, tokens in {**rows, "averaged": mean}.items():
        tokens = np.asarray(tokens, np.float64)
        if not np.isfinite(tokens).all():
            raise ValueError(f"{path}: features of block {title} are not finite; the source is damaged")
        norm = np.linalg.norm(tokens, axis=-1).mean()
        values = (tokens.mean(), tokens.std(), tokens.min(), tokens.max(), norm)
        print(f"{title:<12}" + "".join(f"{value:10.4f}" for value in values))
    print("all finite")


def _is_block(module: Any, _: str) -> bool:
    return isinstance(module, vit.Block)


def _run() -> None:
    if (FLAGS.source is None) == (FLAGS.download is None):
        raise ValueError("give either --source=FILE or --download=NAME")
    if FLAGS.download is not None:
        path, licence = _fetch(FLAGS.download), pretrained.CATALOGUE[FLAGS.download].licence
    else:
        path, licence = pathlib.Path(FLAGS.source), "unknown"
    output = pathlib.Path(FLAGS.output or pretrained.converted_path(FLAGS.download or path.stem))
    if output.exists() and path.exists() and output.samefile(path):
        raise ValueError(f"--output={output} is the source itself; name another file")
    _convert(path, output, FLAGS.licence or licence)
    check(output)


def main(arguments: list[str]) -> None:
    """Converts; exits with status 1 and one sentence if something is wrong with what the user gave."""
    interrupted = "interrupted; the same command continues a download where it stopped"
    console.run(_run, arguments, places="--output and PIRN_CACHE", interrupted=interrupted, refusals=(ValueError,))


if __name__ == "__main__":
    app.run(main)
