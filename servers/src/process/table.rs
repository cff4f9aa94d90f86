//! The system's process table.

use super::ProcessId;

/// One entry.
pub(super) struct Row {
    pub(super) id: ProcessId,
    /// The parent's process id.
    pub(super) parent: u32,
    /// It has ended, but its parent has not yet asked how.
    pub(super) is_zombie: bool,
}

/// The entry of one process id.
#[cfg(target_os = "linux")]
pub(super) fn lookup(pid: u32) -> Option<Row> {
    parse(
        pid,
        &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
    )
}

/// Every process that can be seen; nothing if the table cannot be read.
#[cfg(target_os = "linux")]
pub(super) fn all() -> Vec<Row> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| lookup(name.parse().ok()?))
        .collect()
}

/// Reads a line of `/proc/PID/stat`. The name in parentheses may itself hold spaces and
/// parentheses, so the fields are counted from the last one that closes.
#[cfg(target_os = "linux")]
fn parse(pid: u32, stat: &str) -> Option<Row> {
    const STATE: usize = 0;
    const PARENT: usize = 1;
    const START_TIME: usize = 19;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Row {
        id: ProcessId {
            pid,
            started: (*fields.get(START_TIME)?).to_owned(),
        },
        parent: fields.get(PARENT)?.parse().ok()?,
        is_zombie: matches!(*fields.get(STATE)?, "Z" | "X"),
    })
}

/// The entry of one process id.
#[cfg(not(target_os = "linux"))]
pub(super) fn lookup(pid: u32) -> Option<Row> {
    ps(&["-p", &pid.to_string()]).pop()
}

/// Every process that can be seen; nothing if the table cannot be read.
#[cfg(not(target_os = "linux"))]
pub(super) fn all() -> Vec<Row> {
    ps(&["-A"])
}

#[cfg(not(target_os = "linux"))]
fn ps(selection: &[&str]) -> Vec<Row> {
    let output = std::process::Command::new("ps")
        .args(selection)
        .args(["-o", "pid=,ppid=,stat=,lstart="])
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default()
        .lines()
        .filter_map(parse_ps)
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn parse_ps(line: &str) -> Option<Row> {
    let mut fields = line.split_whitespace();
    let pid = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    let is_zombie = fields.next()?.starts_with('Z');
    let started = fields.collect::<Vec<_>>().join(" ");
    Some(Row {
        id: ProcessId { pid, started },
        parent,
        is_zombie,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) Z (b) S 3 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let row = parse(7, stat).unwrap();
        assert_eq!(
            row.id,
            ProcessId {
                pid: 7,
                started: "4242".to_owned()
            }
        );
        assert_eq!(row.parent, 3);
        assert!(!row.is_zombie);
    }
}
