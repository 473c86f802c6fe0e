# The pipeline: Prefect's server, the worker and the served stage run from this image.
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY medgrpo medgrpo
COPY tasks tasks
COPY flows flows
# bitsandbytes comes with `gpu`: the config that the stack serves loads its base model in 4 bits.
RUN pip install -c constraints.txt '.[gpu,embedded]'


FROM python:3.11.14-slim-bookworm

# Triton compiles the launchers of TRL's GPU kernels when they are first used.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# A new named volume takes the owner of the folder that it is mounted on.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin medgrpo \
    && install --directory --owner=medgrpo --group=medgrpo --mode=0750 /var/lib/medgrpo

COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# Deployments name configs by their paths from here; flows come from the environment above.
WORKDIR /app
COPY prefect.yaml ./
COPY configs configs

USER medgrpo
CMD ["medgrpo", "--help"]
