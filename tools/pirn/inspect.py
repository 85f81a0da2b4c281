"""Says which new parts are good, and where others are not.

    pirn inspect --model=bolts.pirn --parts=today
    pirn inspect --model=bolts.pirn --parts=today --watch

--parts holds rgb/ and one of xyz/, depth/ and cloud/; with --watch it is looked at again and again for new parts. In
--output_dir: report.html, results.csv and results.json, regions in the COCO format (coco.json), maps/ (float32 TIFF)
and overlays/ (PNG). Exits with status 0 if all parts are good, 2 if some are defective, and 1 if some cannot be used,
after inspecting the others.
"""

import pathlib
import time

import PIL.Image
import tifffile
from absl import flags

from pirn_jax import atomic, cache, inputs
from pirn_jax.data import folder
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Files, Record
from pirn_jax.inspection import bundle, verdicts
from pirn_jax.inspection.verdicts import Limits, Verdict
from pirn_jax.report import coco, inspection
from pirn_jax.report.inspection import Shown
from pirn_jax.study import storage
from pirn_jax.training import compiled
from tools import console, dataset_flags

FLAGS = flags.FLAGS
_SHOWN = 20


def define() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("model", None, "File of the model.", required=True)
    flags.DEFINE_string("parts", None, "Folder of new parts: rgb/ and one of xyz/, depth/ and cloud/.", required=True)
    flags.DEFINE_string("output_dir", "outputs/inspection", "Folder that the results are written to.")
    flags.DEFINE_float("false_alarms", None, "Wished share of good parts called defective; by default the model's.")
    flags.DEFINE_string("encoder", None, "File of the model's encoder, if it lies elsewhere now.")
    flags.DEFINE_bool("watch", False, "Go on looking for new parts until Ctrl-C.")
    flags.DEFINE_float("watch_seconds", 1.0, "Pause between two looks.", lower_bound=0.0)
    console.define_help("tools.pirn.inspect", "tools.dataset_flags", text=__doc__)


def _write_part(output: pathlib.Path, one: Verdict, shown: Shown, limit: Limits) -> None:
    with atomic.replacing(output / "maps" / f"{one.part}.tiff") as file:
        tifffile.imwrite(file, shown.values)
    with atomic.replacing(output / "overlays" / f"{one.part}.png") as file:
        PIL.Image.fromarray(inspection.overlay(shown.rgb, shown.values, limit)).save(file, "png")


def _write_results(
    output: pathlib.Path,
    found: list[tuple[Verdict, Shown | None]],
    images: list[coco.Image],
    limit: Limits,
    notes: list[str],
) -> None:
    columns = ["part", "verdict", "score", "p_value", "regions", "row", "column", "pixels", "area_mm2", "height_mm"]
    rows: list[list[object]] = [list(columns)]
    for one, _ in found:
        first = one.regions[0] if one.regions else None
        place = [None] * 5 if first is None else [getattr(first, name) for name in columns[5:]]
        rows.append([one.part, one.verdict, one.score, one.p_value, len(one.regions), *place])
    atomic.write_csv(output / "results.csv", rows)
    parts = [{**one._asdict(), "regions": [region._asdict() for region in one.regions]} for one, _ in found]
    told = {"model": FLAGS.model, "threshold": limit.score.as_json(), "parts": parts}
    storage.write_json(output / "results.json", told)
    storage.write_json(output / "coco.json", coco.content([one for one, _ in found], images))
    name = pathlib.Path(FLAGS.model).name
    inspection.write_page(output / "report.html", name, found, limit, notes)


def _run() -> int:
    compiled.keep(cache.cache_directory() / "xla")
    model, output = bundle.read(pathlib.Path(FLAGS.model), FLAGS.encoder), pathlib.Path(FLAGS.output_dir)
    limit = verdicts.limits(model, FLAGS.false_alarms)
    dataset_flags.take(model.ready.settings, "model")
    found: dict[str, tuple[Verdict, Shown | None]] = {}
    images: dict[str, coco.Image] = {}
    notes: dict[Record, str] = {}
    problems, tried = Problems(), {}

    def ranked() -> list[tuple[Verdict, Shown | None]]:
        return sorted(found.values(), key=lambda of: -of[0].score)

    def told() -> list[str]:
        return inputs.summarise(list(notes), list(notes.values()))

    def inspect(record: Record) -> None:
        tried[record.id] = _state(record)
        ready = verdicts.prepare(model, record)
        ((one, values),) = verdicts.judge(model, limit, [record.id], [ready])
        shown = Shown(ready.part.rgb, ready.prepared.values[1], values)
        _write_part(output, one, shown, limit)
        images[record.id] = coco.Image(_files(record).rgb.name, values.shape)
        found[record.id], notes[record] = (one, shown), ready.prepared.note
        _forget_pictures(found)

    def look(records: list[Record]) -> None:
        """Inspects parts, one after the other, and writes the results of all so far."""
        begin = time.perf_counter()
        try:
            with console.stage("inspection", len(records)) as advance:
                for record in records:
                    with problems.collecting():
                        inspect(record)
                    advance(1)
        finally:
            # Ctrl-C loses no verdict.
            if found:
                _write_results(output, ranked(), [images[one.part] for one, _ in ranked()], limit, told())
        if records:
            print(f"{len(records) / (time.perf_counter() - begin):.2f} parts a second")
        if found:
            _print(ranked(), told())

    parts = pathlib.Path(FLAGS.parts)
    dataset_flags.refuse("data_dir", because="parts are those of --parts")
    look(_find(parts, problems))
    while FLAGS.watch:
        for text in problems.found:
            print(f"error: {text}")
        problems = Problems()
        time.sleep(FLAGS.watch_seconds)
        # A file without its partner may still be on its way, and one that could not be read may have been.
        fresh = [of for of in _find(parts, Problems()) if of.id not in found and _changed(of, tried.get(of.id))]
        if fresh:
            look(fresh)
    if not found and not problems.found:
        raise InputError(f"{parts}: no part in it; put images into rgb/ and their scans beside it")
    if found:
        print(f"\n{output / 'report.html'} shows them, {output / 'results.csv'} lists them.")
    problems.check()
    return 2 if any(one.verdict == "defective" for one, _ in found.values()) else 0


def _forget_pictures(found: dict[str, tuple[Verdict, Shown | None]]) -> None:
    """Keeps the pictures of those parts alone that the page will show, the highest scores."""
    shown = sorted((one for one, picture in found.values() if picture), key=lambda one: -one.score)
    found.update({one.part: (one, None) for one in shown[inspection.PICTURES :]})


def _changed(record: Record, before: tuple | None) -> bool:
    """Whether the files of a part are others than before, and there."""
    try:
        return _state(record) != before
    except InputError:
        return False


def _state(record: Record) -> tuple[tuple[int, int], ...]:
    """Size and time of the files of a part, to see whether they have changed.

    Raises:
      InputError: if one is not there.
    """
    files = _files(record)
    paths = [files.rgb, *([files.scan.path] if files.scan else [])]
    try:
        return tuple((of.st_size, of.st_mtime_ns) for of in (path.stat() for path in paths))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); put it there again") from error


def _files(record: Record) -> Files:
    assert isinstance(record.source, Files)
    return record.source


def _find(parts: pathlib.Path, problems: Problems) -> list[Record]:
    return folder.read_new(parts, dataset_flags.options(), problems)


def _print(found: list[tuple[Verdict, Shown | None]], notes: list[str]) -> None:
    width = max(len("part"), *(len(one.part) for one, _ in found[:_SHOWN]))
    print(f"{'part':{width}}  verdict     score  p-value")
    for one, _ in found[:_SHOWN]:
        p_value = "" if one.p_value is None else f"{one.p_value:8.3f}"
        place = f"  {inspection.region_text(one.regions[0])}" if one.regions else ""
        print(f"{one.part:{width}}  {one.verdict:9s}  {one.score:6.3f} {p_value}{place}")
    for note in notes:
        print(f"note: {note}")


def main(arguments: list[str]) -> None:
    """Inspects parts; exits with status 0, 1 or 2 as the head of this file tells."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE")
