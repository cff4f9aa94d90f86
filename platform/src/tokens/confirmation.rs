//! Codes that confirm an address: six digits of an HMAC, so that neither a message nor a table has
//! to hold them.

use domain::AccountId;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

use super::KeyRing;
use super::keys::SecretKeys;

/// Codes are below this.
const CODES: u64 = 1_000_000;

/// The subject of a code.
#[derive(Debug, Clone, Copy)]
pub struct Confirmation<'a> {
    /// Random, for each code that is sent.
    pub nonce: Uuid,
    /// The account to be confirmed.
    pub account_id: AccountId,
    /// The mail address, or the phone number.
    pub address: &'a str,
}

impl KeyRing {
    /// The code to send to the address.
    #[must_use]
    pub fn confirmation_code(&self, confirmation: &Confirmation<'_>) -> String {
        code(&self.current, confirmation)
    }

    /// Returns whether `given` is the code that was sent, under any configured secret.
    #[must_use]
    pub fn is_confirmed_by(&self, confirmation: &Confirmation<'_>, given: &str) -> bool {
        self.secrets().any(|keys| code(keys, confirmation) == given)
    }
}

fn code(keys: &SecretKeys, confirmation: &Confirmation<'_>) -> String {
    let key = keys.expand("use:confirmation-code");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    mac.update(confirmation.nonce.as_bytes());
    mac.update(&confirmation.account_id.0.to_be_bytes());
    mac.update(confirmation.address.as_bytes());
    let digest = mac.finalize().into_bytes();
    let (first, _) = digest.split_first_chunk().expect("SHA-256 has 32 bytes");
    format!("{:06}", u64::from_be_bytes(*first) % CODES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secrets: &[&str]) -> KeyRing {
        let secrets: Vec<_> = secrets.iter().map(|secret| (*secret).into()).collect();
        KeyRing::new(&secrets).unwrap()
    }

    #[test]
    fn a_code_confirms_one_address_of_one_account_once_sent() {
        const OLD: &str = "0123456789abcdef0123456789abcdef";
        const NEW: &str = "fedcba9876543210fedcba9876543210";
        let sent = Confirmation {
            nonce: Uuid::from_u128(1),
            account_id: AccountId(7),
            address: "ada@example.org",
        };
        let code = keys(&[OLD]).confirmation_code(&sent);
        assert_eq!(code.len(), 6);
        assert!(code.bytes().all(|byte| byte.is_ascii_digit()));
        // A rotation in between does no harm.
        assert!(keys(&[NEW, OLD]).is_confirmed_by(&sent, &code));
        for other in [
            Confirmation {
                nonce: Uuid::from_u128(2),
                ..sent
            },
            Confirmation {
                account_id: AccountId(8),
                ..sent
            },
            Confirmation {
                address: "eve@example.org",
                ..sent
            },
        ] {
            assert!(!keys(&[OLD]).is_confirmed_by(&other, &code));
        }
    }
}
