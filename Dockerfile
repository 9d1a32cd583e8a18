# Images of nsa-serve, from the repository's root:
#
#   docker build --target cpu  -t nsa-serve:cpu .
#   docker build --target cuda -t nsa-serve:cuda .
#
# --build-arg WITH_MODEL=default bakes the default model in; without it a model is mounted at /models.
# A base is replaced by --build-arg CPU_BASE=… (Debian 12), CUDA_BUILD_BASE=… and CUDA_BASE=….
ARG CPU_BASE=debian:bookworm-slim
ARG CUDA_BUILD_BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG CUDA_BASE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${CPU_BASE} AS build-cpu
WORKDIR /src
COPY deploy/apt-packages.txt deploy/lib.sh deploy/fetch_source.sh deploy/fetch_sentencepiece.sh \
     deploy/fetch_xgrammar.sh deploy/
COPY deploy/image/packages.sh deploy/image/
RUN --mount=type=cache,id=nsa-apt-cpu,target=/var/cache/apt,sharing=locked deploy/image/packages.sh
COPY . .
RUN --mount=type=cache,id=nsa-ccache,target=/ccache CCACHE_DIR=/ccache deploy/image/build.sh cpu /out

FROM ${CUDA_BUILD_BASE} AS build-cuda
WORKDIR /src
COPY deploy/apt-packages.txt deploy/lib.sh deploy/fetch_source.sh deploy/fetch_sentencepiece.sh \
     deploy/fetch_xgrammar.sh deploy/
COPY deploy/image/packages.sh deploy/image/
RUN --mount=type=cache,id=nsa-apt-cuda,target=/var/cache/apt,sharing=locked deploy/image/packages.sh
COPY . .
RUN --mount=type=cache,id=nsa-ccache,target=/ccache CCACHE_DIR=/ccache deploy/image/build.sh cuda /out

FROM ${CPU_BASE} AS model
ARG WITH_MODEL=none
COPY deploy /src/deploy
RUN /src/deploy/image/fetch_model.sh "${WITH_MODEL}" /models

FROM ${CPU_BASE} AS cpu
COPY --from=build-cpu /out/ /
RUN /usr/local/lib/nsa-serve/install_runtime.sh
COPY --from=model /models /models
LABEL org.opencontainers.image.title="nsa-serve" \
      org.opencontainers.image.description="Long-context LLM inference server with Native Sparse Attention, CPU" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
EXPOSE 50051 9090
# SIGTERM drains for --drain_timeout_s; give `docker stop --time` some seconds more.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["nsa_client", "health", "--server=127.0.0.1:50051", "--timeout_s=4"]
ENTRYPOINT ["nsa_server"]
CMD ["--model=/models/model.gguf", "--listen=0.0.0.0:50051", "--metrics_listen=0.0.0.0:9090"]

FROM ${CUDA_BASE} AS cuda
COPY --from=build-cuda /out/ /
RUN /usr/local/lib/nsa-serve/install_runtime.sh
COPY --from=model /models /models
LABEL org.opencontainers.image.title="nsa-serve" \
      org.opencontainers.image.description="Long-context LLM inference server with Native Sparse Attention, CUDA" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["nsa_client", "health", "--server=127.0.0.1:50051", "--timeout_s=4"]
ENTRYPOINT ["nsa_server"]
CMD ["--device=cuda", "--model=/models/model.gguf", "--listen=0.0.0.0:50051", "--metrics_listen=0.0.0.0:9090"]

# The gateway that gives users the OpenAI HTTP API; compose.yaml's profile "gateway".
FROM ${CPU_BASE} AS gateway
COPY deploy/image/install_gateway.sh deploy/image/gateway-requirements.txt /usr/local/lib/nsa-serve/
RUN /usr/local/lib/nsa-serve/install_gateway.sh
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["/usr/local/lib/gateway/bin/smg", "launch", "--host", "0.0.0.0", "--port", "8080"]

FROM cpu
