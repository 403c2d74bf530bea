# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m yolox_trt.cli`: the command `yolox_trt` where its script is not on the path."""

import sys

from yolox_trt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
