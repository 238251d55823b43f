"""Where the `atom-bench` program begins: before anything that takes time is imported."""

import signal
import sys


def main() -> None:
    """Run the `atom-bench` command line; Ctrl-C while its modules are imported is one line, too."""
    try:
        from benchmarks.cli import main as run

        code = run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 128 + signal.SIGINT
    sys.exit(code)
