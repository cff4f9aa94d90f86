//! Bytes as lower-case hexadecimal.

use std::fmt::Write as _;

/// The text of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

/// The bytes that `text` is the one spelling of; `None` for anything else.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 2 * N || !text.bytes().all(is_digit) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16);
    Some(std::array::from_fn(|at| {
        byte(at).expect("two hexadecimal digits")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_spelling() {
        assert_eq!(encode(&[0, 0x0f, 0xa5, 0xff]), "000fa5ff");
        assert_eq!(decode("000fa5ff"), Some([0, 0x0f, 0xa5, 0xff]));
        for text in [
            "000FA5FF",
            "000fa5f",
            "000fa5ff00",
            "000fa5fg",
            "+00fa5ff",
            "0é0fa5f",
        ] {
            assert_eq!(decode::<4>(text), None, "{text}");
        }
    }
}
