//! A TCP proxy between a process and one of its servers, to cut, silence or refuse connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::sync::MutexExt as _;

/// Forwards connections, until they are cut. When it is dropped, they are, and new ones are
/// refused.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<CancellationToken>>,
    faults: watch::Sender<Faults>,
    /// Number of accepted connections.
    accepted: Arc<AtomicU64>,
    round_trips: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

/// The injected faults.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    /// Discards what clients send on connections numbered below it.
    mutes_below: u64,
    /// Discards what the server sends.
    deafens: bool,
    /// New connections are accepted and closed.
    hangs_up: bool,
    /// Delays what clients send.
    delay: Duration,
}

impl Proxy {
    /// Forwards to `target`, a host and port.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn to(target: impl Into<String>) -> Self {
        let target = target.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(Mutex::new(CancellationToken::new()));
        let current = connections.clone();
        let faults = watch::Sender::new(Faults::default());
        let heard = faults.subscribe();
        let accepted = Arc::new(AtomicU64::new(0));
        let numbers = accepted.clone();
        let round_trips = Arc::new(AtomicU64::new(0));
        let trips = round_trips.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = numbers.fetch_add(1, Ordering::SeqCst);
                if heard.borrow().hangs_up {
                    continue;
                }
                let cut = current.lock_unpoisoned().clone();
                let forwarded = Forwarded {
                    number,
                    faults: heard.clone(),
                    round_trips: trips.clone(),
                };
                tokio::spawn(forwarded.run(client, target.clone(), cut));
            }
        });
        Self {
            address,
            connections,
            faults,
            accepted,
            round_trips,
            accepting,
        }
    }

    /// Forwards to the server of `url`; also returns that URL with the proxy in the server's place.
    ///
    /// # Panics
    /// When it is not a URL with a host, or no port can be bound.
    pub async fn before(url: &str) -> (Self, String) {
        let mut url = Url::parse(url).expect("a server's URL");
        let default = match url.scheme() {
            "postgres" | "postgresql" => 5432,
            "redis" => 6379,
            _ => 5672,
        };
        let host = url.host_str().expect("a server's URL has a host");
        let proxy = Self::to(format!("{host}:{}", url.port().unwrap_or(default))).await;
        url.set_ip_host(proxy.address.ip())
            .expect("a URL with a host");
        url.set_port(Some(proxy.address.port()))
            .expect("a URL with a host");
        (proxy, url.into())
    }

    /// The address that clients connect to instead of the server's.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of times that a client spoke after the server had, on all connections together: a
    /// client that pipelines its requests makes one round trip.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::SeqCst)
    }

    /// Discards what clients send from now on: acknowledgements are lost as in a crash right before
    /// them. [`cut`](Self::cut) ends it.
    pub fn mute(&self) {
        self.faults
            .send_modify(|faults| faults.mutes_below = u64::MAX);
    }

    /// Discards what the server sends from now on: requests are executed and never confirmed.
    /// [`cut`](Self::cut) ends it.
    pub fn deafen(&self) {
        self.faults.send_modify(|faults| faults.deafens = true);
    }

    /// [`mute`](Self::mute) for the connections that stand; new ones are forwarded. So it looks
    /// when a firewall has forgotten its connections.
    pub fn mute_open(&self) {
        let accepted = self.accepted.load(Ordering::SeqCst);
        self.faults
            .send_modify(|faults| faults.mutes_below = accepted);
    }

    /// Delays what clients send from now on. [`cut`](Self::cut) ends it.
    pub fn slow(&self, delay: Duration) {
        self.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Cuts every connection, and closes new ones as soon as they are accepted, as a balancer does
    /// that has no server behind it. [`cut`](Self::cut) ends it.
    pub fn hang_up(&self) {
        self.cut();
        self.faults.send_modify(|faults| faults.hangs_up = true);
    }

    /// Cuts every connection; new ones are forwarded again.
    pub fn cut(&self) {
        let mut current = self.connections.lock_unpoisoned();
        current.cancel();
        *current = CancellationToken::new();
        self.faults.send_replace(Faults::default());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections.lock_unpoisoned().cancel();
    }
}

/// One connection.
struct Forwarded {
    number: u64,
    faults: watch::Receiver<Faults>,
    round_trips: Arc<AtomicU64>,
}

impl Forwarded {
    /// Forwards until either side fails or both have ended; then both connections are closed.
    async fn run(self, client: TcpStream, target: String, cut: CancellationToken) {
        let Ok(server) = TcpStream::connect(&target).await else {
            return;
        };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let is_clients_turn = AtomicBool::new(true);
        let speaking = async {
            let mut heard = vec![0; 16 * 1024];
            loop {
                let length = from_client.read(&mut heard).await?;
                if length == 0 {
                    return to_server.shutdown().await;
                }
                if is_clients_turn.swap(false, Ordering::SeqCst) {
                    self.round_trips.fetch_add(1, Ordering::SeqCst);
                }
                let Faults {
                    mutes_below, delay, ..
                } = *self.faults.borrow();
                tokio::time::sleep(delay).await;
                if self.number >= mutes_below {
                    to_server.write_all(&heard[..length]).await?;
                }
            }
        };
        let listening = async {
            let mut read = vec![0; 16 * 1024];
            loop {
                let length = from_server.read(&mut read).await?;
                if length == 0 {
                    return to_client.shutdown().await;
                }
                is_clients_turn.store(true, Ordering::SeqCst);
                if !self.faults.borrow().deafens {
                    to_client.write_all(&read[..length]).await?;
                }
            }
        };
        let _ended = cut
            .run_until_cancelled(async { tokio::try_join!(speaking, listening) })
            .await;
    }
}
