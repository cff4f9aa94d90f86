//! A demo that is interrupted leaves nothing on the servers.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::process::{Command, Stdio};
use std::time::Duration;

use platform::amqp::{Broker, dead_letters};
use platform::testing::eventually;
use sqlx::{Connection as _, PgConnection};

use crate::commands::Watching;
use crate::system::server;

const SOON: Duration = Duration::from_secs(60);
/// Exit status of an interrupted command.
const INTERRUPTED: i32 = 130;

/// The databases of demos.
async fn databases() -> Vec<String> {
    let mut connection = PgConnection::connect(&server("ONSALE_DATABASE_URL").unwrap())
        .await
        .unwrap();
    sqlx::query_scalar("select datname::text from pg_database where datname like 'onsale_demo_%'")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

async fn has_queues(run: &str) -> bool {
    let namespace = format!("demo{run}");
    let broker = Broker::lazy(&server("ONSALE_AMQP_URL").unwrap(), &namespace).unwrap();
    broker.ping().await.unwrap();
    let has_queues = dead_letters::count(&broker, "notifier.notices")
        .await
        .is_ok();
    broker.close().await;
    has_queues
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_leaves_neither_its_database_nor_its_queues() {
    let before = databases().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    command
        .args(["demo", "--seats", "50", "--buyers", "500", "--rate", "60"])
        .env("ONSALE_LOG", "error")
        .stdin(Stdio::null());
    let mut demo = Watching::start(command);
    // The sale is under way.
    demo.until("  by hand");
    let its = databases().await.into_iter();
    let its: Vec<_> = its.filter(|name| !before.contains(name)).collect();
    assert_eq!(its.len(), 1, "{its:?}");
    let run = its[0].strip_prefix("onsale_demo_").unwrap();
    eventually(SOON, async || has_queues(run).await).await;

    let id = demo.child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert!(sent.success());
    eventually(SOON, async || demo.child.try_wait().unwrap().is_some()).await;
    let said = demo.lines.iter().collect::<Vec<_>>().join("\n");
    let ended = demo.child.wait().unwrap();
    assert_eq!(ended.code(), Some(INTERRUPTED), "{said}");
    assert!(said.contains("interrupted; cleaning up"), "{said}");
    assert!(!said.contains("left behind"), "{said}");
    assert!(!databases().await.contains(&its[0]));
    assert!(!has_queues(run).await);
}
