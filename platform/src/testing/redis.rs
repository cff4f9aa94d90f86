use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{eventually, free_port};
use crate::redis::{self, Redis};

const START_LIMIT: Duration = Duration::from_secs(60);

/// A Redis of the test's own, for states that the other tests must not see. It ends when it is
/// dropped.
#[derive(Debug)]
pub struct OwnRedis {
    server: Child,
    folder: PathBuf,
    url: String,
}

impl OwnRedis {
    /// The commands that make it answer and refuse writes, each with the one that ends it: as a
    /// replica, and as a server out of memory, which needs `--maxmemory-policy noeviction`.
    pub const REFUSING_WRITES: [[&[&str]; 2]; 2] = [
        [
            &["REPLICAOF", "127.0.0.1", "1"],
            &["REPLICAOF", "NO", "ONE"],
        ],
        [
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
        ],
    ];

    /// Starts `redis-server` with `options`, such as `["--cluster-enabled", "yes"]`.
    ///
    /// # Panics
    /// When it is not installed, or does not answer within a minute.
    pub async fn start(options: &[&str]) -> Self {
        let name = format!("onsale-redis-{:016x}", rand::random::<u64>());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        let port = free_port();
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .args(options)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let own = Self {
            server,
            folder,
            url: format!("redis://127.0.0.1:{port}/"),
        };
        let redis = own.connect();
        eventually(START_LIMIT, async || redis.ping().await.is_ok()).await;
        own
    }

    /// The server's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Connects to the server.
    ///
    /// # Panics
    /// Never: the URL is one.
    #[must_use]
    pub fn connect(&self) -> Redis {
        redis::connect(&self.url.clone().into()).expect("a Redis URL")
    }

    /// Runs a command of operators, such as `["CONFIG", "SET", "maxmemory", "1"]`.
    ///
    /// # Panics
    /// When it fails.
    pub async fn command(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let outcome: ::redis::RedisResult<()> = command.query_async(&mut self.connect()).await;
        outcome.expect("Redis takes the command");
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
