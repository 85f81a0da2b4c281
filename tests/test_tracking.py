"""Runs for other programs: every run once, with its own numbers, in files that these programs read."""

import json
import pathlib
import shutil
import struct
import sys

import numpy as np
import pytest

from pirn_jax.data.problems import InputError
from pirn_jax.report import tracking
from pirn_jax.study import storage
from tests import reports

SETTINGS = {"learning_rate": 0.001, "shots": [2], "encoder": "tiny", "apr": True}


@pytest.fixture
def directory(tmp_path):
    """Two groups of a study, two runs and one, of 2 shots and three steps; and a group of another study."""
    seeds = ((0, 1), (2,), (9,))
    for number, (group, settings) in enumerate(zip(seeds, (SETTINGS, SETTINGS, {"other": 1}), strict=True)):
        history = {
            "train_loss": np.array([[seed + 0.5, seed + 0.25, seed] for seed in group]),
            "distances": np.zeros(3),
        }
        facts = {
            "runs": [[reports.HOSTILE, 2, seed] for seed in group],
            "metrics": [{"image_auroc": seed / 4, "pixel_auroc": None} for seed in group],
        }
        storage.save_group(tmp_path / str(settings), f"2-{number:03d}", settings, {"w": np.zeros(1)}, history, facts)
    home = tmp_path / str(SETTINGS)
    shutil.copy(tmp_path / "{'other': 1}" / "groups" / "2-002.npz", home / "groups")
    return home


def test_lines_hold_each_run_of_the_study_once(directory):
    tracking.write_lines(directory, SETTINGS)
    lines = [json.loads(line) for line in (directory / "runs.jsonl").read_text("utf-8").splitlines()]
    assert lines == [
        {
            "category": reports.HOSTILE,
            "shots": 2,
            "seed": seed,
            "metrics": {"image_auroc": seed / 4, "pixel_auroc": None},
            "training": {"loss": [seed + 0.5, seed + 0.25, seed]},
        }
        for seed in range(3)
    ]


def events(folder: pathlib.Path):
    """Summaries of all event files of a folder, in the order in which they were written."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = proto.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            yield from ((event.step, value) for value in event.summary.value)


def test_event_files_hold_curves_settings_metrics_and_pictures_of_their_run(directory):
    pytest.importorskip("tensorboardX")
    for _ in range(2):  # The second time replaces the first.
        tracking.write_events(directory, SETTINGS, [reports.gallery()])
    folders = sorted((directory / "tensorboard").iterdir())
    assert [folder.name[-2:] for folder in folders] == ["-0", "-1", "-2"]
    for seed, folder in enumerate(folders):
        found = list(events(folder))
        losses = [(step, value.simple_value) for step, value in found if value.tag == "training/loss"]
        assert losses == [(1, seed + 0.5), (2, seed + 0.25), (3, seed)]
        metrics = {value.tag: value.simple_value for _, value in found if value.tag.startswith("metrics/")}
        assert metrics == {"metrics/image_auroc": seed / 4}
        assert any(b"learning_rate" in value.metadata.plugin_data.content for _, value in found)
        pictures = [value.image for _, value in found if value.HasField("image")]
        assert [(image.height, image.width) for image in pictures] == [(32, 48)] * (3 if seed == 1 else 0)


def test_a_missing_package_is_named_with_the_remedy(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"pirn_jax\[tensorboard\]"):
        tracking.write_events(directory, SETTINGS, [])
