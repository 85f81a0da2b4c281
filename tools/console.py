"""Progress of a command, its help, and one sentence instead of a traceback if something is wrong."""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
from absl import app, flags, logging
from tqdm import tqdm

from pirn_jax.data.problems import InputError

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what `kill`, job schedulers and containers send before they kill for good."""

_interrupted = threading.Event()
"""One of them came: where it falls into a library's callback, its exception may be swallowed."""


class _Interrupt(KeyboardInterrupt):
    """A signal ends the command; the exit status tells which one, as shells have it."""

    def __init__(self, number: int):
        self.status = 128 + number


@contextlib.contextmanager
def _remembering_interrupts() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> NoReturn:
        del frame
        _interrupted.set()
        raise _Interrupt(number)

    before = {number: signal.signal(number, interrupt) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _interrupted.clear()


class _Help(flags.BooleanFlag):
    """`--help` with the flags of further modules, each under its own heading."""

    def __init__(self, modules: Sequence[str], text: str | None):
        super().__init__("help", False, "show this help", short_name="?", allow_override=True)
        self._modules, self._text = modules, text

    def parse(self, argument: str | bool) -> None:
        """Prints the help and ends the process."""
        if self._parse(argument):
            texts = [flags.FLAGS.main_module_help(), *map(flags.FLAGS.module_help, self._modules)]
            print(self._text or sys.modules["__main__"].__doc__, *filter(str.strip, texts), sep="\n")
            sys.exit(0)


def define_help(*modules: str, text: str | None = None) -> None:
    """Makes `--help` show the flags of these modules, too; absl shows those of the command's own file alone.

    Args:
      *modules: names of modules.
      text: what stands before the flags, by default the words at the head of the command's file.
    """
    app.define_help_flags()
    flags.DEFINE_flag(_Help(modules, text))


@contextlib.contextmanager
def stage(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows one stage of work on standard error.

    Args:
      title: what is being done.
      total: steps it takes.

    Yields:
      `advance(count, loss, text)`: tells that `count` more steps are done, with the current loss if there is one, and
        what else is to be said. Ends the command if Ctrl-C was pressed or SIGTERM came.
    """
    begin, said = time.perf_counter(), ""
    watched = sys.stderr.isatty()
    with tqdm(total=total, desc=title, disable=not watched, leave=False, dynamic_ncols=True) as bar:

        def advance(count: int, loss: float | None = None, text: str = "") -> None:
            nonlocal said
            if _interrupted.is_set():
                raise KeyboardInterrupt
            said = f", {text}" if text else ""
            if loss is not None:
                bar.set_postfix_str(f"loss {loss:.4f}{said}", refresh=False)
            bar.update(count)

        yield advance
    print(f"{title}: {time.perf_counter() - begin:.1f} s{said}", file=sys.stderr)


def run(
    command: Callable[[], int | None],
    arguments: Sequence[str],
    *,
    places: str,
    interrupted: str = "interrupted",
    refusals: tuple[type[Exception], ...] = (InputError,),
) -> NoReturn:
    """Runs a command that takes flags only, and ends the process.

    Args:
      command: does the work and returns the exit status, None for 0.
      arguments: of the command line, its name first.
      places: what to check if the system refuses to read or write, such as "--output_dir".
      interrupted: what to say after Ctrl-C, which exits with status 130, or SIGTERM, with 143.
      refusals: exceptions whose message is the sentence for the user, with status 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files may hold what the terminal's encoding does not.
            stream.reconfigure(errors="backslashreplace")
    if not flags.FLAGS["verbosity"].present:
        # At the default level libraries tell of every step of a checkpoint and of every data set that they open.
        logging.set_verbosity(logging.WARNING)
    try:
        if len(arguments) > 1:
            raise InputError(f"{arguments[1]!r} is no flag; see --help")
        with _remembering_interrupts():
            sys.exit(command())
    except refusals as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or error}; check the disk and {places}")
    except KeyboardInterrupt as error:
        print(f"\n{interrupted}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, _Interrupt) else 128 + signal.SIGINT)
    except (RuntimeError, AssertionError):
        platforms = os.environ.get("JAX_PLATFORMS")
        if not platforms or _has_devices():
            raise
        sys.exit(
            f"error: JAX_PLATFORMS={platforms}: no such device here, or its JAX plugin is not installed (extras cuda12 "
            "and cuda13); unset it, or set it to cpu"
        )


def _has_devices() -> bool:
    """False if JAX finds no device; for some names that it does not know it has an assertion only."""
    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False
