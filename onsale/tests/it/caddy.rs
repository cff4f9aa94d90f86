//! The example configuration for Caddy, in a real Caddy.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use platform::testing::eventually;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};

use crate::guard::{
    NEW, Publisher, SALE, Verifier, example, others_go_to_the_waiting_room, pass, ring,
};
use crate::nginx::shop;
use crate::system::free_address;

/// A running Caddy; dropping it stops it and removes its files.
struct Caddy {
    process: Child,
    files: PathBuf,
}

impl Caddy {
    fn start(config: &str) -> Self {
        let name = format!("onsale-caddy-{:016x}", rand::random::<u64>());
        let files = std::env::temp_dir().join(name);
        fs::create_dir_all(&files).unwrap();
        let path = files.join("Caddyfile");
        fs::write(&path, config).unwrap();
        let process = Command::new("caddy")
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(&path)
            .env("HOME", &files)
            .env("XDG_DATA_HOME", &files)
            .env("XDG_CONFIG_HOME", &files)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`./dev test` installs Caddy");
        Self { process, files }
    }
}

impl Drop for Caddy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        remove(&self.files);
    }
}

fn remove(files: &Path) {
    let _ = fs::remove_dir_all(files);
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_hands_on_the_account_of_a_good_pass_and_no_other() {
    let keys = ring(&[NEW]);
    let publisher = Publisher::start(&keys).await;
    let jwks = format!("{}/.well-known/jwks.json", publisher.url);
    let verifier = Verifier::start(&["--jwks", &jwks]).unwrap();
    let address = free_address();
    let mut config = fs::read_to_string(example("Caddyfile")).unwrap();
    for (from, to) in [
        (":8000 {", format!("http://{address} {{")),
        ("127.0.0.1:3000", shop().await.to_string()),
        (
            "127.0.0.1:9200",
            verifier.url.trim_start_matches("http://").to_owned(),
        ),
    ] {
        assert!(config.contains(from), "the example has no {from}");
        config = config.replace(from, &to);
    }
    let _caddy = Caddy::start(&format!("{{\n\tadmin off\n}}\n{config}"));
    let client = Client::builder().redirect(Policy::none()).build().unwrap();
    let url = format!("http://{address}/");
    eventually(Duration::from_secs(60), async || {
        client.get(&url).send().await.is_ok()
    })
    .await;

    let good = pass(&keys, SALE, 600);
    let answer = client
        .post(&url)
        .header("onsale-pass", &good)
        .header("onsale-account", "1")
        .body("an order")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let shown = answer.text().await.unwrap();
    assert!(
        shown.starts_with("7 ") && shown.ends_with(" an order"),
        "{shown}"
    );

    others_go_to_the_waiting_room(&client, &url, &keys, &publisher).await;
}
