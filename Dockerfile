FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    SQLX_OFFLINE=true cargo build --release --locked -p onsale \
    && cp target/release/onsale /onsale

FROM debian:bookworm-slim
RUN useradd --system --user-group --no-create-home onsale
COPY --from=build /onsale /usr/local/bin/onsale
COPY deploy/onsale-ready /usr/local/bin/onsale-ready
USER onsale
EXPOSE 8080 8081 9090
ENTRYPOINT ["onsale"]
CMD ["all"]
