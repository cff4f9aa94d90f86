//! Ticket codes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;
use rand::rngs::OsRng;

/// 128 bits from the operating system: a code can't be guessed.
pub(crate) fn new_code() -> String {
    let mut bits = [0; 16];
    OsRng
        .try_fill_bytes(&mut bits)
        .expect("the operating system has randomness");
    URL_SAFE_NO_PAD.encode(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_differ_and_fit_in_an_address() {
        let (one, other) = (new_code(), new_code());
        assert_ne!(one, other);
        assert_eq!(one.len(), 22);
        assert!(
            one.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }
}
