"""The entry: ``tunesmith``, ``python -m tunesmith``. Ctrl-C is answered in words from the first moment on."""

import sys

_INTERRUPTED = 81  # ExitCode.INTERRUPTED; nothing is imported yet


def main() -> None:
    """Run the command line."""
    try:
        from tunesmith.cli.main import main as run  # noqa: PLC0415 - importing takes a second, which Ctrl-C may fall into

        run()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
