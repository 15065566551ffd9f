# One image for agent, controller and CLI. Python and nftables are Debian's; all else is pinned by hash in the lock files.

FROM debian:12.12-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY requirements.lock requirements-dev.lock ./
# the build backend alone, at the version that the tests use
RUN sed -n '/^setuptools==/,/[^\\]$/p' requirements-dev.lock > build.lock \
 && python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement build.lock
RUN python3 -m venv /opt/linkseal \
 && /opt/linkseal/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY ipsec ipsec
COPY keys keys
COPY tunnels tunnels
COPY wireguard wireguard
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/linkseal/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
 && /opt/linkseal/bin/pip uninstall --yes pip setuptools

FROM debian:12.12-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 nftables wireguard-go \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/linkseal /opt/linkseal
ENV PATH=/opt/linkseal/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
# nobody of Debian's; the agents' pods say root themselves, with the capabilities they need
USER 65534:65534
ENTRYPOINT ["linkseal"]
