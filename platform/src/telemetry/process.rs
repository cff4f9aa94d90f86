//! Process metrics from `/proc`, under Prometheus' conventional names.

use std::fs;

use metrics::{counter, gauge};

use crate::files;

/// Clock ticks a second in `/proc`, which Linux fixes for programs.
const TICKS: u32 = 100;

/// Sets the gauges; does nothing where there is no `/proc`.
pub(super) fn measure() {
    gauge!("build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    if let Some(facts) = stat() {
        counter!("process_cpu_seconds_total").absolute(facts.cpu_seconds);
        gauge!("process_threads").set(facts.threads);
        if let Some(booted) = boot_time() {
            gauge!("process_start_time_seconds").set(booted + facts.begun_seconds);
        }
    }
    if let Some(kib) = status("VmRSS:") {
        gauge!("process_resident_memory_bytes").set(kib * 1024.0);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        let count = u32::try_from(files.count()).unwrap_or(u32::MAX);
        gauge!("process_open_fds").set(f64::from(count));
    }
    let limit = u32::try_from(files::max_open()).map_or(f64::INFINITY, f64::from);
    gauge!("process_max_fds").set(limit);
}

struct Stat {
    cpu_seconds: u64,
    threads: f64,
    /// Since the system's start.
    begun_seconds: f64,
}

fn stat() -> Option<Stat> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
    Some(Stat {
        cpu_seconds: u64::from((number(11)? + number(12)?) / TICKS),
        threads: f64::from(number(17)?),
        begun_seconds: f64::from(number(19)?) / f64::from(TICKS),
    })
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn status(key: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
