//! A serving process and its shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::checks::Checks;
use super::{Context, Routes, housekeeping, ops};
use crate::files;
use crate::http::{self, ConnectionLimits, Connections, HttpState, Listener};

/// Timeout of the last steps, which should be immediate: dropping tasks, closing connections.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A process whose listeners are bound.
#[derive(Debug)]
pub struct Running {
    /// Address of the public listener.
    pub public_addr: SocketAddr,
    /// Address of the internal listener.
    pub internal_addr: SocketAddr,
    /// Address of the operations listener.
    pub ops_addr: SocketAddr,
    /// The context of its parts.
    pub ctx: Context,
    ops: JoinHandle<()>,
    ops_stop: CancellationToken,
}

/// Binds the listeners of `ctx.config` and serves `routes` on them until shutdown.
///
/// # Errors
/// When a port can't be bound.
pub async fn serve(ctx: &Context, routes: Routes) -> anyhow::Result<Running> {
    let public = bind("ONSALE_PUBLIC_ADDR", ctx.config.public_addr).await?;
    let internal = bind("ONSALE_INTERNAL_ADDR", ctx.config.internal_addr).await?;
    let ops = bind("ONSALE_OPS_ADDR", ctx.config.ops_addr).await?;
    let (public_addr, internal_addr, ops_addr) =
        (public.address(), internal.address(), ops.address());

    // So that the first response of `/readyz` is meaningful.
    let mut checks = Checks::new(ctx.clone());
    checks.check().await;
    let closing = closing(ctx);
    let shared = shared(ctx);
    let connections = connections(ctx);
    spawn_listener(
        ctx,
        "public listener",
        public,
        http::wrap(routes.public, shared.clone())
            .merge(http::wrap_quick(routes.quick, shared.clone())),
        &connections,
        &closing,
    );
    spawn_listener(
        ctx,
        "internal listener",
        internal,
        http::wrap(routes.internal, shared),
        &connections,
        &closing,
    );
    housekeeping::spawn(ctx, checks);

    // Outlives all others, so that the end can be watched; hard shutdown does not cut it off.
    let ops_stop = CancellationToken::new();
    let ops = tokio::spawn(ops.serve(
        ops::routes(ctx.clone()),
        // Never refuses: the others leave file descriptors for it.
        Connections::unlimited(),
        ops_stop.clone(),
        CancellationToken::new(),
    ));
    tracing::info!(%public_addr, %internal_addr, %ops_addr, "serving");
    Ok(Running {
        public_addr,
        internal_addr,
        ops_addr,
        ctx: ctx.clone(),
        ops,
        ops_stop,
    })
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<Listener> {
    http::bind(address)
        .await
        .with_context(|| format!("can't listen on {address} ({key})"))
}

fn shared(ctx: &Context) -> Arc<HttpState> {
    Arc::new(HttpState {
        keys: ctx.keys.clone(),
        clock: ctx.clock.clone(),
        trusted_proxies: ctx.config.trusted_proxies.clone(),
        request_timeout: ctx.config.request_timeout,
        is_secure: ctx.config.public_url.scheme() == "https",
        health: ctx.health.clone(),
        has_untrusted_forwarder: AtomicBool::new(false),
    })
}

/// The bounds of connections: some files are left for the servers behind, for logs and for the
/// operations listener.
fn connections(ctx: &Context) -> Connections {
    let files = usize::try_from(files::max_open()).unwrap_or(usize::MAX);
    let reserved = (files / 8).clamp(64, 1_024);
    Connections::new(ConnectionLimits {
        total: files.saturating_sub(reserved),
        per_address: ctx.config.connections_per_address,
        trusted: ctx.config.trusted_proxies.clone(),
    })
}

/// Cancelled when the listeners are to close: the drain time after soft shutdown.
fn closing(ctx: &Context) -> CancellationToken {
    let closing = CancellationToken::new();
    let (soft, drain, close) = (
        ctx.shutdown.soft().clone(),
        ctx.config.drain,
        closing.clone(),
    );
    ctx.spawn("drain", async move {
        soft.cancelled().await;
        tokio::time::sleep(drain).await;
        close.cancel();
        Ok(())
    });
    closing
}

fn spawn_listener(
    ctx: &Context,
    name: &'static str,
    listener: Listener,
    routes: Router,
    connections: &Connections,
    closing: &CancellationToken,
) {
    let serving = listener.serve(
        routes,
        connections.clone(),
        closing.clone(),
        ctx.shutdown.hard().clone(),
    );
    ctx.spawn(name, async move {
        serving.await;
        Ok(())
    });
}

impl Running {
    /// Begins soft shutdown and waits for the end.
    ///
    /// # Errors
    /// As [`Running::finish`].
    pub async fn stop(self) -> anyhow::Result<()> {
        self.ctx.shutdown.soft().cancel();
        self.finish().await
    }

    /// Waits for soft shutdown, then for everything to leave; what has not left within the grace
    /// time is dropped.
    ///
    /// # Errors
    /// When a task failed, or work had to be dropped.
    pub async fn finish(self) -> anyhow::Result<()> {
        let shutdown = &self.ctx.shutdown;
        shutdown.soft().cancelled().await;
        tokio::select! {
            () = shutdown.tasks_left() => {}
            () = shutdown.hard().cancelled() => {}
            () = tokio::time::sleep(self.ctx.config.shutdown_grace) => {
                tracing::error!("the grace time is over");
                shutdown.hard().cancel();
            }
        }
        let was_cut_off = shutdown.hard().is_cancelled();
        let crashed = shutdown.crashed();
        self.disconnect().await;
        match crashed {
            Some(task) => anyhow::bail!("{task} failed"),
            None if was_cut_off => anyhow::bail!("shut down before all work was finished"),
            None => Ok(()),
        }
    }

    async fn disconnect(self) {
        self.ops_stop.cancel();
        let leave = async {
            self.ctx.shutdown.tasks_left().await;
            self.ctx.broker.close().await;
            self.ctx.db.close().await;
            // An error is a panic, which was logged.
            let _ = self.ops.await;
        };
        if tokio::time::timeout(LAST_WAIT, leave).await.is_err() {
            tracing::warn!("connections to servers were left open");
        }
        tracing::info!("stopped");
    }
}
