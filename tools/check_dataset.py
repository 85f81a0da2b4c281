"""Walks a data set, opens every file, and prints what is there, what should be, and what is wrong.

    python -m tools.check_dataset --dataset=mvtec3d --data_dir=DIR

Exits with status 1 if a file cannot be used or a split has another number of parts than its authors published.
"""

import collections
import functools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags

from pirn_jax import inputs
from pirn_jax.data import datasets, sample
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.geometry import plausibility
from tools import console, dataset_flags, workers

_WORKERS = flags.DEFINE_integer("workers", os.cpu_count() or 1, "Number of processes.", lower_bound=1)


class Facts(NamedTuple):
    """Facts of one sample.

    Attributes:
      size: width and height of its image.
      scan: width and height of its geometry.
      seen: share of its pixels where the scanner saw something.
      note: what is odd about it; empty if nothing.
    """

    size: tuple[int, int]
    scan: tuple[int, int]
    seen: float
    note: str


def examine(record: Record, native_normals: bool = False) -> Facts:
    """Opens all files of one part.

    Args:
      record: the part.
      native_normals: whether it needs normals of the data set's own.

    Raises:
      InputError: naming the file, if one cannot be used.
    """
    part = sample.load(record)
    if native_normals and part.normals is None:
        raise InputError(f"{record.source.name}: no normals of the data set's own; take --normals=exact")
    geometry = part.xyz if part.xyz is not None else part.normals
    if geometry is None:
        raise InputError(f"{record.source.name}: neither scan nor normals; add one or remove the part")
    note = "" if part.xyz is None else plausibility.scan_note(part.xyz)
    marked = sample.mask_note(None if part.gt is None else float(part.gt.mean()))
    note = "; ".join(filter(None, [note, marked]))
    height, width = part.rgb.shape[:2]
    seen = float(np.mean(np.any(geometry != 0, axis=-1)))
    return Facts((width, height), (geometry.shape[1], geometry.shape[0]), seen, note)


def split_of(record: Record) -> str:
    """The line of the table that a part counts in."""
    if record.split != "test":
        return record.split
    return "test defective" if record.defective else "test good"


def rows(
    records: Sequence[Record], facts: Sequence[Facts | None], published: Mapping[str, Mapping[str, int]]
) -> list[tuple[str, ...]]:
    """One row for each category and split: parts found, published, usable; sizes; share of points seen."""
    found = collections.defaultdict(list)
    for category, counts in published.items():
        if any(record.category == category for record in records):
            found.update({(category, split): [] for split in counts})
    for record, fact in zip(records, facts, strict=True):
        found[record.category, split_of(record)].append(fact)
    table = []
    for (category, split), some in found.items():
        usable = [fact for fact in some if fact is not None]
        should = published.get(category, {}).get(split)
        seen = [fact.seen for fact in usable]
        table.append(
            (
                category,
                split,
                str(len(some)),
                "-" if should is None else str(should),
                str(len(usable)),
                _sizes([fact.size for fact in usable]),
                _sizes([fact.scan for fact in usable]),
                f"{np.median(seen):.0%} ({min(seen):.0%}-{max(seen):.0%})" if seen else "-",
            )
        )
    return table


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    counted = collections.Counter(sizes).most_common()
    shown = [f"{width}x{height}" for (width, height), _ in counted[:2]]
    return ", ".join(shown + [f"{len(counted) - 2} more"] * (len(counted) > 2)) or "-"


def _print_table(table: Sequence[tuple[str, ...]]) -> None:
    heading = ("category", "split", "parts", "published", "usable", "image", "scan", "points seen")
    widths = [max(len(row[i]) for row in (heading, *table)) for i in range(len(heading))]
    for row in (heading, *table):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _run() -> int:
    problems = Problems()
    splits = dataset_flags.find(problems)
    records = dataset_flags.every(splits)
    work = functools.partial(examine, native_normals=dataset_flags.options().native_normals)
    facts = workers.over_parts(work, records, _WORKERS.value, "opening files", problems)
    known = datasets.find(dataset_flags.FLAGS.dataset)
    published = known.published
    table = rows(records, facts, published)
    _print_table(table)
    # Real-IAD D3 comes in two spellings.
    missing = [name for name in published if not {name, name.replace("-", "_")} & set(splits)]
    if missing and not dataset_flags.FLAGS.categories:
        print(f"\nnot there: {', '.join(missing)}")
    for kind, count in known.totals.items():
        found = sum(record.defective == (kind == "defective") for record in records)
        print(f"{kind} in all: {found}, published {count}")
    for title, sentences in (
        ("note", inputs.summarise(records, [fact.note if fact else "" for fact in facts])),
        ("problem", problems.found),
    ):
        if sentences:
            print("", *(f"{title}: {sentence}" for sentence in sentences), sep="\n")
    odd = [row for row in table if row[3] not in ("-", row[2])]
    compared = f", counts that differ from the published ones: {len(odd)}" if published else ""
    print(f"\nparts: {len(records)}, problems: {len(problems.found)}{compared}")
    return 1 if problems.found or odd else 0


def main(arguments: list[str]) -> None:
    """Checks the data set; exits with status 1 if something is wrong with it."""
    console.run(_run, arguments, places="PIRN_CACHE")


if __name__ == "__main__":
    console.define_help("tools.dataset_flags")
    app.run(main)
