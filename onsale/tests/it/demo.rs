//! The demo ends when nothing is left for those who wait, and leaves nothing on the servers.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use platform::amqp::{Broker, dead_letters};
use platform::testing::eventually;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Mutex;

use crate::commands::Watching;
use crate::system::server;

const SOON: Duration = Duration::from_secs(60);
/// Exit status of an interrupted command.
const INTERRUPTED: i32 = 130;

/// Held by each test: the database of a demo is the one that was not there before.
static ONE_DEMO: Mutex<()> = Mutex::const_new(());

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
    let _one = ONE_DEMO.lock().await;
    let before = databases().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    command
        .args(["demo", "--seats", "50", "--buyers", "500", "--rate", "60"])
        .env("ONSALE_LOG", "error")
        .stdin(Stdio::null());
    let mut demo = Watching::start(command);
    // The sale is under way.
    demo.until("  steer it");
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
    assert!(said.contains("interrupted: removing"), "{said}");
    assert!(!said.contains("left behind"), "{said}");
    assert!(!databases().await.contains(&its[0]));
    assert!(!has_queues(run).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_ends_before_the_last_poll_accounts_for_everybody_and_fits_eighty_columns() {
    const BUYERS: u64 = 150;
    let _one = ONE_DEMO.lock().await;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    command
        .args(["demo", "--seats", "20", "--buyers", &BUYERS.to_string()])
        .args(["--rate", "600", "--exit", "--json"])
        .arg(&file)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let wide = said.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "{said}");
    assert!(
        said.trim_end().ends_with("at rest: nothing in flight"),
        "{said}"
    );

    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let fates = report["fates"].as_object().unwrap();
    let counted: u64 = fates.values().filter_map(Value::as_u64).sum();
    assert_eq!(counted, BUYERS, "{fates:?}");
    let waiting = fates["waiting"].as_u64();
    assert!(waiting > Some(0), "it waited for the last poll: {fates:?}");
    assert_eq!(report["audit"]["totals"]["sold"], 20, "{said}");
    let has_zeros = report["funnel"].get("signed_up").is_some();
    assert!(
        !has_zeros && report["latencies"].get("sign_up").is_none(),
        "{report}"
    );
}
