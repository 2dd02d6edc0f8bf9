# One image for every process; docker-compose.yml says which one a container is.
FROM python:3.12-slim

# pip's own build folder is not kept, and nothing runs as root.
RUN useradd --create-home --uid 10001 celeriac
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY orchestrations orchestrations
COPY activities activities
COPY celery_app celery_app
COPY cli cli
RUN pip install --no-cache-dir . && rm -rf /src/build

# Your own workflows go to /app, which is on the import path; name them in CELERIAC_APP.
WORKDIR /app
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1
USER celeriac
ENTRYPOINT ["celeriac"]
CMD ["--help"]
