//! `onsale verify-pass`: guards another site. A reverse proxy sends it a subrequest for each
//! request (`auth_request` of nginx, `forward_auth` of Caddy), which it answers with the published
//! keys alone.

mod answer;
mod keys;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use domain::EventId;
use domain::clock::SystemClock;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use url::Url;

use crate::say;
use answer::Guard;
use keys::{Keys, Source};

#[derive(Args)]
pub(crate) struct VerifyPassArgs {
    /// The keys of the passes: the URL of /.well-known/jwks.json, or a file with its content
    #[arg(long, value_name = "URL|FILE")]
    jwks: String,
    /// The sale whose passes are accepted
    #[arg(long, value_name = "ID")]
    sale: i64,
    /// Where the reverse proxy connects; keep it on a private network
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9200")]
    listen: SocketAddr,
    /// Where people without a pass are sent; by default the sale's page beside the keys
    #[arg(long, value_name = "URL")]
    waiting_room: Option<Url>,
}

/// Loads the keys and serves until a signal.
pub(crate) async fn run(args: VerifyPassArgs) -> anyhow::Result<()> {
    let source = Source::parse(&args.jwks)?;
    let waiting_room = args
        .waiting_room
        .or_else(|| source.beside(&format!("/events/{}", args.sale)))
        .context("--jwks is a file, so say where people get a pass: --waiting-room URL")?;
    let keys = Arc::new(Keys::load(source, SystemClock::shared()).await?);
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("can't listen at {}", args.listen))?;
    say(format_args!(
        "verifying passes of sale {} at http://{}",
        args.sale,
        listener.local_addr()?
    ));
    let refreshed = Arc::clone(&keys);
    let refresh = tokio::spawn(async move { refreshed.follow().await });
    let guard = Guard {
        keys,
        sale: EventId(args.sale),
        waiting_room,
    };
    axum::serve(listener, answer::routes(guard))
        .with_graceful_shutdown(stopped()?)
        .await?;
    refresh.abort();
    Ok(())
}

/// Resolves at Ctrl-C or SIGTERM.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
