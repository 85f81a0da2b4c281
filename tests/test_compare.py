"""All methods on the same parts: the table, the page, and what is refused."""

import json
import re

from pirn_jax.data import procedural
from tests import commands


def test_methods_stand_side_by_side(tmp_path):
    flags = ("--debug", "--methods=cfm,patchcore", "--encoder=chroma", "--categories=gear", "--seeds=1", "--grid=7")
    done = commands.run("experiments.compare", *flags, f"--output_dir={tmp_path}", PIRN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "compare.json").read_text())
    ((title, rows),) = found["rows"].items()
    assert title == "2 shots"
    assert found["columns"][0] == "image AUROC, combination"
    assert [name for name, _ in rows] == ["cfm", "patchcore"]
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("cfm", "patchcore")}
    assert results["cfm"]["episodes"] == results["patchcore"]["episodes"]
    for name, cells in rows:
        assert len(cells) == len(found["columns"])
        assert cells[4] == f"{results[name]['mean']['2']['image_auroc']['mean']:.3f}"
    weights = [float(cells[-2]) for _, cells in rows]
    assert weights[0] > weights[1] == 0
    page = (tmp_path / "compare.html").read_text()
    assert "Overview" in page
    assert rows[0][1][4] in page
    # A defect of the combination with the map of each method between what the methods see and what is marked.
    told = [name for name in procedural.DEFECTS["gear"] if procedural.DEFECTS["gear"][name].modality == "combination"]
    assert any(f"<bdi>gear, {name}, " in page for name in told)
    headings = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    assert headings == ["RGB", "Normals", "cfm", "patchcore", "Ground truth"]


def test_unknown_methods_are_refused(tmp_path):
    done = commands.run("experiments.compare", "--methods=resnet", f"--output_dir={tmp_path / 'out'}")
    assert done.returncode == 1
    assert (
        "--methods=resnet: unknown; choose from pirn, uip_ad, cfr, cfm, inp_former, patchcore, gaussian, or all"
        in done.stderr
    )
    assert not (tmp_path / "out").exists()
