//! The server: HTTP/1.1 with keep-alive, and a shutdown that lets running requests finish.
//! HTTP/2 and TLS are the reverse proxy's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::connections::{Connections, Full};
use super::lent::{self, Lender};
use super::stalled::Stalled;
use crate::problem::{Kind, Problem};

/// Longest wait for a request's headers, which includes the pause between two requests on one
/// connection: above the longest time between two polls.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(75);
/// Most bytes of one request's headers.
const MAX_HEADER_BYTES: usize = 32 * 1024;
/// Timeout of a write that makes no progress.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after the system refused to accept, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds `address`; port 0 takes a free one.
///
/// # Errors
/// When the port is taken, or may not be bound.
pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(Listener { listener, address })
}

impl Listener {
    /// The bound address, with the port that the system chose if it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `routes` until `stop`; then accepts no more, lets running requests finish, and
    /// returns. `hard` ends all connections at once. A connection beyond the bounds of
    /// `connections` is refused with 503 or 429.
    pub async fn serve(
        self,
        routes: Router,
        connections: Connections,
        stop: CancellationToken,
        hard: CancellationToken,
    ) {
        let graceful = GracefulShutdown::new();
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => {
                    let place = match connections.admit(peer.ip()) {
                        Ok(place) => place,
                        Err(full) => {
                            refuse(&stream, full);
                            continue;
                        }
                    };
                    // On the heap, since each future around it would have room for its size again.
                    let connection =
                        Box::pin(serve(stream, peer, routes.clone(), graceful.watcher()));
                    let hard = hard.clone();
                    tokio::spawn(async move {
                        hard.run_until_cancelled_owned(connection).await;
                        drop(place);
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        hard.run_until_cancelled(graceful.shutdown()).await;
    }
}

/// Answers before the request is read, as far as the socket takes it at once.
fn refuse(stream: &TcpStream, full: Full) {
    let (kind, scope, detail) = match full {
        Full::Total => (
            Kind::Overloaded,
            "total",
            "The server has no connection left; try again in a moment.",
        ),
        Full::Address => (
            Kind::RateLimited,
            "address",
            "Too many connections from this address; close some.",
        ),
    };
    metrics::counter!("http_connections_refused_total", "limit" => scope).increment(1);
    let (status, body) = (kind.status(), Problem::new(kind, detail).body());
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
         retry-after: 1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(&body);
    // The client sees a closed connection otherwise.
    let _unsent = stream.try_write(&answer);
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

async fn serve(stream: TcpStream, peer: SocketAddr, routes: Router, watcher: Watcher) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection is gone already");
        return;
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut request, unread) = lend(request);
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = routes.clone().call(request);
        async move {
            let mut response = answer.await?;
            if let Some(unread) = unread
                && !unread.finish().await
            {
                close_after(&mut response);
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(Stalled::new(stream, WRITE_TIMEOUT)), service);
    if let Err(error) = watcher.watch(connection).await {
        // Clients may hang up at any time.
        tracing::trace!(%error, "connection ended");
    }
}

/// The request with a body that is lent to its handler, and the means to read the rest of it.
fn lend(request: Request<Incoming>) -> (Request<Body>, Option<Unread>) {
    let (parts, body) = request.into_parts();
    let is_awaited = !parts.headers.contains_key(header::EXPECT);
    let (body, lender) = lent::lend(body);
    let unread = lender.map(|lender| Unread { lender, is_awaited });
    (Request::from_parts(parts, body), unread)
}

/// The part of a body that a handler may leave unread.
struct Unread {
    lender: Lender,
    /// The client sends it without being asked to.
    is_awaited: bool,
}

impl Unread {
    /// Drains it, and returns whether the connection can be reused.
    async fn finish(self) -> bool {
        self.lender.is_read() || (self.is_awaited && self.lender.finish().await)
    }
}

fn close_after(response: &mut Response) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}
