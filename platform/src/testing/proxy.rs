use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A TCP proxy whose connections can be cut.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<CancellationToken>>,
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
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cut = current
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                tokio::spawn(forward(client, target.clone(), cut));
            }
        });
        Self {
            address,
            connections,
            accepting,
        }
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection; new ones are forwarded again.
    pub fn cut(&self) {
        let mut current = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        current.cancel();
        *current = CancellationToken::new();
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

async fn forward(mut client: TcpStream, target: String, cut: CancellationToken) {
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return;
    };
    cut.run_until_cancelled(copy_bidirectional(&mut client, &mut server))
        .await;
}
