# pirn in a container: docker build -t pirn . ; for CUDA: docker build --build-arg EXTRAS=serve,cuda12 -t pirn:cuda .
FROM python:3.11-slim
ARG EXTRAS=serve
WORKDIR /app
COPY . .
RUN pip install --no-cache-dir ".[${EXTRAS}]" && useradd --create-home pirn && mkdir /cache && chown pirn /cache
USER pirn
ENV PIRN_CACHE=/cache
EXPOSE 8000
ENTRYPOINT ["pirn"]
CMD ["help"]
