//! Random text for passwords and cookies, and random ports.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

/// 32 hexadecimal digits (128 bits) from the system's generator.
pub(crate) fn secret() -> Result<String> {
    let bytes: [u8; 16] = bytes()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A number below `bound`.
pub(crate) fn below(bound: u16) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes()?) % bound)
}

fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes)
}
