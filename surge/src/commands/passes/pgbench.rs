//! The baseline of claims: PostgreSQL alone, running a claim's statements by pgbench.

use std::path::Path;

use anyhow::{Context as _, ensure};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::process::Command;

/// The transaction of a batch as admission runs it. Every claim is of a new place and is granted.
const SCRIPT: &str = include_str!("claims.sql");

/// Returns the claims a second of one connection, in batches of `batch`.
pub(super) async fn claims_per_second(
    pgbench: &Path,
    database: &SecretString,
    batch: u32,
    seconds: u32,
) -> anyhow::Result<f64> {
    let folder = std::env::temp_dir().join(format!("surge-{:016x}", rand::random::<u64>()));
    std::fs::create_dir_all(&folder)?;
    let script = folder.join("claims.sql");
    std::fs::write(&script, SCRIPT)?;
    let output = Command::new(pgbench)
        .args(["--no-vacuum", "--protocol=prepared", "--client=1"])
        .arg(format!("--time={seconds}"))
        .arg(format!("--define=batch={batch}"))
        .arg(format!("--file={}", script.display()))
        .arg(database.expose_secret())
        .output()
        .await;
    std::fs::remove_dir_all(&folder)?;
    let output = output.with_context(|| {
        format!(
            "starting {}; it comes with PostgreSQL, --pgbench says where it is",
            pgbench.display()
        )
    })?;
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "pgbench: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(transactions_per_second(&shown)? * f64::from(batch))
}

fn transactions_per_second(report: &str) -> anyhow::Result<f64> {
    report
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|figure| figure.parse().ok())
        .context("pgbench says no tps")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_the_report() {
        let report = "latency average = 1.0 ms\ntps = 812.25 (without initial connection time)\n";
        let read = transactions_per_second(report).unwrap();
        assert!((read - 812.25).abs() < f64::EPSILON);
        assert!(transactions_per_second("pgbench: error").is_err());
    }
}
