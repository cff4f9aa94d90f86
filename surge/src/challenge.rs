//! Brute-force solver of the proof of work before joining (ALTCHA's protocol).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Solves `challenge` and returns the solution as it is sent; `None` when there is none. Blocks,
/// on one core.
#[must_use]
pub fn solve(challenge: &Value) -> Option<String> {
    let (salt, wanted) = (
        challenge["salt"].as_str()?,
        challenge["challenge"].as_str()?,
    );
    let number = search(salt, wanted, challenge["maxnumber"].as_u64()?)?;
    let solution = json!({
        "algorithm": challenge["algorithm"],
        "challenge": wanted,
        "number": number,
        "salt": salt,
        "signature": challenge["signature"],
    });
    Some(STANDARD.encode(solution.to_string()))
}

/// Finds the number in `0..=highest` whose hash, appended to `salt`, is `wanted`.
#[must_use]
pub fn search(salt: &str, wanted: &str, highest: u64) -> Option<u64> {
    let wanted = bytes_of(wanted)?;
    let salted = Sha256::new_with_prefix(salt);
    let mut digits = Digits::default();
    (0..=highest).find(|_| {
        let hash = salted.clone().chain_update(digits.text()).finalize();
        digits.count_up();
        hash[..] == wanted
    })
}

fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A decimal number incremented in place: formatting each would take as long as hashing it.
struct Digits {
    text: [u8; 20],
    start: usize,
}

impl Default for Digits {
    fn default() -> Self {
        Self {
            text: [b'0'; 20],
            start: 19,
        }
    }
}

impl Digits {
    fn text(&self) -> &[u8] {
        &self.text[self.start..]
    }

    fn count_up(&mut self) {
        let mut at = self.text.len() - 1;
        while self.text[at] == b'9' {
            self.text[at] = b'0';
            at -= 1;
        }
        self.text[at] += 1;
        self.start = self.start.min(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_count_as_numbers_do() {
        let mut digits = Digits::default();
        for number in 0..12_345_u32 {
            assert_eq!(digits.text(), number.to_string().as_bytes());
            digits.count_up();
        }
    }

    #[test]
    fn the_number_is_found() {
        let hash: String = Sha256::digest("salt&1234")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(search("salt&", &hash, 2_000), Some(1_234));
        assert_eq!(search("salt&", &hash, 1_000), None);
    }
}
