//! Pseudonyms of accounts in lotteries.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::lottery::Entry;
use domain::{AccountId, EventId};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::keys::SecretKeys;

/// Keyed pseudonyms of accounts. Account ids are small numbers, so an unkeyed hash would be
/// reversed by trying all.
#[derive(Clone)]
pub(super) struct EntryNames {
    /// Identifies the key among those of other secrets.
    pub(super) id: String,
    mac: Hmac<Sha256>,
}

impl EntryNames {
    pub(super) fn derive(secret: &SecretKeys) -> Self {
        let id = secret.expand("use:lottery-entry:key-id");
        let id = URL_SAFE_NO_PAD.encode(&id[..9]);
        Self::new(id, &secret.expand("use:lottery-entry"))
    }

    fn new(id: String, key: &[u8; 32]) -> Self {
        Self {
            id,
            mac: Hmac::new_from_slice(key).expect("HMAC takes keys of any length"),
        }
    }

    pub(super) fn of(&self, event_id: EventId, account_id: AccountId) -> Entry {
        let mut mac = self.mac.clone();
        mac.update(&event_id.0.to_be_bytes());
        mac.update(&account_id.0.to_be_bytes());
        let bytes = mac.finalize().into_bytes();
        Entry(
            bytes[..Entry::BYTES]
                .try_into()
                .expect("a prefix of 32 bytes"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_by_key_event_and_account() {
        let name = |key: u8, event, account| {
            EntryNames::new(String::new(), &[key; 32]).of(EventId(event), AccountId(account))
        };
        let all = [
            name(1, 1, 1),
            name(2, 1, 1),
            name(1, 2, 1),
            name(1, 1, 2),
            name(1, 1, -1),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one));
        }
        assert_eq!(name(1, 1, 1), all[0]);
    }
}
