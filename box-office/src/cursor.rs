//! Keyset pagination: an opaque cursor encodes the sort key of the last row returned, so pages stay
//! consistent while rows are inserted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use platform::problem::Problem;

use crate::fields::invalid;

/// A sort key of `N` integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor<const N: usize>(pub(crate) [i64; N]);

impl<const N: usize> Cursor<N> {
    /// Encodes the key as URL-safe base64.
    pub(crate) fn encode(self) -> String {
        let bytes: Vec<u8> = self.0.iter().flat_map(|part| part.to_be_bytes()).collect();
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Decodes the output of [`Cursor::encode`].
    ///
    /// # Errors
    /// `invalid` for any other text.
    pub(crate) fn decode(text: &str) -> Result<Self, Problem> {
        Self::parts(text).ok_or_else(|| {
            invalid(
                "cursor",
                "Must be a next_cursor of this listing, or absent.",
            )
        })
    }

    fn parts(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (parts, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        let parts: Vec<i64> = parts.iter().map(|part| i64::from_be_bytes(*part)).collect();
        parts.try_into().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back() {
        for parts in [[0, 1], [i64::MAX, i64::MIN], [-5, 77]] {
            assert_eq!(
                Cursor::decode(&Cursor(parts).encode()).unwrap(),
                Cursor(parts)
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "x",
            "AAAA",
            "!!",
            &Cursor([1]).encode(),
            &Cursor([1, 2, 3]).encode(),
        ] {
            assert!(
                Cursor::<2>::decode(text).is_err(),
                "{text:?} passed for a cursor"
            );
        }
    }
}
