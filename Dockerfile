# The service in an image; how it is used: docs/containers.md.
# It builds with BuildKit and without. At run time there is neither a shell nor a user's name to depend on.

ARG RUNTIME=cpu

# What pyproject.toml says is needed, by itself: other changes of that file install nothing anew.
FROM python:3.11-slim AS requirements
WORKDIR /build
ARG RUNTIME
COPY pyproject.toml .
RUN python -c 'import sys, tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = project["optional-dependencies"]; \
print(*project["dependencies"], *extras[sys.argv[1]], *extras["traces"], sep="\n")' "$RUNTIME" >requirements.txt

# Without pip: it is not needed to run. Bytecode is a tenth of the environment, and no process can write it later, with
# its file system read-only; without it the imports take half as long again.
FROM python:3.11-slim AS environment
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY constraints.txt constraints-gpu.txt ./
COPY --from=requirements /build/requirements.txt .
# Gone then: tests of packages, sources of compiled ones, and of onnxruntime what exports and quantizes models, and its
# library for C programs (Python's module has all of it once more).
RUN pip --python /opt/venv/bin/python --disable-pip-version-check --no-cache-dir install --quiet --no-compile \
        --constraint constraints.txt --constraint constraints-gpu.txt --requirement requirements.txt \
    && cd /opt/venv/lib/python3.*/site-packages \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && rm -r onnxruntime/quantization onnxruntime/tools onnxruntime/transformers onnxruntime/capi/libonnxruntime.so.* \
        simdjson/*.cpp simdjson/*.h \
    && python -m compileall -q --invalidation-mode unchecked-hash .

# Whatever the checkout's umask was, the container's user may read it all and write none of it.
FROM python:3.11-slim AS files
WORKDIR /app
COPY service service
COPY artifacts artifacts
RUN python -m compileall -q --invalidation-mode unchecked-hash service && chmod -R go=rX .

# `--target load`: Locust, as of `make load`, on the environment of the service.
FROM environment AS load-environment
RUN pip --python /opt/venv/bin/python --disable-pip-version-check --no-cache-dir install --quiet \
        --constraint constraints.txt locust numpy
WORKDIR /app
COPY bench/__init__.py bench/locustfile.py bench/load_settings.py bench/oip.py bench/
RUN chmod -R go=rX .

FROM python:3.11-slim AS load
COPY --from=load-environment /opt/venv /opt/venv
COPY --from=load-environment /app /app
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["/opt/venv/bin/python", "-m", "locust", "--locustfile", "bench/locustfile.py", "--headless", \
    "--only-summary", "--loglevel", "WARNING", "--stop-timeout", "30"]

FROM python:3.11-slim AS runtime-cpu

# Where the wheels of CUDA and cuDNN put their libraries: whoever loads onnxruntime's provider finds them.
FROM python:3.11-slim AS runtime-gpu
ENV LD_LIBRARY_PATH=/opt/venv/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/venv/lib/python3.11/site-packages/nvidia/cudnn/lib

FROM runtime-${RUNTIME} AS service
COPY --from=environment /opt/venv /opt/venv
COPY --from=files /app/artifacts /app/artifacts
COPY --from=files /app/service /app/service
WORKDIR /app
ENV NORMSERVE_HOST=0.0.0.0
EXPOSE 8000
USER 10001:10001
ENTRYPOINT ["/opt/venv/bin/python", "-m", "service"]
# -I -S: it needs no environment and no packages; 0.04 s of processor time each.
HEALTHCHECK --interval=5s --timeout=3s --start-period=120s --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-S", "/app/service/healthcheck.py"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="normserve" \
    org.opencontainers.image.description="Layer-normalised models over HTTP, by the Open Inference Protocol v2" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
