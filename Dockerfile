# A service for a model folder:
#   docker build -t reg4rec .
#   docker run -p 8000:8000 -v "$PWD/runs/shop/recommender:/model:ro" reg4rec
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py CMakeLists.txt README.md LICENSE ./
COPY csrc csrc
COPY kernels kernels
COPY reg4rec reg4rec
RUN REG4REC_NATIVE=ON pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[service]"
RUN useradd --create-home reg4rec
USER reg4rec
WORKDIR /home/reg4rec
COPY examples/service.py .
EXPOSE 8000
HEALTHCHECK --start-period=60s --timeout=10s CMD \
  ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=8)"]
CMD ["python", "service.py", "/model", "--host", "0.0.0.0"]
