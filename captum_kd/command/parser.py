"""The command line: options, help and exit codes."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, NoReturn, Optional, Sequence

from captum_kd._utils.text import one_line
from captum_kd.command.errors import CommandError
from captum_kd.command.layers import AUTO, parse_layer
from captum_kd.command.specs import parse_spec

__all__ = ["DONE", "FAILED", "INTERRUPTED", "USAGE", "main"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
PROGRAM = "captum-kd"

ABOUT = """\
Explains and measures what trained Students learned from their Teacher, from checkpoints alone.

  compare  a report: scores, maps, page, tables and figures
  maps     maps alone: a page, a picture and a file of tensors
  layers   the layers of a model, and the one to name
  report   the page, tables and figures of a saved report, made again

Models are named by specifications:

  torchvision:resnet18@kd.pt          an architecture of torchvision with a file of weights
  torchvision:resnet34                with torchvision's own weights; @IMAGENET1K_V1 names them
  timm:deit_tiny_patch16_224@kd.pth   an architecture of timm; without @ with timm's weights
  hf:path/to/folder                   a folder that save_pretrained wrote, or a name on Hugging Face
  models.py:make_student@kd.pt        a function of your own that returns a model; the file is run
  ...@kd.ckpt#student                 one of several networks in a file
  ...@random                          untrained
"""
EXITS = """
exit codes: 0 done, 1 models or data do not fit, 2 wrong usage, 130 stopped by Ctrl-C
"""
EXAMPLES = {
    "compare": """\
examples:
  captum-kd compare --student torchvision:resnet18@kd.pt --base torchvision:resnet18@plain.pt \\
      --teacher torchvision:resnet34@teacher.pt --data photos --split test --output out

  Several seeds allow tests (five and five decide; at one layer, three and three):
  captum-kd compare --student kd1=torchvision:resnet18@kd1.pt --student kd2=torchvision:resnet18@kd2.pt \\
      --base b1=torchvision:resnet18@b1.pt --base b2=torchvision:resnet18@b2.pt --data photos --output out

  Architectures differ: layers by model's name or role
  captum-kd compare --student timm:deit_tiny_distilled_patch16_224 --base timm:deit_tiny_patch16_224 \\
      --teacher timm:regnety_160.deit_in1k --layers last=blocks.10,teacher:s4 --data imagenet/val --output out

  Texts: a table with the columns label and text
  captum-kd compare --student hf:student --base hf:base --teacher hf:teacher --data test.tsv --output out
""",
    "maps": """\
examples:
  captum-kd maps --student torchvision:resnet18@kd.pt --base torchvision:resnet18@plain.pt --data photos --maps 12 --output out
""",
    "layers": """\
examples:
  captum-kd layers torchvision:resnet18@random
  captum-kd layers hf:student --text
  captum-kd layers models.py:make_student --image-size 32 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --depth 3
""",
    "report": """\
examples:
  captum-kd report out --output again
""",
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the command; returns its exit code.

    Raises:
        SystemExit: wrong usage (2), or ``--help`` and ``--version`` (0).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may hold what a terminal cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _command(options.command)(options)
        return DONE
    except KeyboardInterrupt:
        return _say("stopped. --output may lack files; give the same command again, with --overwrite.", INTERRUPTED)
    except CommandError as error:
        return _say(f"error: {error}", FAILED)
    except (ValueError, TypeError, OSError) as error:  # of the package itself, which say how to mend them
        return _say(f"error: {error}", FAILED)
    except (MemoryError, RuntimeError) as error:
        if "out of memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        return _say("error: the memory does not suffice. Lower --batch-size, --limit or --maps, or use --device cpu.", FAILED)


def _say(text: str, code: int) -> int:
    print(f"{PROGRAM}: {one_line(text)}", file=sys.stderr)
    return code


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    """A warning in one line; the report repeats those about numbers."""
    if not issubclass(category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning)):
        print(f"warning: {one_line(str(message))}", file=sys.stderr)


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """Imports what a command needs when it runs, so that --help answers at once."""
    if name == "layers":
        from captum_kd.command.layer_list import list_layers

        return list_layers
    from captum_kd.command.compare import compare, maps_only, report_again

    return {"compare": compare, "maps": maps_only, "report": report_again}[name]


def _parser() -> argparse.ArgumentParser:
    parser = _new(argparse.ArgumentParser, prog=PROGRAM, description=ABOUT, epilog=EXITS)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = {
        "compare": "scores, maps, page, tables and figures",
        "maps": "maps alone: a page, a picture and a file of tensors",
        "layers": "the layers of a model, and the one to name",
        "report": "page, tables and figures of a saved report",
    }
    made = {
        name: _new(
            commands.add_parser, name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=EXAMPLES[name] + EXITS
        )
        for name, text in words.items()
    }
    for name in ("compare", "maps"):
        _add_models(made[name])
        _add_data(made[name])
    _add_preprocessing(made["layers"])
    _add_scores(made["compare"])
    made["maps"].set_defaults(placebo=None)
    made["maps"].add_argument("--no-predictions", dest="predictions", action="store_false", help=NO_PREDICTIONS)
    made["layers"].add_argument("model", type=_typed(parse_spec), metavar="SPEC", help=f"the model ({PROGRAM} --help)")
    made["layers"].add_argument("--text", action="store_true", help="the model takes texts")
    made["layers"].add_argument("--depth", type=_count(1), default=2, help="dots in the longest names, and one; default: 2")
    made["report"].add_argument("report", type=Path, metavar="REPORT", help="report.json, or its folder")
    made["report"].add_argument("--output", type=Path, metavar="FOLDER", help="default: the report's own folder")
    made["report"].add_argument("--overwrite", action="store_true", help="replace files in --output")
    return parser


NO_PREDICTIONS = "do not compare predictions; needed where the models' outputs are not the data's classes"


def _add_models(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models", f"specifications: {PROGRAM} --help")
    spec: dict[str, Any] = {"type": _typed(parse_spec), "metavar": "[NAME=]SPEC"}
    group.add_argument("--student", action="append", required=True, **spec, help="a Student; repeat for several")
    group.add_argument("--base", action="append", required=True, **spec, help="a Base: trained without the Teacher; repeatable")
    group.add_argument("--teacher", action=_Once, **spec, help="the Teacher")
    group.add_argument(
        "--layers", nargs="+", type=_typed(parse_layer), default=[parse_layer(AUTO)], metavar="LAYER",
        help="names that all models have; LABEL=LAYER,MODEL:LAYER where they differ; or auto, the last stage or block (default)",
    )  # fmt: skip
    _add_preprocessing(parser)


def _add_preprocessing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "preprocessing", "default: as the model's library says. With MODEL= (a name or role) for one model; repeat for several"
    )
    numbers = _typed(_named(_numbers))
    group.add_argument("--image-size", action="append", default=[], type=_typed(_named(_side)), metavar="[MODEL=]N",
                       help="pixels of a side")  # fmt: skip
    group.add_argument("--resize", action="append", default=[], type=_typed(_named(_side)), metavar="[MODEL=]N",
                       help="the shorter side before the middle is cut out; --image-size's number cuts no margin off; "
                       "default: in the library's proportion, such as 256 for 224")  # fmt: skip
    for name in ("--mean", "--std"):
        group.add_argument(name, action="append", default=[], type=numbers, metavar="[MODEL=]R,G,B", help="of pixels from 0 to 1")


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data and output")
    group.add_argument("--data", type=Path, required=True, metavar="PATH",
                       help="a folder of class folders of images; or a .tsv with the columns label and text")  # fmt: skip
    group.add_argument("--split", metavar="NAME", help="the part of --data that was not trained on, such as test")
    group.add_argument("--classes", type=Path, metavar="FILE", help="names of the models' outputs in order, one a line")
    group.add_argument("--limit", type=_limit, default=1000, metavar="N",
                       help="the most inputs, balanced over classes, or all; default: 1000")  # fmt: skip
    group.add_argument("--maps", type=_count(0), default=24, metavar="N", help="inputs with maps; default: 24")
    group.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="a new or empty folder")
    group.add_argument("--overwrite", action="store_true", help="replace files in --output")
    group.add_argument("--batch-size", type=_count(1), default=64, metavar="N", help="default: 64")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, ...; default: a GPU if there is one")
    group.add_argument("--seed", type=_count(0), default=0, metavar="N", help="of inputs' choice and permutations; default: 0")
    group.add_argument("--no-progress", action="store_true", help="no progress bars")


def _add_scores(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scores")
    group.add_argument("--placebo", action="append", type=_typed(parse_spec), metavar="[NAME=]SPEC",
                       help="a network of the Teacher's recipe that taught nobody; four allow a test")  # fmt: skip
    group.add_argument("--confidence", type=_share, default=0.95, metavar="P", help="of intervals; default: 0.95")
    group.add_argument("--no-predictions", dest="predictions", action="store_false", help=NO_PREDICTIONS)


class _Once(argparse.Action):
    """An option that may be given once, as a list of one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        if getattr(namespace, self.dest):
            parser.error(f"{option} may be given once; pass a second Teacher as one more --student")
        if values.name not in (None, self.dest):
            parser.error(f"{option} takes no name, got {values.name!r}; it is called {self.dest}")
        setattr(namespace, self.dest, [values])


def _new(make: Callable[..., argparse.ArgumentParser], *args: Any, **settings: Any) -> argparse.ArgumentParser:
    return make(*args, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)


def _typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of an option whose errors keep their words."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def _named(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """``[MODEL=]VALUE`` as (model or None, value)."""

    def named(text: str) -> Any:
        model, _, value = text.rpartition("=")
        return model or None, read(value)

    return named


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no list of numbers; expected 0.485,0.456,0.406 or, for gray images, 0.5") from None
    if len(found) not in (1, 3):
        raise ValueError(f"{text!r} has {len(found)} numbers; expected three, or one for gray images")
    return found


def _side(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ValueError(f"{text!r} is no number of pixels; expected 224 or such")
    return int(text)


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return count


def _limit(text: str) -> Optional[int]:
    return None if text == "all" else _count(1)(text)


def _share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1; expected 0.95 or such")
    return found


def _version() -> str:
    import captum_kd

    return f"{PROGRAM} {captum_kd.__version__}"


def run() -> NoReturn:
    """The console script."""
    sys.exit(main())
