"""Where the `tg80` program begins: before anything that takes time is imported."""

import signal
import sys


def main() -> None:
    """Run the `tg80` command line; Ctrl-C while its modules are imported is one line, too."""
    try:
        from pipelines.cli import run

        code = run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 128 + signal.SIGINT
    sys.exit(code)
