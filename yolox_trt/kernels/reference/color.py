# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
"""Colour conversion of full-resolution pixels, before any resize."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# BT.601 limited range in 20-bit fixed point: round(2**20 * coefficient) of
# R = 1.164 (Y - 16) + 1.596 V', G = 1.164 (Y - 16) - 0.391 U' - 0.813 V', B = 1.164 (Y - 16) +
# 2.018 U'. The same integers as OpenCV's COLOR_YUV2BGR_* (imgproc, color_yuv: ITUR_BT_601_*),
# with which the result is equal for all 2**24 triples.
YUV_SHIFT = 20
YUV_Y = 1220542
YUV_U_TO_B = 2116026
YUV_U_TO_G = -409993
YUV_V_TO_G = -852492
YUV_V_TO_R = 1673527


def yuv_to_bgr(
    y: npt.NDArray[np.uint8], u: npt.NDArray[np.uint8], v: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Convert luma and chroma (BT.601, limited range) in 32-bit integers.

    With y' = max(Y - 16, 0) * YUV_Y + 2**19, u' = U - 128, v' = V - 128:

        B = saturate((y' + YUV_U_TO_B * u') >> 20)
        G = saturate((y' + YUV_U_TO_G * u' + YUV_V_TO_G * v') >> 20)
        R = saturate((y' + YUV_V_TO_R * v') >> 20)

    where >> is arithmetic and saturate clips to 0..255. No sum leaves int32.

    Args:
        y: uint8, any shape.
        u: uint8, the same shape: chroma already repeated for each pixel.
        v: uint8, the same shape.

    Returns:
        uint8 (..., 3), blue green red.
    """
    luma = np.maximum(y.astype(np.int32) - 16, 0) * YUV_Y + (1 << (YUV_SHIFT - 1))
    du = u.astype(np.int32) - 128
    dv = v.astype(np.int32) - 128
    bgr = np.stack(
        (
            luma + YUV_U_TO_B * du,
            luma + YUV_U_TO_G * du + YUV_V_TO_G * dv,
            luma + YUV_V_TO_R * dv,
        ),
        axis=-1,
    )
    return np.asarray(np.clip(bgr >> YUV_SHIFT, 0, 255), np.uint8)


def demosaic(mosaic: npt.NDArray[np.uint8], encoding: str) -> npt.NDArray[np.uint8]:
    """Interpolate a Bayer mosaic bilinearly, as OpenCV does (the outermost ring is replicated).

    Args:
        mosaic: uint8 (H, W).
        encoding: bayer_rggb8, bayer_bggr8, bayer_gbrg8 or bayer_grbg8 (named by the first row's
            first two and the second row's first two pixels).

    Returns:
        uint8 (H, W, 3), blue green red.
    """
    import cv2

    return np.asarray(cv2.cvtColor(mosaic, bayer_code(encoding)), np.uint8)


def bayer_code(encoding: str) -> int:
    """Return OpenCV's conversion code to BGR of a bayer_* encoding.

    OpenCV names a pattern by the second row's second and third pixel, ROS by the first row.
    """
    import cv2

    return {
        "bayer_rggb8": cv2.COLOR_BayerBG2BGR,
        "bayer_bggr8": cv2.COLOR_BayerRG2BGR,
        "bayer_gbrg8": cv2.COLOR_BayerGR2BGR,
        "bayer_grbg8": cv2.COLOR_BayerGB2BGR,
    }[encoding]
