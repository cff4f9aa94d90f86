//! Claims of the signed tokens (JWTs), their issuer and audiences.
//!
//! `platform::tokens` signs and verifies them after RFC 8725: each type has one algorithm and one
//! `typ`; `iss`, `aud`, `exp` and `nbf` are checked. The result of a lottery does not expire.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::account::Role;
use crate::{AccountId, EventId, Number, Place};

/// The issuer of every token.
pub const ISSUER: &str = "onsale";
/// The audience of access tokens.
pub const ACCESS_AUDIENCE: &str = "onsale";
/// Tolerated clock skew between machines, in seconds.
pub const LEEWAY_SECONDS: u64 = 5;

/// The audience of queue tokens and passes of one sale.
#[must_use]
pub fn sale_audience(event_id: EventId) -> String {
    format!("sale:{event_id}")
}

/// The sale whose audience `audience` is.
#[must_use]
pub fn audience_sale(audience: &str) -> Option<EventId> {
    let id = audience.strip_prefix("sale:")?;
    id.parse().ok().map(EventId)
}

/// Access token of a signed-in account. `typ` `at+jwt` (RFC 9068), HS256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// [`ISSUER`].
    pub iss: String,
    /// [`ACCESS_AUDIENCE`].
    pub aud: String,
    /// The account.
    pub sub: String,
    /// The account's roles.
    pub roles: Vec<Role>,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Not valid before, Unix seconds.
    pub nbf: i64,
    /// Expires at, Unix seconds.
    pub exp: i64,
}

/// One joiner's number in one sale. `typ` `queue+jwt`, HS256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueClaims {
    /// [`ISSUER`].
    pub iss: String,
    /// [`sale_audience`].
    pub aud: String,
    /// The account, or the visitor.
    pub sub: String,
    /// The number.
    pub number: Number,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Not valid before, Unix seconds.
    pub nbf: i64,
    /// Expires at, Unix seconds.
    pub exp: i64,
}

/// An anonymous visitor of one sale's queue. It stands for the access token there, and nowhere
/// else. `typ` `visitor+jwt`, HS256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisitorClaims {
    /// [`ISSUER`].
    pub iss: String,
    /// [`sale_audience`].
    pub aud: String,
    /// The visitor: a negative number, so that it is never an account's.
    pub sub: String,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Not valid before, Unix seconds.
    pub nbf: i64,
    /// Expires at, Unix seconds.
    pub exp: i64,
}

/// Admission to shop in one sale. `typ` `pass+jwt`, EdDSA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassClaims {
    /// [`ISSUER`].
    pub iss: String,
    /// [`sale_audience`].
    pub aud: String,
    /// The account, or the visitor.
    pub sub: String,
    /// Unique to the pass, for revocation.
    pub jti: String,
    /// The place it was claimed with.
    pub place: Place,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Not valid before, Unix seconds.
    pub nbf: i64,
    /// Expires at, Unix seconds.
    pub exp: i64,
}

/// The result of a lobby's draw. `typ` `lottery+jwt`, EdDSA, with the key of passes. Bytes
/// are lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LotteryClaims {
    /// [`ISSUER`].
    pub iss: String,
    /// [`sale_audience`].
    pub aud: String,
    /// When it was drawn, Unix seconds.
    pub iat: i64,
    /// SHA-256 of the seed.
    pub commitment: String,
    /// When that was published.
    pub committed_at: DateTime<Utc>,
    /// Number of participants: `1..=lobby`.
    pub lobby: i64,
    /// Number of them that were held.
    pub entries: i64,
    /// Commits to the holder of each number, see [`crate::lottery::EntriesDigest`].
    pub entries_digest: String,
    /// When that was fixed.
    pub fixed_at: DateTime<Utc>,
    /// Announced source of the entropy; empty for none.
    pub entropy_source: String,
    /// The value of that source.
    pub entropy: String,
    /// The seed.
    pub seed: String,
}

/// The account in a `sub` claim; a negative one is an anonymous visitor's.
#[must_use]
pub fn subject(sub: &str) -> Option<AccountId> {
    sub.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_of_a_sale_is_its_own() {
        assert_eq!(sale_audience(EventId(7)), "sale:7");
        assert_eq!(audience_sale("sale:7"), Some(EventId(7)));
        let none = ["sale:", "sale:x", "7", "onsale"].map(audience_sale);
        assert_eq!(none, [None; 4]);
    }

    #[test]
    fn a_subject_is_an_account_or_a_visitor() {
        let read = ["7", "-7", "x", ""].map(subject);
        assert_eq!(read, [Some(AccountId(7)), Some(AccountId(-7)), None, None]);
    }
}
