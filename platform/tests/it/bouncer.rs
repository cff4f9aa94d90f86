//! PostgreSQL behind PgBouncer.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use platform::config::{InvalidConfig, PlatformConfig};
use platform::pg;
use platform::service::{Routes, launch};
use platform::testing::{TestApp, eventually, free_port};
use secrecy::ExposeSecret;
use url::Url;

const SOON: Duration = Duration::from_secs(30);

/// A private PgBouncer in front of the test's server.
struct Bouncer {
    process: Child,
    folder: PathBuf,
    url: String,
}

impl Bouncer {
    async fn start(app: &TestApp, mode: &str) -> Self {
        let mut url = Url::parse(app.ctx.config.database_url.expose_secret()).unwrap();
        let port = free_port();
        let password = url.password().unwrap_or_default().to_owned();
        let settings = format!(
            "[databases]\n* = host={} port={} user={} password={password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n\
             unix_socket_dir =\npool_mode = {mode}\n",
            url.host_str().unwrap(),
            url.port().unwrap_or(5432),
            url.username(),
        );
        let folder = std::env::temp_dir().join(format!("bouncer-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new("pgbouncer");
        if nix::unistd::Uid::effective().is_root() {
            // It refuses to be root.
            command.args(["-u", "nobody"]);
        }
        let process = command
            .arg(&file)
            .env(
                "PATH",
                format!("{}:/usr/sbin", std::env::var("PATH").unwrap()),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer is installed: `apt-get install pgbouncer`");
        url.set_ip_host("127.0.0.1".parse().unwrap()).unwrap();
        url.set_port(Some(port)).unwrap();
        let bouncer = Self {
            process,
            folder,
            url: url.into(),
        };
        eventually(SOON, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
        bouncer
    }

    fn config(&self, app: &TestApp) -> PlatformConfig {
        let mut config = PlatformConfig::clone(&app.ctx.config);
        config.database_url = self.url.clone().into();
        config
    }
}

/// Returns whether PgBouncer is installed. Where everything must pass it has to be.
fn is_installed() -> bool {
    let is_there = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .chain([PathBuf::from("/usr/sbin")])
        .any(|folder| folder.join("pgbouncer").exists());
    assert!(
        is_there || std::env::var_os("CI").is_none(),
        "pgbouncer is not installed"
    );
    if !is_there {
        use std::io::Write as _;
        writeln!(
            std::io::stderr().lock(),
            "SKIPPED: pgbouncer is not installed"
        )
        .unwrap();
    }
    is_there
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn sessions_behind_a_pooler_have_their_limits() {
    if !is_installed() {
        return;
    }
    let app = TestApp::start().await;
    let bouncer = Bouncer::start(&app, "session").await;
    let config = bouncer.config(&app);
    let launched = launch("test", config, async |_| Ok(Routes::default()));
    let running = Box::pin(launched).await.unwrap();
    let limit: String = sqlx::query_scalar("select current_setting('statement_timeout')")
        .fetch_one(&running.ctx.db)
        .await
        .unwrap();
    assert_eq!(limit, "15s");
    running.stop().await.unwrap();
    app.finish().await;
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_is_refused_with_the_reason() {
    if !is_installed() {
        return;
    }
    let app = TestApp::start().await;
    let bouncer = Bouncer::start(&app, "transaction").await;
    let config = bouncer.config(&app);
    let launched = launch("test", config, async |_| Ok(Routes::default()));
    let refused = Box::pin(launched).await.unwrap_err();
    assert!(refused.is::<InvalidConfig>(), "{refused:#}");
    assert!(refused.to_string().contains("pool_mode=session"));
    // The refusal is the check's, and not some failure on the way.
    let pool = pg::connect(&bouncer.url, 2, "test").await.unwrap();
    let shared = pg::check_sessions(&pool).await.unwrap_err();
    assert!(
        matches!(shared, pg::PoolerError::SharedSessions),
        "{shared}"
    );
    app.finish().await;
}
