//! Proof of work before joining, by ALTCHA's published protocol: the server hashes a salt and a
//! secret number, and the client finds the number by brute force. The challenge is stateless: it is
//! signed, and its salt contains the bearer and the expiry.

mod effort;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{AccountId, EventId};
use hmac::{Hmac, Mac};
use platform::limits::AddressGroup;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use effort::{Attempts, max_number};

/// Lifetime of a challenge.
pub const LIFE: TimeDelta = TimeDelta::seconds(120);
const ALGORITHM: &str = "SHA-256";
/// Bound on the size of a solution, far above that of a valid one.
const MAX_SOLUTION_BYTES: usize = 2_048;

/// The party to which a challenge is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bearer {
    /// The sale to join.
    pub event_id: EventId,
    /// The account; zero for any visitor.
    pub account_id: AccountId,
    /// The network of the request.
    pub group: AddressGroup,
}

impl fmt::Display for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            event_id,
            account_id,
            group,
        } = self;
        write!(f, "sale={event_id}&account={account_id}&group={group}")
    }
}

/// A challenge: find the number in `0..=maxnumber` whose hash, appended to `salt`, is `challenge`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Challenge {
    algorithm: String,
    challenge: String,
    maxnumber: u32,
    salt: String,
    signature: String,
}

/// A solved challenge, sent as JSON in base64.
#[derive(Debug, Deserialize)]
struct Solution {
    algorithm: String,
    challenge: String,
    number: u32,
    salt: String,
    signature: String,
}

/// Reason for refusing a solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSolution {
    /// Not base64, not JSON, or not of the protocol.
    #[error("the solution is malformed")]
    Malformed,
    /// Not signed with our key.
    #[error("the signature is invalid")]
    BadSignature,
    /// Bound to another sale, account or network.
    #[error("it was issued to somebody else")]
    NotYours,
    /// Past its lifetime.
    #[error("it has expired")]
    Expired,
    /// The number does not hash to the challenge.
    #[error("the number is wrong")]
    Wrong,
}

/// Issues and verifies challenges.
#[derive(Clone)]
pub struct Challenges {
    key: [u8; 32],
}

impl Challenges {
    /// Challenges signed with `key`.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// Issues a challenge to `bearer` with the secret `number`, at most `maxnumber`.
    #[must_use]
    pub fn issue(
        &self,
        bearer: Bearer,
        maxnumber: u32,
        number: u32,
        random: [u8; 12],
        now: DateTime<Utc>,
    ) -> Challenge {
        // Ends with a separator, so that digits can't be moved between salt and number.
        let salt = format!(
            "{}?expires={}&{bearer}&",
            hex(&random),
            (now + LIFE).timestamp()
        );
        let challenge = hash(&salt, number);
        Challenge {
            algorithm: ALGORITHM.to_owned(),
            signature: hex(&self.mac(&challenge).finalize().into_bytes()),
            challenge,
            maxnumber,
            salt,
        }
    }

    /// Verifies a solution and returns the challenge's id, which the caller must redeem once.
    ///
    /// # Errors
    /// The reason for refusing it.
    pub fn check(
        &self,
        solution: &str,
        bearer: Bearer,
        now: DateTime<Utc>,
    ) -> Result<String, InvalidSolution> {
        let solution = read(solution).ok_or(InvalidSolution::Malformed)?;
        let signature = unhex(&solution.signature).ok_or(InvalidSolution::Malformed)?;
        self.mac(&solution.challenge)
            .verify_slice(&signature)
            .map_err(|_| InvalidSolution::BadSignature)?;
        // The signature covers the hash, and the hash covers the salt.
        if hash(&solution.salt, solution.number) != solution.challenge {
            return Err(InvalidSolution::Wrong);
        }
        let (expires, holder) = solution
            .salt
            .split_once("?expires=")
            .and_then(|(_, rest)| rest.split_once('&'))
            .ok_or(InvalidSolution::Malformed)?;
        if holder != format!("{bearer}&") {
            return Err(InvalidSolution::NotYours);
        }
        let expires: i64 = expires.parse().map_err(|_| InvalidSolution::Malformed)?;
        if expires <= now.timestamp() {
            return Err(InvalidSolution::Expired);
        }
        Ok(solution.signature)
    }

    fn mac(&self, challenge: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(challenge.as_bytes());
        mac
    }
}

fn read(solution: &str) -> Option<Solution> {
    if solution.len() > MAX_SOLUTION_BYTES {
        return None;
    }
    let json = STANDARD.decode(solution).ok()?;
    let solution: Solution = serde_json::from_slice(&json).ok()?;
    (solution.algorithm == ALGORITHM).then_some(solution)
}

fn hash(salt: &str, number: u32) -> String {
    hex(&Sha256::digest(format!("{salt}{number}")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    // Lower case only: the text is the id that is redeemed once, so it must be canonical.
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !text.len().is_multiple_of(2) || !text.bytes().all(is_hex) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::{Value, json};

    use super::*;

    fn bearer(account: i64, address: &str) -> Bearer {
        Bearer {
            event_id: EventId(1),
            account_id: AccountId(account),
            group: address.parse::<IpAddr>().unwrap().into(),
        }
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn solved(challenge: &Challenge, change: impl FnOnce(&mut Value)) -> String {
        let number = (0..=challenge.maxnumber)
            .find(|&number| hash(&challenge.salt, number) == challenge.challenge)
            .unwrap();
        let mut solution = json!({
            "algorithm": challenge.algorithm, "challenge": challenge.challenge,
            "number": number, "salt": challenge.salt, "signature": challenge.signature,
        });
        change(&mut solution);
        STANDARD.encode(solution.to_string())
    }

    #[test]
    fn the_found_number_is_taken_from_its_bearer_in_time() {
        let challenges = Challenges::new([7; 32]);
        let mine = bearer(7, "192.0.2.1");
        let challenge = challenges.issue(mine, 100, 42, [1; 12], now());
        let good = solved(&challenge, |_| ());
        assert_eq!(
            challenges.check(&good, mine, now()),
            Ok(challenge.signature.clone())
        );
        let refused = |bearer, at| challenges.check(&good, bearer, at).unwrap_err();
        assert_eq!(refused(mine, now() + LIFE), InvalidSolution::Expired);
        assert_eq!(
            refused(bearer(8, "192.0.2.1"), now()),
            InvalidSolution::NotYours
        );
        assert_eq!(
            refused(bearer(7, "192.0.3.1"), now()),
            InvalidSolution::NotYours
        );
        let other = Challenges::new([8; 32]);
        assert_eq!(
            other.check(&good, mine, now()),
            Err(InvalidSolution::BadSignature)
        );
    }

    #[test]
    fn an_altered_solution_is_refused() {
        let challenges = Challenges::new([7; 32]);
        let mine = bearer(7, "192.0.2.1");
        // The number is 42: "…&" and 42 must not pass as "…&4" and 2.
        let challenge = challenges.issue(mine, 100, 42, [1; 12], now());
        let attacks: [&dyn Fn(&mut Value); 5] = [
            &|solution| solution["number"] = json!(43),
            &|solution| solution["algorithm"] = json!("SHA-1"),
            &|solution| {
                solution["salt"] = json!(format!("{}4", challenge.salt));
                solution["number"] = json!(2);
            },
            &|solution| {
                let upper = challenge.signature.to_uppercase();
                solution["signature"] = json!(upper);
            },
            &|solution| solution["signature"] = json!(""),
        ];
        for (index, attack) in attacks.iter().enumerate() {
            let solution = solved(&challenge, attack);
            assert!(
                challenges.check(&solution, mine, now()).is_err(),
                "attack {index}"
            );
        }
        assert_eq!(
            challenges.check("nonsense", mine, now()),
            Err(InvalidSolution::Malformed)
        );
    }
}
