"""`kubectl tunesmith`: a plugin of kubectl, found by the name of its program on PATH.

https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/
"""

import sys

INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C ended."""


def main() -> None:
    """Run the plugin. Ctrl-C is answered from the first moment on."""
    try:
        from tunesmith.cli.kubectl.commands import app  # noqa: PLC0415 - importing takes a second

        app(prog_name="kubectl tunesmith")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
