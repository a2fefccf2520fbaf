# One image for the command line and for every stage on Kubeflow, whose containers name their own command
# (python -m pipeline.kubeflow.entrypoint). Build: docker build -t ich .
# Use: docker run -v "$PWD:/data" ich predict /data/017.nii.gz -o /data/out

FROM python:3.11-slim-bookworm AS build
RUN python -m pip install --no-cache-dir "uv>=0.8,<1"
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /src

# The packages come first: their layer stays as long as the lock does. They are compiled here, because a user
# without the right to write cannot do it later, and importing TFX uncompiled takes over a minute.
COPY requirements.lock ./
RUN uv venv --python /usr/local/bin/python3.11 /opt/ich \
    && uv pip sync --python /opt/ich/bin/python --require-hashes --build-constraints requirements.lock \
        --compile-bytecode requirements.lock

COPY setup.py pyproject.toml LICENSE ./
COPY pipeline/ pipeline/
COPY components/ components/
COPY schema/ schema/
COPY serving/ serving/
RUN uv pip install --python /opt/ich/bin/python --no-deps --no-build-isolation --offline --compile-bytecode .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home ich
COPY --from=build /opt/ich /opt/ich
ENV PATH=/opt/ich/bin:$PATH PYTHONUNBUFFERED=1
# By number, so that Kubernetes can see that it is not root.
USER 10001
WORKDIR /data
HEALTHCHECK --interval=60s --timeout=20s CMD ["ich", "--version"]
ENTRYPOINT ["ich"]
CMD ["--help"]
