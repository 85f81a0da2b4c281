"""Says which new parts are good, and where others are not.

    pirn inspect --model=bolts.pirn --parts=today
    pirn inspect --model=bolts.pirn --parts=today --watch

--parts holds rgb/ and one of xyz/, depth/ and cloud/; with --watch it is looked at again and again for new parts. In
--output_dir: report.html, results.csv and results.json, regions in the COCO format (coco.json), maps/ (float32 TIFF)
and overlays/ (PNG). Exits with status 0 if all parts are good, 2 if some are defective, and 1 if some cannot be used,
after inspecting the others.
"""

import dataclasses
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
from pirn_jax.inspection.bundle import Bundle
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


@dataclasses.dataclass
class _Inspection:
    """Verdicts on the parts of a folder so far.

    Attributes:
      model: the model.
      limit: where good parts end.
      output: folder that the results are written to.
      found: verdict by part, and what is shown of it, None of those that the page has no place for.
      images: each part's photo.
      notes: sentences for the user.
      tried: state of each part's files when they were last read.
    """

    model: Bundle
    limit: Limits
    output: pathlib.Path
    found: dict[str, tuple[Verdict, Shown | None]] = dataclasses.field(default_factory=dict)
    images: dict[str, coco.Image] = dataclasses.field(default_factory=dict)
    notes: dict[Record, str] = dataclasses.field(default_factory=dict)
    tried: dict[str, tuple] = dataclasses.field(default_factory=dict)

    def look(self, records: list[Record], problems: Problems) -> None:
        """Inspects parts, one after the other, and writes the results of all so far."""
        begin = time.perf_counter()
        try:
            with console.stage("inspection", len(records)) as advance:
                for record in records:
                    with problems.collecting():
                        self._inspect(record)
                    advance(1)
        finally:
            # Ctrl-C loses no verdict.
            if self.found:
                self._write()
        if records:
            print(f"{len(records) / (time.perf_counter() - begin):.2f} parts a second")
        if self.found:
            _print(self._ranked(), self._told())

    def is_fresh(self, record: Record) -> bool:
        """True for a part without a verdict whose files are there and others than when they were last read."""
        try:
            return record.id not in self.found and _state(record) != self.tried.get(record.id)
        except InputError:
            return False

    def _inspect(self, record: Record) -> None:
        self.tried[record.id] = _state(record)
        ready = verdicts.prepare(self.model, record)
        ((one, values),) = verdicts.judge(self.model, self.limit, [record.id], [ready])
        shown = Shown(ready.part.rgb, ready.prepared.values[1], values)
        _write_part(self.output, one, shown, self.limit)
        self.images[record.id] = coco.Image(_files(record).rgb.name, values.shape)
        self.found[record.id], self.notes[record] = (one, shown), ready.prepared.note
        # The page shows the highest scores alone.
        pictured = sorted((one for one, picture in self.found.values() if picture), key=lambda one: -one.score)
        self.found.update({one.part: (one, None) for one in pictured[inspection.PICTURES :]})

    def _ranked(self) -> list[tuple[Verdict, Shown | None]]:
        return sorted(self.found.values(), key=lambda of: -of[0].score)

    def _told(self) -> list[str]:
        return inputs.summarise(list(self.notes), list(self.notes.values()))

    def _write(self) -> None:
        columns = ["part", "verdict", "score", "p_value", "regions", "row", "column", "pixels", "area_mm2", "height_mm"]
        rows: list[list[object]] = [list(columns)]
        ranked = self._ranked()
        for one, _ in ranked:
            first = one.regions[0] if one.regions else None
            place = [None] * 5 if first is None else [getattr(first, name) for name in columns[5:]]
            rows.append([one.part, one.verdict, one.score, one.p_value, len(one.regions), *place])
        atomic.write_csv(self.output / "results.csv", rows)
        parts = [{**one._asdict(), "regions": [region._asdict() for region in one.regions]} for one, _ in ranked]
        told = {"model": FLAGS.model, "threshold": self.limit.score.as_json(), "parts": parts}
        storage.write_json(self.output / "results.json", told)
        boxes = coco.content([one for one, _ in ranked], [self.images[one.part] for one, _ in ranked])
        storage.write_json(self.output / "coco.json", boxes)
        name = pathlib.Path(FLAGS.model).name
        inspection.write_page(self.output / "report.html", name, ranked, self.limit, self._told())


def _write_part(output: pathlib.Path, one: Verdict, shown: Shown, limit: Limits) -> None:
    with atomic.replacing(output / "maps" / f"{one.part}.tiff") as file:
        tifffile.imwrite(file, shown.values)
    with atomic.replacing(output / "overlays" / f"{one.part}.png") as file:
        PIL.Image.fromarray(inspection.overlay(shown.rgb, shown.values, limit)).save(file, "png")


def _run() -> int:
    dataset_flags.refuse("data_dir", because="parts are those of --parts")
    compiled.keep(cache.cache_directory() / "xla")
    parts, model = pathlib.Path(FLAGS.parts), bundle.read(pathlib.Path(FLAGS.model), FLAGS.encoder)
    state = _Inspection(model, verdicts.limits(model, FLAGS.false_alarms), pathlib.Path(FLAGS.output_dir))
    dataset_flags.take(model.ready.settings, "model")
    problems = Problems()
    state.look(_find(parts, problems), problems)
    while FLAGS.watch:
        for text in problems.found:
            print(f"error: {text}")
        problems = Problems()
        time.sleep(FLAGS.watch_seconds)
        # A file without its partner may still be on its way, and one that could not be read may have been.
        fresh = list(filter(state.is_fresh, _find(parts, Problems())))
        if fresh:
            state.look(fresh, problems)
    if not state.found and not problems.found:
        raise InputError(f"{parts}: no part in it; put images into rgb/ and their scans beside it")
    if state.found:
        print(f"\n{state.output / 'report.html'} shows them, {state.output / 'results.csv'} lists them.")
    problems.check()
    return 2 if any(one.verdict == "defective" for one, _ in state.found.values()) else 0


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
