# The app on CPUs, for whoever serves it themselves: docker compose up, or
#   docker build -t cgclora . && docker run -p 7860:7860 -v cgclora:/data cgclora
# On x86 the package index gives torch with CUDA, which is some gigabytes more; PyTorch has an index
# of builds for CPUs: --build-arg TORCH_INDEX=<its address>.
FROM python:3.11.13-slim-bookworm

ARG TORCH_INDEX=""
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --uid 1000 --create-home app && install --directory --owner=app /data

WORKDIR /app
COPY requirements.txt .
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --index-url "$TORCH_INDEX" "$(sed -n '/^torch==.*!=/s/;.*//p' requirements.txt)"; \
    fi && \
    pip install -r requirements.txt
COPY . .

# All that is written goes to /data or /tmp, so that the rest can be read-only.
ENV HOME=/data \
    CGCLORA_CACHE=/data/cache \
    CGCLORA_RUNS=/data/runs \
    HF_HOME=/data/hub \
    GRADIO_TEMP_DIR=/tmp/gradio \
    GRADIO_ANALYTICS_ENABLED=False \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    CGCLORA_JSON_LOG=1 \
    CGCLORA_END_JOBS=1
VOLUME /data
EXPOSE 7860
USER app
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
CMD ["python", "app.py"]
