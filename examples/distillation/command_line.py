"""The command line that the example scripts share: options in, an experiment out, errors in words."""

from __future__ import annotations

import argparse
import io
import sys
from typing import Callable, Optional

from distillation.cautions import failures
from distillation.checkpoints import FOLDER, CheckpointError
from distillation.experiment import run
from distillation.networks import WeightsError
from distillation.plan import Plan, PlanError
from distillation.profiles import profile, profiles_of
from distillation.outcomes import Record
from distillation.run_folder import RunFolderError, claimed, is_begun
from distillation.settings import Settings, add_options, settings_from
from distillation.task import DataError, Task
from distillation.text import printable
from distillation.training import TrainingError

__all__ = ["FAILED", "INTERRUPTED", "exit_status", "parser_of", "run_example"]

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C stopped."""

FAILED = 3
"""Exit status of a run that ended with networks that did not learn, or with a Teacher worse than the Bases."""

EPILOG = f"""\
exit status:
  0    finished
  2    refused or broken off: the last line says why and what to do; also if a loss is not finite in the end
  {FAILED}    finished, but a training failed: networks at chance, or a Teacher worse than the Bases
  {INTERRUPTED}  stopped by Ctrl-C
"""


def parser_of(
    example: str, documentation: Optional[str], *, without: tuple[str, ...] = (), unit: str = "images"
) -> argparse.ArgumentParser:
    """A parser with the options that all examples have; its help begins with the script's own words."""
    parser = argparse.ArgumentParser(
        description=(documentation or "").strip(), epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    profiles = profiles_of(example)
    if len(profiles) > 1:
        parser.add_argument("--profile", choices=profiles, default="quick", help="settings to start from; default: %(default)s")
    add_options(parser, profile(example, "quick"), without=without, unit=unit)
    return parser


def run_example(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    defaults: Settings,
    make: Callable[[Settings], tuple[Task, Plan]],
) -> Optional[Record]:
    """Runs an experiment from the command line. What the user can mend ends in one line and status 2; Ctrl-C in a
    line that says how to go on, and status 130."""
    settings = settings_from(arguments, defaults)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files and classes may hold what cannot be encoded; standard error escapes it anyway.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(f"Everything is written into {printable(str(settings.output))}.", flush=True)
        with claimed(settings, arguments.resume, arguments.overwrite):
            task, plan = make(settings)
            return run(task, plan, settings, progress=not arguments.no_progress, resume=arguments.resume)
    except (DataError, PlanError, WeightsError, RunFolderError, CheckpointError, TrainingError) as error:
        reason = str(error)
    except OSError as error:
        kept = " What is trained is kept: go on with the same command and --resume." if is_begun(settings) else ""
        reason = f"A file could not be read or written ({error}); --output is {settings.output}.{kept}"
    except MemoryError as error:
        reason = f"The memory does not suffice ({error}). Ask for fewer or smaller examples, or fewer networks."
    except KeyboardInterrupt:
        way_on = "Nothing was trained yet: give the same command again."
        if is_begun(settings):
            kept = printable(str(settings.output / FOLDER))
            way_on = f"What is trained is in {kept}; the same command with --resume goes on from there."
        parser.exit(INTERRUPTED, f"\n{parser.prog}: stopped. {way_on}\n")
    parser.exit(2, f"{parser.prog}: error: {printable(reason)}\n")


def exit_status(record: Optional[Record]) -> int:
    """0, or ``FAILED`` if a training failed; of None, which processes that do not report return, 0."""
    return FAILED if record is not None and failures(record) else 0
