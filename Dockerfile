# CPU:    docker build -t blocklora .
# NVIDIA: docker build -t blocklora --build-arg EXTRA=cuda .     (run with --gpus all)
# TPU:    docker build -t blocklora --build-arg EXTRA=tpu .      (run with --privileged --network host on the TPU VM)
#
# mkdir -p runs
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/work/runs" blocklora train --config ada
#
# JAX's wheels bring CUDA and cuDNN, so one base image serves all. On GPUs and TPUs this was never tried.
FROM python:3.11-slim

ARG EXTRA=
WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE constraints.txt ./
COPY blocklora_jax blocklora_jax
COPY train train
COPY merge merge
COPY configs configs
RUN PIP_CONSTRAINT=constraints.txt pip install --no-cache-dir ".${EXTRA:+[$EXTRA]}"

# Programs are compiled once and kept: mount a volume here to keep them between containers.
ENV BLOCKLORA_COMPILATION_CACHE=/cache
# With --user the container runs as the person who starts it, who then owns what it writes into a mounted folder. So
# everybody may write into these folders.
ENV HOME=/home/user
RUN useradd --create-home user && mkdir -p /work/runs /cache && chmod 1777 /home/user /work /work/runs /cache
USER user
WORKDIR /work
ENTRYPOINT ["blocklora"]
