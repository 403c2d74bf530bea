# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
#
# JetPack 5.1 has Ubuntu 20.04, whose Python 3.8 is too old and which has no Humble. This image is
# Humble's (Ubuntu 22.04, Python 3.10) with JetPack's CUDA 11.4 and TensorRT 8.5 beside it; the
# driver's libraries are mounted by NVIDIA's container runtime. TensorRT's Python module is built for
# Python 3.10 from NVIDIA's sources.
#   docker build -f docker/jetpack5.Dockerfile -t yolox_trt:jetpack5 .

FROM nvcr.io/nvidia/l4t-tensorrt:r8.5.2.2-devel AS jetpack

FROM ros:humble-ros-base-jammy AS bindings
COPY --from=jetpack /usr/local/cuda-11.4 /usr/local/cuda-11.4
COPY --from=jetpack /usr/include/aarch64-linux-gnu/NvInfer*.h /usr/include/aarch64-linux-gnu/NvOnnx*.h /usr/include/aarch64-linux-gnu/
COPY --from=jetpack /usr/lib/aarch64-linux-gnu/libnvinfer* /usr/lib/aarch64-linux-gnu/libnvonnxparser* /usr/lib/aarch64-linux-gnu/libnvparsers* /usr/lib/aarch64-linux-gnu/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake git python3-dev python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN git clone --depth 1 --branch release/8.5 https://github.com/NVIDIA/TensorRT.git \
    && git clone --depth 1 --branch v2.9.2 https://github.com/pybind/pybind11.git external/pybind11 \
    && mkdir -p external/python3.10/include \
    && cp -r /usr/include/python3.10/* external/python3.10/include/ \
    && cp -r /usr/include/aarch64-linux-gnu/python3.10 external/python3.10/include/aarch64-linux-gnu-python3.10
WORKDIR /build/TensorRT/python
RUN TENSORRT_MODULE=tensorrt EXT_PATH=/build/external TRT_OSSPATH=/build/TensorRT \
    PYTHON_MAJOR_VERSION=3 PYTHON_MINOR_VERSION=10 TARGET_ARCHITECTURE=aarch64 ./build.sh

FROM ros:humble-ros-base-jammy
COPY --from=jetpack /usr/local/cuda-11.4 /usr/local/cuda-11.4
COPY --from=jetpack /usr/lib/aarch64-linux-gnu/libnvinfer* /usr/lib/aarch64-linux-gnu/libnvonnxparser* /usr/lib/aarch64-linux-gnu/libnvparsers* /usr/lib/aarch64-linux-gnu/libcudnn* /usr/lib/aarch64-linux-gnu/
COPY --from=bindings /build/TensorRT/python/build/dist/*.whl /tmp/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV LD_LIBRARY_PATH=/usr/local/cuda-11.4/lib64:/usr/lib/aarch64-linux-gnu/tegra \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all LANG=C.UTF-8

COPY . /workspace/src/yolox_trt
WORKDIR /workspace
# hadolint ignore=DL3008,DL3013,SC1091
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && rosdep update --rosdistro humble \
    && rosdep install --from-paths src --ignore-src -y --rosdistro humble \
    && pip install --no-cache-dir "numpy<2" onnx onnxruntime "rosbags<0.12" edgefirst-tracker cupy-cuda11x /tmp/*.whl \
    && . /opt/ros/humble/setup.bash \
    && colcon build --packages-select yolox_trt \
    && rm -rf build log /tmp/*.whl /var/lib/apt/lists/*

RUN useradd --create-home --uid 1001 --groups video detector \
    && install -d -o detector /home/detector/.cache/yolox_trt
USER 1001
VOLUME /home/detector/.cache/yolox_trt
COPY --chmod=755 docker/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "yolox_trt", "multi_camera.launch.py"]
