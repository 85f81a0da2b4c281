"""The walk-through of docs/deploy.md, its commands as they stand there, on small parts."""

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.plates import write_parts

pytest.importorskip("fastapi")
pytest.importorskip("flatbuffers")

FAST = "--encoder=chroma --input_size=56 --foreground=none"


def script(parts, port):
    """The commands with other parts, another port, a smaller model and this Python."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    block = re.search(r"## A walk-through.*?```bash\n(.*?)```", text, re.DOTALL)
    assert block
    begin, commands = block[1].split("\n", 1)
    assert begin.startswith("parts=")
    commands = commands.replace(".venv/bin/pirn", f"{sys.executable} -m tools.pirn").replace("8000", str(port))
    return f"parts={parts}\n" + commands.replace("tools.pirn fit", f"tools.pirn fit {FAST}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_walk_through_leads_from_good_parts_to_a_server(tmp_path):
    """Six processes, each of which imports JAX."""
    for place in ("train/good", "test/good", "test/stain"):
        write_parts(tmp_path / place, 5, masks=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script(tmp_path, port)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"verdict":' in done.stdout
    for name in ("knob.pirn", "knob.jpg", "knob.hlo", "outputs/knobs/report.html", "outputs/good_knobs/results.csv"):
        assert (tmp_path / name).exists()
