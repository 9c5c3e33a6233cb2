# A service for a model folder:
#   docker build -t reg4rec .
#   docker run -p 8000:8000 -v "$PWD/runs/shop/recommender:/model:ro" reg4rec
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
WORKDIR /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/reg4rec-*.whl)[service]" && rm -r /wheels && useradd --create-home shop
COPY examples/service.py /service.py
USER shop
ENV OMP_NUM_THREADS=1
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
CMD ["python", "/service.py", "/model", "--host", "0.0.0.0", "--port", "8000"]
