//! The participants of a lottery, under pseudonyms that reveal nothing to others.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{EventId, Number};

/// A participant's pseudonym in one lottery, also in their queue token. It can't be linked to an
/// account without a key that only the servers have. As text, 22 characters of base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry(pub [u8; Entry::BYTES]);

/// Text that is no [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry is 22 characters of base64url")]
pub struct EntryError;

impl Entry {
    /// Length in bytes.
    pub const BYTES: usize = 16;
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| EntryError)?;
        bytes.try_into().map(Self).map_err(|_| EntryError)
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Commits to the holder of each number: SHA-256 of these bytes, numbers as 8 bytes with the
/// highest first:
///
/// 1. the ASCII text `onsale lottery entries`,
/// 2. the event's id, and how many numbers take part,
/// 3. for each number that somebody holds, in order: the number, and the 16 bytes of its entry.
#[derive(Debug, Clone)]
pub struct EntriesDigest {
    hash: Sha256,
    last: i64,
}

impl EntriesDigest {
    /// Starts the digest of `event_id`'s lottery of the numbers `1..=lobby`.
    #[must_use]
    pub fn new(event_id: EventId, lobby: i64) -> Self {
        let hash = Sha256::new()
            .chain_update(b"onsale lottery entries")
            .chain_update(event_id.0.to_be_bytes())
            .chain_update(lobby.to_be_bytes());
        Self { hash, last: 0 }
    }

    /// Adds the next entry.
    ///
    /// # Panics
    /// When its number is not after the last.
    pub fn add(&mut self, number: Number, entry: Entry) {
        assert!(number.0 > self.last, "numbers come in order");
        self.last = number.0;
        self.hash.update(number.0.to_be_bytes());
        self.hash.update(entry.0);
    }

    /// The digest.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(entries: &[(i64, u8)]) -> [u8; 32] {
        let mut digest = EntriesDigest::new(EventId(7), 9);
        for (number, name) in entries {
            digest.add(Number(*number), Entry([*name; 16]));
        }
        digest.finish()
    }

    #[test]
    fn the_digest_is_that_of_the_bytes_it_promises() {
        let mut bytes = b"onsale lottery entries".to_vec();
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([4; 16]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 3]);
        bytes.extend([5; 16]);
        assert_eq!(digest(&[(1, 4), (3, 5)]), Sha256::digest(bytes)[..]);
    }

    #[test]
    fn every_change_of_an_entry_changes_the_digest() {
        let all = [
            digest(&[(1, 4), (3, 5)]),
            digest(&[(1, 5), (3, 4)]),
            digest(&[(1, 4), (2, 5)]),
            digest(&[(1, 4)]),
            digest(&[(1, 4), (2, 4), (3, 5)]),
            digest(&[]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
    }

    #[test]
    fn an_entry_is_read_as_it_is_written() {
        let entry = Entry(std::array::from_fn(|at| 0xf0 + u8::try_from(at).unwrap()));
        let json = serde_json::to_string(&entry).unwrap();
        assert_eq!(json.len(), 24);
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry);
        for text in ["", "AAAA", "not base64!!", "AAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(text.parse::<Entry>(), Err(EntryError), "{text}");
        }
    }
}
