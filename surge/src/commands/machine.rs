//! Resource use of processes, from `/proc`, and the class of the machine.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;

/// Unit of processor time in `/proc`, on every Linux platform.
const TICK: Duration = Duration::from_millis(10);

/// Returns the processor time used by process `pid`.
pub(super) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may contain spaces.
    let fields = stat.rsplit_once(") ").context("no process name")?.1;
    let mut fields = fields.split(' ').skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u32>().ok());
    let (user, system) = (
        ticks().context("user time")?,
        ticks().context("system time")?,
    );
    Ok(TICK * (user + system))
}

/// Returns the resident memory of process `pid`, in bytes.
pub(super) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .and_then(|value| value.parse().ok())
        .context("no VmRSS")?;
    Ok(kilobytes * 1024)
}

/// Describes the machine: number of cores and processor model.
pub(super) fn class() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut class = format!("{cores} cores");
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'));
    if let Some((_, model)) = model {
        // Writing to a String does not fail.
        let _ = write!(class, " ({})", model.trim());
    }
    class
}
