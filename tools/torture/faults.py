"""Faults of a machine while a study runs: kills, signals, full and read-only disks, damaged caches, a wrong clock."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

from tools.torture import study
from tools.torture.trial import Trial, timed


def kills(folder: pathlib.Path, whole: dict, tries: int, longest: float, rng: random.Random, both: bool) -> Trial:
    """Kills a study at random moments until it was killed often enough, and lets every third start come to its end.

    Args:
      folder: to work in.
      whole: numbers of the study when nobody kills it.
      tries: kills.
      longest: seconds after which a start is killed at the latest.
      rng: randomness.
      both: whether two processes share the study and both are killed.
    """
    trial = Trial("kill -9, two processes" if both else "kill -9")
    resumed = 0
    with timed(trial):
        while trial.tries < tries:
            home = folder / f"kills-{both}-{resumed}"
            for _ in range(min(3, tries - trial.tries)):
                processes = study.two(home / "cache", home) if both else [study.start(home / "cache", home)]
                time.sleep(rng.uniform(0, longest))
                for process in processes:
                    process.kill()
                    process.communicate()
                trial.tries += 1
            # One process continues what two have begun, in the same groups.
            status, errors = study.finish(study.start(home / "cache", home, *(["--seeds=11"] if both else [])))
            trial.expect(status == 0, f"resumed with status {status}: {errors[-300:]}")
            if status == 0:
                trial.expect(study.measured(home) == whole, f"{home.name}: other numbers than without kills")
            resumed += 1
            shutil.rmtree(home, ignore_errors=True)
        trial.told = f"{resumed} studies resumed, results equal to the bit"
    return trial


def signals(folder: pathlib.Path, whole: dict, cache: pathlib.Path, longest: float, rng: random.Random) -> Trial:
    """SIGTERM ends a study with a sentence and status 143, and it continues."""
    trial = Trial("SIGTERM", tries=1)
    with timed(trial):
        process = study.start(cache, folder / "term")
        # Before Python has imported the command, nobody listens to the signal.
        time.sleep(longest / 2 + rng.uniform(0, longest / 4))
        process.send_signal(signal.SIGTERM)
        status, errors = study.finish(process)
        trial.expect(status in (143, 0) and "Traceback" not in errors, f"status {status}: {errors[-300:]}")
        status, errors = study.finish(study.start(cache, folder / "term"))
        trial.expect(status == 0 and study.measured(folder / "term") == whole, f"resumed: {status} {errors[-300:]}")
    return trial


def full_disk(folder: pathlib.Path, whole: dict, sizes: tuple[int, ...]) -> Trial:
    """Cache and output on a disk of so many KiB: a sentence; after space is made, the same numbers as always."""
    trial = Trial("disk full")
    with timed(trial):
        for size in sizes:
            disk = folder / f"disk-{size}"
            disk.mkdir()
            if not _mount(disk, f"size={size}k"):
                trial.told = "not tried: mounting needs root"
                return trial
            try:
                trial.tries += 1
                status, errors = study.finish(study.start(disk / "cache", disk / "out"))
                trial.expect(status == 0 or study.is_sentence(errors), f"{size} KiB: {status} {errors[-300:]}")
                left = [path.name for path in disk.rglob("*.tmp")]
                trial.expect(not left, f"{size} KiB: left behind {left}")
                _mount(disk, "remount,size=1g")
                status, errors = study.finish(study.start(disk / "cache", disk / "out"))
                trial.expect(
                    status == 0 and study.measured(disk / "out") == whole, f"{size} KiB, then room: {errors[-300:]}"
                )
            finally:
                subprocess.run(["umount", str(disk)], check=False)
        trial.told = f"disks of {', '.join(f'{size:,}' for size in sizes)} KiB, continued with room"
    return trial


def read_only(folder: pathlib.Path, whole: dict, cache: pathlib.Path) -> Trial:
    """A cache that cannot be written, warm and cold: what is in it is used, and the study does without the rest."""
    trial = Trial("read-only cache")
    with timed(trial):
        for name, parts in (("warm", None), ("without features", ("features", "inputs"))):
            disk = folder / f"read-only-{name.split()[0]}"
            disk.mkdir()
            if not _mount(disk, "size=1g"):
                trial.told = "not tried: mounting needs root"
                return trial
            try:
                trial.tries += 1
                ignore = shutil.ignore_patterns(*parts) if parts else None
                shutil.copytree(cache, disk / "cache", ignore=ignore)
                _mount(disk, "remount,ro")
                output = folder / f"out-{name.split()[0]}"
                status, errors = study.finish(study.start(disk / "cache", output))
                trial.expect(status == 0 and study.measured(output) == whole, f"{name}: {status} {errors[-300:]}")
            finally:
                subprocess.run(["umount", str(disk)], check=False)
    return trial


def damaged_cache(folder: pathlib.Path, whole: dict, cache: pathlib.Path, tries: int, rng: random.Random) -> Trial:
    """Random bytes of cached arrays are changed, or files cut: they are computed again."""
    trial = Trial("damaged cache")
    with timed(trial):
        for i in range(tries):
            trial.tries += 1
            own = folder / f"damaged-{i}"
            shutil.copytree(cache, own)
            for path in [*own.glob("features/*/*.npz"), *own.glob("inputs/*/*.npz")]:
                data = bytearray(path.read_bytes())
                if rng.random() < 0.3:
                    del data[rng.randrange(len(data)) :]
                else:
                    for _ in range(rng.randint(1, 8)):
                        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                path.write_bytes(data)
            status, errors = study.finish(study.start(own, folder / f"damaged-out-{i}"))
            trial.expect(
                status == 0 and study.measured(folder / f"damaged-out-{i}") == whole, f"{status} {errors[-300:]}"
            )
            shutil.rmtree(own)
    return trial


def shared_cache(folder: pathlib.Path, whole: dict) -> Trial:
    """Two studies at once on one cold cache."""
    trial = Trial("two studies, one cold cache", tries=1)
    with timed(trial):
        outputs = [folder / f"at-once-{i}" for i in range(2)]
        for output, process in [(output, study.start(folder / "cold", output)) for output in outputs]:
            status, errors = study.finish(process)
            trial.expect(status == 0 and study.measured(output) == whole, f"{status} {errors[-300:]}")
    return trial


def clock(folder: pathlib.Path, whole: dict, cache: pathlib.Path) -> Trial:
    """Files from the future, as after a clock was set back: nothing depends on their times."""
    trial = Trial("clock set back", tries=1)
    with timed(trial):
        own, output = folder / "future", folder / "future-out"
        shutil.copytree(cache, own)
        process = study.start(own, output)
        time.sleep(5)
        process.kill()
        process.communicate()
        later = time.time() + 400 * 86400
        for path in [*own.rglob("*"), *output.rglob("*")]:
            os.utime(path, (later, later))
        status, errors = study.finish(study.start(own, output))
        trial.expect(status == 0 and study.measured(output) == whole, f"{status} {errors[-300:]}")
    return trial


def _mount(place: pathlib.Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
