"""The command ``neurosym``: its sub-commands, and how each way of ending becomes an exit status.

Exit status: 0 done; 1 a check failed; 2 bad usage or bad input; 3 a bug; 130 interrupted.
Nothing imported here imports torch or numpy, so that ``neurosym --help`` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from neurosym.cli.certify import CERTIFY_EXAMPLES, certify
from neurosym.cli.compile import COMPILE_EXAMPLES, compile_rules
from neurosym.cli.console import fail
from neurosym.cli.data import data_app
from neurosym.cli.predict import PREDICT_EXAMPLES, predict
from neurosym.cli.train import TRAIN_EXAMPLES, train
from neurosym.cli.verify import VERIFY_EXAMPLES, verify
from neurosym.errors import InputError

DONE, REFUSED, BAD_INPUT, BUG, INTERRUPTED = 0, 1, 2, 3, 130

EXAMPLES = """\b
Examples:
  neurosym certify --demo --out out/demo     a first certificate, offline
  neurosym verify out/demo/certificate.json  check it
  neurosym COMMAND --help                    more examples

\b
Exit status: 0 done, 1 a check failed, 2 bad usage or input, 3 a bug,
130 interrupted.
"""

# Usage errors of the framework; the class itself has moved between versions of typer, its place in the tree has not.
_USAGE_ERRORS: tuple[type[Exception], ...] = tuple(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException" and issubclass(base, Exception)
)

app = typer.Typer(
    name="neurosym",
    rich_markup_mode=None,  # plain help is five times faster, and keeps the examples as they are written
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from neurosym import __version__

        print(f"neurosym {__version__}")
        raise typer.Exit(DONE)


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Rules and a trained network go in; prediction sets that obey the rules, with a coverage guarantee that holds
    under attack, come out, as a certificate that anyone can re-check."""
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command("certify", epilog=CERTIFY_EXAMPLES)(certify)
app.command("predict", epilog=PREDICT_EXAMPLES)(predict)
app.command("verify", epilog=VERIFY_EXAMPLES)(verify)
app.command("train", epilog=TRAIN_EXAMPLES)(train)
app.command("compile", epilog=COMPILE_EXAMPLES)(compile_rules)
app.add_typer(data_app, name="data")


def _usage_error(error: Exception) -> int:
    """At most two lines: what is wrong, and where the help is."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    fail(message)
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "neurosym")
    print(f"help: {path} --help", file=sys.stderr)
    return BAD_INPUT


def _interrupted(arguments: Sequence[str]) -> int:
    resumable = next((word for word in arguments if not word.startswith("-")), "") == "certify"
    mend = "continue with --resume" if resumable else "nothing was written"
    print(f"interrupted; {mend}", file=sys.stderr)
    return INTERRUPTED


def _os_error(error: OSError) -> int:
    place = f"{error.filename}: " if error.filename else ""
    fail(f"{place}{error.strerror or error}; check that the path exists, may be used, and has room")
    return BAD_INPUT


def _bug(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
        return BUG
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    fail(f"{text}; this is a bug; run again with --debug")
    return BUG


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status and lets no exception through."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments  # wherever it stands, so that it can be added at the end of a line
    arguments = [word for word in arguments if word != "--debug"]
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="neurosym", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(arguments)
    except SystemExit as error:  # Lightning turns Ctrl-C into this, typer a closed pipe
        if isinstance(error.__context__, KeyboardInterrupt):
            return _interrupted(arguments)
        return error.code if isinstance(error.code, int) else BUG
    except InputError as error:
        if debug:
            traceback.print_exception(error)
        fail(error)
        return BAD_INPUT
    except _USAGE_ERRORS as error:
        return _usage_error(error)
    except OSError as error:
        return _bug(error, debug) if debug else _os_error(error)
    except MemoryError as error:
        return _bug(error, debug) if debug else _out_of_memory()
    except Exception as error:
        return _bug(error, debug)
    if result == INTERRUPTED:  # newer versions of typer turn Ctrl-C into this status
        return _interrupted(arguments)
    return result if isinstance(result, int) else DONE


def _out_of_memory() -> int:
    fail("out of memory; use fewer images, trials or workers")
    return BAD_INPUT
