"""What both command-line programs share: errors, exit codes and tables."""

import io
import os
import signal
import string
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

import rich.table
import typer

from tg80.errors import Tg80Error, UserError, missing_package
from tg80.untrusted.documents import print_json
from tg80.untrusted.limits import MOST_COUNT, MOST_SEED, MOST_SIZE, is_meant, meant_range
from tg80.untrusted.tables import (
    Console,
    PrintableStream,
    csv_table,
    markdown_table,
    markdown_text,
    printable,
)

console = Console(stderr=True)  # names may hold brackets

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@dataclass(frozen=True)
class Table:
    """One table of a report; the first column names the row, notes stand below."""

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        title: str,
        columns: Mapping[str, str],
        rows: Iterable[Any],
        notes: Sequence[str] = (),
    ) -> "Table":
        """A table of objects, one a row.

        Args:
            title: stands above.
            columns: format of the cells of each column by its heading, such as `"{rmsd:.1e} A"`
                for the attribute `rmsd`. A value that is None is left empty.
            rows: the objects. Those of a tuple are told apart by number: `"{1.rmsd:.1e} A"`.
            notes: stand below.
        """
        cells = [
            [_Attributes(row).format(template) for template in columns.values()] for row in rows
        ]
        return cls(title, tuple(columns), cells, notes)

    def markdown(self) -> str:
        """As a section of Markdown under its title."""
        notes = "".join(f"\n{markdown_text(note)}\n" for note in self.notes)
        body = markdown_table(self.heading, self.rows)
        return f"### {markdown_text(self.title)}\n\n{body}\n{notes}"

    def csv(self) -> str:
        """As CSV, without its title."""
        return csv_table(self.heading, self.rows)

    def records(self) -> list[dict[str, str]]:
        """A dictionary for each row, for `--json`."""
        return [dict(zip(self.heading, row, strict=True)) for row in self.rows]

    def print(self, console: Console) -> None:
        """On a terminal."""
        caption = "\n".join(self.notes) or None
        table = rich.table.Table(
            title=self.title, title_justify="left", caption=caption, caption_justify="left"
        )
        for i, head in enumerate(self.heading):
            table.add_column(head, justify="left" if i == 0 else "right", no_wrap=i == 0)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


class _Attributes(string.Formatter):
    """Formats with the attributes of an object; None is empty."""

    def __init__(self, row: Any):
        self._row = row

    def get_value(self, key: Any, args: Any, kwargs: Any) -> Any:
        return self._row[key] if isinstance(key, int) else getattr(self._row, key)

    def format_field(self, value: Any, format_spec: str) -> str:
        return "" if value is None else super().format_field(value, format_spec)


def print_tables(
    tables: Sequence[Table], *, as_markdown: bool = False, console: Console | None = None
) -> None:
    """Print tables one after another."""
    # A pipe has no width of its own, and a table squeezed to 80 columns is unreadable.
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    for table in tables:
        if as_markdown:
            print(table.markdown())
        else:
            table.print(console)


def print_report(
    document: Any, tables: Sequence[Table], *, as_json: bool, as_markdown: bool
) -> None:
    """Print a report as one JSON document, or as tables."""
    if as_json:
        print_json(document)
    else:
        print_tables(tables, as_markdown=as_markdown)


def run_app(app: typer.Typer, argv: list[str] | None, prog: str) -> int:
    """Run a typer app and return its exit code.

    A user's mistake prints one line and gives 2, a failure that has a name one line and 1, Ctrl-C
    130, SIGTERM 143, a reader that closed the pipe 141. Only `--debug` shows tracebacks.
    """
    _fill_closed_streams()
    with _safe_imports(), _interrupts() as came:
        code = _run(app, argv, prog, came)
    return 128 + came[0] if came and code == 128 + signal.SIGINT else code


def _run(app: typer.Typer, argv: list[str] | None, prog: str, came: list[int]) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    command = typer.main.get_command(app)
    try:
        with _named_output(), warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # not ours, and no line that says what to do
            _bound_numbers(command)
            return _invoke(command, arguments, prog)
    except BrokenPipeError:
        # `| head` closed the pipe: not a failure, which 1 would say.
        return 128 + signal.SIGPIPE
    except Exception as error:
        # A library whose import is interrupted may say that it can't be imported.
        if came and isinstance(error, ImportError | SystemError):
            return _stopped()
        if debug:
            raise
        return _report(error, prog)
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as exit_:
        # Typer's way to end when the pipe is closed.
        if isinstance(exit_.__context__, BrokenPipeError):
            return 128 + signal.SIGPIPE
        raise


def _stopped() -> int:
    print("stopped", file=sys.stderr)
    return 128 + signal.SIGINT


def _invoke(command: Any, arguments: list[str], prog: str) -> int:
    """Run a command; its own `main` would turn Ctrl-C and SIGTERM into exit code 130, unsaid."""
    try:
        with command.make_context(prog, arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


@contextmanager
def _safe_imports() -> Iterator[None]:
    """Within, processes that are started, workers too, import nothing from the current folder."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Within, SIGTERM ends what runs as Ctrl-C does; the list says which of them came."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def stop(number: int, _frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    # A Ctrl-C that the caller ignores, or hears itself, stays so.
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fill_closed_streams() -> None:
    """Let streams that the caller closed be empty, and print what the terminal has no letter for.

    A file that is opened would take a closed stream's number, and be printed into.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _bound_numbers(command: Any) -> None:
    """Let every number of every command be finite and of a size that can be meant."""
    for inner in getattr(command, "commands", {}).values():
        _bound_numbers(inner)
    for parameter in getattr(command, "params", []):
        if not getattr(parameter, "is_flag", False):
            parameter.callback = _bounded(parameter, parameter.callback)


def _bounded(parameter: Any, before: Callable[..., Any] | None) -> Callable[..., Any]:
    limit = getattr(parameter, "max", None)
    if limit is None:  # older releases of typer
        limit = getattr(getattr(parameter, "type", None), "max", None)

    def check(context: Any, param: Any, value: Any) -> Any:
        if isinstance(value, int | float):
            most = MOST_COUNT if isinstance(value, int) else MOST_SIZE
            if not is_meant(value, most if limit is None else MOST_SEED):
                shown = one_line(str(value)[:40])
                raise UserError(f"{parameter.opts[0]} {shown}: {meant_range(most)}")
        return before(context, param, value) if before else value

    return check


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
    """Within, standard output is an `_Output`, and all that is printed is printable."""
    stream, errors = sys.stdout, sys.stderr
    if stream is None or errors is None:  # closed by whoever called
        yield
        return
    output: Any = _Output(stream)
    shown: Any = PrintableStream(output, output)
    shown_errors: Any = PrintableStream(errors)
    sys.stdout, sys.stderr = shown, shown_errors
    try:
        yield
        output.flush()
    finally:
        sys.stdout, sys.stderr = stream, errors


def _report(error: Any, prog: str) -> int:
    # Typer carries its own copy of click in newer releases, so its errors are told by their
    # attributes and not by their class.
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        print(error.format_message(), file=sys.stderr)
        return 2
    if hasattr(error, "format_message"):
        hint = getattr(getattr(error, "ctx", None), "command_path", prog)
        print_error(f"{error.format_message()} (see `{hint} --help`)")
        return 2
    if type(error).__name__ == "Abort":
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    if type(error).__name__ == "Exit":
        return int(getattr(error, "exit_code", 1))
    if isinstance(error, Tg80Error):
        for finding in error.args:
            print_error(str(finding))
        return error.exit_code
    if isinstance(error, ModuleNotFoundError):
        print_error(missing_package(error))
        return 2
    if isinstance(error, OSError):
        print_error(f"{error.filename or 'operating system'}: {error.strerror or error}")
        return 1
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        print_error("out of memory; free some, or ask for less")
        return 1
    if isinstance(error, RecursionError):
        print_error("an input is nested too deeply")
        return 2
    detail = str(error).splitlines()[0] if str(error) else ""
    print_error(f"{type(error).__name__}: {detail} (this is a bug; --debug shows where)")
    return 1


# What torch, threads and the loader of libraries say for want of memory; they have no class for it.
_NO_MEMORY = ("allocate memory", "can't start new thread", "failed to map segment")


def print_error(message: str) -> None:
    """Print one line on standard error that begins with "error: "."""
    with suppress(OSError):  # nobody reads it
        print(f"error: {one_line(message)}", file=sys.stderr)


def one_line(message: str) -> str:
    """A message with its control characters shown as escapes, cut if it has no end."""
    shown = printable(message)
    return shown if len(shown) <= _LONGEST_MESSAGE else f"{shown[:_LONGEST_MESSAGE]} ..."


_LONGEST_MESSAGE = 1000
