"""What both command-line programs share: how errors reach the user, and exit codes."""

import signal
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from tg80.errors import Tg80Error

console = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def run_app(app: typer.Typer, argv: list[str] | None, prog: str) -> int:
    """Runs a typer app and returns its exit code.

    A user's mistake prints one line and gives 2, a failure that has a name one line and 1, Ctrl-C
    130, a reader that closed the pipe 141. Only `--debug` shows tracebacks.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name=prog, standalone_mode=False)
        return int(result) if isinstance(result, int) else 0
    except Exception as error:
        if debug:
            raise
        return _report(error, prog)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except SystemExit as exit_:
        # `| head` closed the pipe: not a failure, which 1 would say.
        if isinstance(exit_.__context__, BrokenPipeError):
            return 128 + signal.SIGPIPE
        raise


def _report(error: Any, prog: str) -> int:
    # Typer carries its own copy of click in newer releases, so its errors are told by their
    # attributes and not by their class.
    if hasattr(error, "format_message"):
        hint = getattr(getattr(error, "ctx", None), "command_path", prog)
        _print_error(f"{error.format_message()} (see `{hint} --help`)")
        return 2
    if type(error).__name__ == "Abort":
        print("stopped", file=sys.stderr)
        return 130
    if type(error).__name__ == "Exit":
        return int(getattr(error, "exit_code", 1))
    if isinstance(error, Tg80Error):
        _print_error(str(error))
        return error.exit_code
    if isinstance(error, OSError):
        _print_error(f"{error.filename or 'operating system'}: {error.strerror or error}")
        return 1
    detail = str(error).splitlines()[0] if str(error) else ""
    _print_error(f"{type(error).__name__}: {detail} (this is a bug; --debug shows where)")
    return 1


def _print_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
