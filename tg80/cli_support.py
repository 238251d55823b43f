"""What both command-line programs share: how errors reach the user, and exit codes."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, TextIO

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
        with _named_output():
            result = command.main(args=arguments, prog_name=prog, standalone_mode=False)
        return int(result) if isinstance(result, int) else 0
    except BrokenPipeError:
        # `| head` closed the pipe: not a failure, which 1 would say.
        return 128 + signal.SIGPIPE
    except Exception as error:
        if debug:
            raise
        return _report(error, prog)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except SystemExit as exit_:
        # Typer's way to end when the pipe is closed.
        if isinstance(exit_.__context__, BrokenPipeError):
            return 128 + signal.SIGPIPE
        raise


class _Output:
    """Standard output whose failures say that it is it; the system's errors name no file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._attempt(self._stream.write, text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            self._drop()
            if isinstance(error, BrokenPipeError):
                raise
            reason = error.strerror or error
            raise Tg80Error(f"standard output: cannot be written: {reason}") from None

    def _drop(self) -> None:
        """Let what is still to be written go nowhere: Python would fail on it once more."""
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())


@contextmanager
def _named_output() -> Iterator[None]:
    """Within, and for all that is printed within, standard output is an `_Output`."""
    stream = sys.stdout
    if stream is None:  # closed by whoever called
        yield
        return
    output: Any = _Output(stream)
    sys.stdout = output
    try:
        yield
        output.flush()
    finally:
        sys.stdout = stream


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
