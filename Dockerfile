# shardd in two stages: build with what scripts/packages.txt lists, run with its runtime part. Not as root.
#   docker build -t shardd . && docker run --rm -e DISCORD_TOKEN -p 50051:50051 shardd --listen 0.0.0.0:50051 --insecure-listen
FROM debian:12-slim AS build
WORKDIR /src
COPY scripts/packages.txt scripts/install-packages scripts/
RUN scripts/install-packages build && rm -rf /var/lib/apt/lists/*
COPY CMakeLists.txt CMakePresets.json ./
COPY proto proto
COPY src src
COPY bench bench
COPY fuzz fuzz
COPY tests tests
COPY scripts scripts
RUN scripts/build release shardd

FROM debian:12-slim
COPY scripts/packages.txt scripts/install-packages /tmp/shardd/scripts/
RUN /tmp/shardd/scripts/install-packages runtime && rm -rf /tmp/shardd /var/lib/apt/lists/* \
    && useradd --system --home-dir /var/lib/shardd --create-home shardd
COPY --from=build /src/build/release/shardd /usr/local/bin/shardd
USER shardd
WORKDIR /var/lib/shardd
ENV STATE_DIRECTORY=/var/lib/shardd
EXPOSE 50051
ENTRYPOINT ["shardd"]
