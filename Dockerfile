# What every node of a cluster runs: the lock, and this checkout. For cluster.yaml and kuberay/:
#
#   docker build -t REGISTRY/psr-ray:0.1.0 . && docker push REGISTRY/psr-ray:0.1.0
#
# A job's own upload (`ray job submit --working-dir .`) goes before what is installed here. Not built by us: no
# container engine is at hand where the tests run.
FROM rayproject/ray:2.60.0-py311-gpu

# An answer that was lost with its connection is missed after a minute; Ray's own 300 s and 120 s let a run stand still
# for minutes after a cut of seconds (docs/cluster.md, "Ports").
ENV RAY_grpc_client_keepalive_time_ms=20000 RAY_grpc_client_keepalive_timeout_ms=30000

WORKDIR /home/ray/psr-ray
COPY --chown=ray:users requirements/gpu.lock requirements/deepspeed.lock requirements/
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/gpu.lock \
    && pip install --no-cache-dir --no-deps --no-build-isolation --require-hashes -r requirements/deepspeed.lock
COPY --chown=ray:users pyproject.toml README.md LICENSE ./
COPY --chown=ray:users psr_ray psr_ray
COPY --chown=ray:users actors actors
COPY --chown=ray:users jobs jobs
COPY --chown=ray:users configs configs
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
