//! Servers whose certificate comes from an authority of one's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use platform::testing::{eventually, free_port};
use platform::{redis, tls};

const SOON: Duration = Duration::from_secs(30);

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let made = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(made.success(), "openssl {arguments}");
}

/// An authority, and a certificate of it for 127.0.0.1.
fn certificates(folder: &Path) {
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
    );
    openssl(
        folder,
        "req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr",
    );
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        folder,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
         -extfile names -out server.pem",
    );
}

#[tokio::test]
async fn a_redis_with_a_certificate_of_ones_own_authority_is_reached() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name = format!("onsale-tls-{:016x}", rand::random::<u64>());
    let folder = Folder(std::env::temp_dir().join(name));
    std::fs::create_dir(&folder.0).unwrap();
    certificates(&folder.0);
    let port = free_port();
    let options = format!(
        "--port 0 --tls-port {port} --bind 127.0.0.1 --save  --appendonly no --tls-auth-clients no \
         --tls-cert-file server.pem --tls-key-file server.key --tls-ca-cert-file ca.pem"
    );
    let server = Command::new("redis-server")
        .args(options.split(' '))
        .current_dir(&folder.0)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let _server = Running(server);

    tls::trust(Some(&folder.0.join("ca.pem"))).unwrap();
    let url = format!("rediss://127.0.0.1:{port}/");
    let redis = redis::connect(&url.into()).unwrap();
    eventually(SOON, async || redis.ping().await.is_ok()).await;
}
