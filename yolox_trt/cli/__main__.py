# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""The program `yolox_trt`, also as `python -m yolox_trt.cli`.

It imports nothing before Ctrl-C has been made to end the imports without a traceback.
"""

import signal
import sys


def main() -> int:
    """Run the command line; return the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from yolox_trt.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
