//! The example configuration for nginx, in a real nginx.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::any;
use platform::testing::eventually;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};

use crate::guard::{
    NEW, Publisher, SALE, Verifier, example, others_go_to_the_waiting_room, pass, ring,
};
use crate::system::free_address;

/// A running nginx; dropping it stops it and removes its files.
pub(crate) struct Nginx {
    process: Child,
    dir: PathBuf,
    address: SocketAddr,
}

impl Nginx {
    /// Starts the example with other addresses and a folder of its own.
    fn guard(program: &Path, shop: SocketAddr, verifier: &str) -> Self {
        let address = free_address();
        let replaced = [
            ("127.0.0.1:3000", shop.to_string()),
            ("127.0.0.1:9200", verifier.to_owned()),
            ("listen 8000", format!("listen {address}")),
        ];
        let mut config = fs::read_to_string(example("nginx.conf")).unwrap();
        for (from, to) in replaced {
            assert!(config.contains(from), "the example has no {from}");
            config = config.replace(from, &to);
        }
        Self::start(program, address, &config)
    }

    /// Starts with this configuration, which listens on `address`.
    pub(crate) fn start(program: &Path, address: SocketAddr, config: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("onsale-nginx-{:016x}", rand::random::<u64>()));
        fs::create_dir_all(&dir).unwrap();
        let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {}/{name};\n", dir.display()))
            .collect();
        let mut config =
            config.replacen("http {", &format!("http {{\naccess_log off;\n{folders}"), 1);
        config.insert_str(
            0,
            &format!("pid {}/nginx.pid;\ndaemon off;\n", dir.display()),
        );
        let path = dir.join("nginx.conf");
        fs::write(&path, config).unwrap();
        let process = Command::new(program)
            .arg("-p")
            .arg(&dir)
            .arg("-c")
            .arg(&path)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process,
            dir,
            address,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM also ends its workers, which SIGKILL would not.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn program() -> Option<PathBuf> {
    ["nginx", "/usr/sbin/nginx"]
        .into_iter()
        .map(PathBuf::from)
        .find(|program| {
            let shown = Command::new(program).arg("-V").output();
            shown.is_ok_and(|shown| {
                String::from_utf8_lossy(&shown.stderr).contains("http_auth_request_module")
            })
        })
}

/// Starts a site that echoes the account, the host and the body of a request.
pub(crate) async fn shop() -> SocketAddr {
    let answer = async |headers: HeaderMap, body: String| {
        let shown = |name| {
            headers
                .get(name)
                .map_or("", |value| value.to_str().unwrap())
        };
        format!("{} {} {body}", shown("onsale-account"), shown("host"))
    };
    let routes = Router::new().route("/", any(answer));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_lets_in_good_passes_and_sends_others_to_the_waiting_room() {
    let program = program().expect("`./dev test` installs nginx");
    let keys = ring(&[NEW]);
    let publisher = Publisher::start(&keys).await;
    let jwks = format!("{}/.well-known/jwks.json", publisher.url);
    let verifier = Verifier::start(&["--jwks", &jwks]).unwrap();
    let verifier_address = verifier.url.trim_start_matches("http://");
    let nginx = Nginx::guard(&program, shop().await, verifier_address);
    let client = Client::builder().redirect(Policy::none()).build().unwrap();
    let url = format!("http://{}/", nginx.address);
    eventually(Duration::from_secs(60), async || {
        client.get(&url).send().await.is_ok()
    })
    .await;

    let good = pass(&keys, SALE, 600);
    let with_cookie = client
        .post(&url)
        .header("cookie", format!("onsale_pass={good}"));
    let with_header = client.post(&url).header("onsale-pass", &good);
    for request in [with_cookie, with_header] {
        let request = request
            .header("onsale-account", "1")
            .header("host", "shop.example")
            .body("an order");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.text().await.unwrap(), "7 shop.example an order");
    }

    others_go_to_the_waiting_room(&client, &url, &keys, &publisher).await;
    let verifier_itself = format!("{url}_pass");
    let hidden = client.get(verifier_itself).header("onsale-pass", &good);
    assert_eq!(hidden.send().await.unwrap().status(), StatusCode::NOT_FOUND);
}
