"""Plans of studies as text."""

from pirn_jax.study.memory import GIB, available
from pirn_jax.study.plan import Plan


def text(plan: Plan, cells: int = 1) -> str:
    """Models, steps, bytes and minutes of a study, or of so many that share their features.

    Metrics, maps and pages are left out.
    """
    heading = f"{'shots':>6}{'models':>8}{'steps a model':>16}{'training':>12}{'scoring':>12}{'memory':>11}"
    lines = [heading, "─" * len(heading)]
    for row in plan.rows:
        steps = "-" if not row.steps[1] else " to ".join(dict.fromkeys(map(str, row.steps)))
        line = f"{row.shots:>6}{cells * row.models:>8}{steps:>16}"
        line += f"{_minutes(cells * row.train):>12}{_minutes(cells * row.score):>12}"
        lines.append(f"{line}{row.memory / GIB:>7.1f} GiB")
    total = plan.prepare + cells * (plan.seconds - plan.prepare)
    return "\n".join(
        [
            *lines,
            "",
            f"{plan.samples} samples, {_size(plan.disk)} in the cache, {_minutes(plan.prepare)} where none is "
            "there yet.",
            f"{_minutes(total)} in all on this machine as busy as now, metrics and pages left out; "
            f"{available() / GIB:.1f} GiB of memory are available.",
        ]
    )


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count > GIB else f"{count / 2**20:.1f} MiB"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
