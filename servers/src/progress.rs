//! Progress messages for the user.

use std::io::{Write, stderr};

/// Writes a line to the standard error stream, where it does not mix with a command's output.
pub fn say(line: &str) {
    // Nobody reads it any more if this fails; that is no reason to stop.
    let _ = writeln!(stderr(), "servers: {line}");
}
