use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use stand_ins::mail::{Config, StandIn};
use tokio::io::{self, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::*;

const MAIL: &[u8] = b"Subject: one\r\n\r\n1\r\n";

fn envelope() -> Envelope {
    let from = "tickets@onsale.test".parse().unwrap();
    let to = "ada@buyers.test".parse().unwrap();
    Envelope::new(Some(from), vec![to]).unwrap()
}

fn server(url: String) -> MailServer {
    let address = ServerAddress::parse(&url.into()).unwrap();
    MailServer::new(address, ClientId::Domain("shop.test".into()), 1)
}

async fn announce(url: String) -> Result<Dialogue, DeliveryOutcome> {
    server(url).announce(&envelope(), true).await
}

async fn send(url: String) -> DeliveryOutcome {
    server(url).send(&envelope(), MAIL, None).await
}

/// Sends a mail that does not reach the server; returns the reason.
async fn send_in_vain(url: String) -> String {
    match send(url).await {
        DeliveryOutcome::Unreachable(error) => error,
        outcome => panic!("{outcome:?}"),
    }
}

/// Certificates in a folder of their own.
struct Folder(PathBuf);

impl Folder {
    /// An authority, `ca.pem`, and a certificate of it for 127.0.0.1.
    fn of_new_authority() -> Self {
        let folder = Self(std::env::temp_dir().join(format!("onsale-smtp-{}", Uuid::new_v4())));
        std::fs::create_dir(&folder.0).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        folder.openssl(&format!(
            "req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
        ));
        folder.openssl(&format!(
            "req {key} -subj /CN=server -keyout server.key -out server.csr"
        ));
        std::fs::write(folder.path("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        folder.openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out server.pem",
        );
        folder
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn openssl(&self, arguments: &str) {
        let made = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("openssl is installed");
        assert!(made.success(), "openssl {arguments}");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A mail server that takes no mail before STARTTLS: it ends TLS in front of a stand-in.
struct Encrypting {
    at: SocketAddr,
    inner: StandIn,
    handshakes: Arc<AtomicUsize>,
}

impl Encrypting {
    async fn start(folder: &Folder) -> Self {
        let read = |file: &Path| std::fs::read(file).unwrap();
        let chain = CertificateDer::from_pem_slice(&read(&folder.path("server.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read(&folder.path("server.key"))).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = StandIn::start(Config::default()).await.unwrap();
        let server = Self {
            at: listener.local_addr().unwrap(),
            handshakes: Arc::default(),
            inner,
        };
        let (handshakes, inner) = (Arc::clone(&server.handshakes), server.inner.smtp_address());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, handshakes) = (acceptor.clone(), Arc::clone(&handshakes));
                tokio::spawn(async move {
                    // A client that does not trust the certificate breaks the connection.
                    let _ = serve(client, acceptor, &handshakes, inner).await;
                });
            }
        });
        server
    }

    fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }
}

async fn serve(
    client: TcpStream,
    acceptor: TlsAcceptor,
    handshakes: &AtomicUsize,
    inner: SocketAddr,
) -> io::Result<()> {
    let (mut client, mut line) = (BufReader::new(client), String::new());
    client.write_all(b"220 localhost ESMTP\r\n").await?;
    loop {
        line.clear();
        client.read_line(&mut line).await?;
        let answer: &[u8] = match line.trim_end().split(' ').next() {
            Some("") | None => return Ok(()),
            Some("EHLO") => b"250-localhost\r\n250 STARTTLS\r\n",
            Some("STARTTLS") => break,
            Some(_) => b"530 Must issue a STARTTLS command first\r\n",
        };
        client.write_all(answer).await?;
    }
    client.write_all(b"220 Go ahead\r\n").await?;
    let mut client = acceptor.accept(client.into_inner()).await?;
    handshakes.fetch_add(1, Ordering::SeqCst);
    let mut inner = BufReader::new(TcpStream::connect(inner).await?);
    // The client was greeted already.
    inner.read_line(&mut line).await?;
    io::copy_bidirectional(&mut client, &mut inner).await?;
    Ok(())
}

#[tokio::test]
async fn a_password_is_not_sent_in_clear_unless_the_operator_says_so() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let at = server.smtp_address();
    assert_eq!(
        send(format!("smtp://{at}")).await,
        DeliveryOutcome::Accepted
    );
    let error = send_in_vain(format!("smtp://me:hush@{at}")).await;
    assert!(error.contains("offers no TLS"), "{error}");
    let error = send_in_vain(format!("smtp://me:hush@{at}?tls=none")).await;
    assert!(error.contains("authentication mechanism"), "{error}");
}

#[tokio::test]
async fn a_server_with_a_certificate_of_ones_own_authority_gets_its_mail_encrypted() {
    let folder = Folder::of_new_authority();
    platform::tls::trust(Some(&folder.path("ca.pem"))).unwrap();
    let server = Encrypting::start(&folder).await;
    let at = server.at;
    let required = send(format!("smtp://{at}?tls=required")).await;
    assert_eq!(required, DeliveryOutcome::Accepted);
    let offered = send(format!("smtp://{at}")).await;
    assert_eq!(offered, DeliveryOutcome::Accepted);
    assert_eq!((server.handshakes(), server.inner.inbox().len()), (2, 2));
    // The stand-in behind knows nobody, so a password got as far as the encrypted sign-in.
    let error = send_in_vain(format!("smtp://me:hush@{at}")).await;
    assert!(error.contains("authentication mechanism"), "{error}");
    assert_eq!(server.handshakes(), 3);
}

#[tokio::test]
async fn a_server_whose_certificate_is_not_trusted_gets_neither_mail_nor_password() {
    let server = Encrypting::start(&Folder::of_new_authority()).await;
    let at = server.at;
    for url in [
        format!("smtp://{at}?tls=required"),
        format!("smtp://me:hush@{at}?tls=required"),
        format!("smtp://me:hush@{at}"),
    ] {
        let error = send_in_vain(url).await;
        assert!(
            error.contains("invalid peer certificate") && error.contains("ONSALE_CA_FILE"),
            "{error}"
        );
        assert!(!error.contains("hush"), "{error}");
    }
    assert!(server.inner.inbox().is_empty());
    assert_eq!(server.handshakes(), 0);
    // Without either, encrypted to somebody unknown is better than not encrypted.
    assert_eq!(
        send(format!("smtp://{at}")).await,
        DeliveryOutcome::Accepted
    );
    assert_eq!(server.handshakes(), 1);
}

#[tokio::test]
async fn a_server_without_starttls_gets_no_mail_where_the_url_demands_it() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let error = send_in_vain(format!("smtp://{}?tls=required", server.smtp_address())).await;
    assert!(error.contains("STARTTLS"), "{error}");
    assert!(server.inbox().is_empty());
}

#[tokio::test]
async fn two_mails_on_one_connection_need_no_greeting_between() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let mut dialogue = announce(format!("smtp://{}", server.smtp_address()))
        .await
        .unwrap_or_else(|outcome| panic!("{outcome:?}"));
    let (outcome, is_usable) = dialogue.hand_over(MAIL).await;
    assert_eq!((outcome, is_usable), (DeliveryOutcome::Accepted, true));
    assert!(dialogue.announce(&envelope(), true).await.is_ok());
    let (outcome, _) = dialogue.hand_over(b"Subject: two\r\n\r\n2\r\n").await;
    assert_eq!(outcome, DeliveryOutcome::Accepted);
    assert_eq!(server.inbox().len(), 2);
}
