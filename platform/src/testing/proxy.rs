use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A TCP proxy whose connections can be cut, or made to swallow what clients say.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<CancellationToken>>,
    muted: watch::Sender<bool>,
    accepting: JoinHandle<()>,
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
        let muted = watch::Sender::new(false);
        let listening = muted.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cut = current
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                tokio::spawn(forward(client, target.clone(), cut, listening.clone()));
            }
        });
        Self {
            address,
            connections,
            muted,
            accepting,
        }
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on clients hear the server, but nothing they say reaches it: acknowledgements get
    /// lost as in a crash right before them. [`cut`](Self::cut) ends it.
    pub fn mute(&self) {
        self.muted.send_replace(true);
    }

    /// Cuts every connection; new ones are forwarded again.
    pub fn cut(&self) {
        let mut current = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        current.cancel();
        *current = CancellationToken::new();
        self.muted.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cancel();
    }
}

async fn forward(
    client: TcpStream,
    target: String,
    cut: CancellationToken,
    muted: watch::Receiver<bool>,
) {
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let speaking = async {
        let mut heard = vec![0; 16 * 1024];
        loop {
            let length = from_client.read(&mut heard).await?;
            if length == 0 {
                return to_server.shutdown().await;
            }
            if !*muted.borrow() {
                to_server.write_all(&heard[..length]).await?;
            }
        }
    };
    let listening = async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    cut.run_until_cancelled(async { tokio::join!(speaking, listening) })
        .await;
}
