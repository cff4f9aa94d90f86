//! Recomputes commitment, digest and places from the receipts alone.

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::lottery::{Draw, EntriesDigest, Entry, Permutation, commitment};
use domain::token::{ISSUER, LotteryClaims, audience_sale, sale_audience};
use domain::{EventId, Number, Place, hex};
use platform::tokens::{PublishedKeys, TokenError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A broken promise of a lottery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the file holds no receipts of a lottery: {0}")]
    Unreadable(String),
    #[error("the draw is not signed with one of the keys: {0}")]
    Signature(#[from] TokenError),
    #[error("the seed does not match its commitment: its SHA-256 is {actual}, not {promised}")]
    Commitment { actual: String, promised: String },
    #[error("the participants were fixed, or the draw was made, before the commitment to the seed")]
    TooEarly,
    #[error(
        "{listed} numbers are listed, but {lobby} took part: entries were {}",
        verb(listed, lobby)
    )]
    Length { listed: i64, lobby: i64 },
    #[error(
        "{held} of the numbers are held, but {entries} were: entries were {}",
        verb(held, entries)
    )]
    Count { held: i64, entries: i64 },
    #[error("the entry {entry} has the numbers {first} and {second}: it was doubled")]
    Doubled {
        entry: Entry,
        first: i64,
        second: i64,
    },
    #[error(
        "the entries are not those that were fixed: some were moved or replaced (their digest is \
         {actual}, not {fixed})"
    )]
    Digest { actual: String, fixed: String },
    #[error("a token can't be read: {0}")]
    Token(String),
    #[error("a token is for {0}, not for this sale")]
    OtherSale(String),
    #[error("number {number} of the token is somebody else's in the list, or nobody's: its entry is {}, the token's is {token}", describe(*listed))]
    NotListed {
        number: Number,
        token: Entry,
        listed: Option<Entry>,
    },
}

/// Describes the differences between the entries `were` and `found`.
fn verb(found: &i64, were: &i64) -> &'static str {
    if found > were { "inserted" } else { "dropped" }
}

fn describe(entry: Option<Entry>) -> String {
    entry.map_or_else(|| "missing".to_owned(), |entry| entry.to_string())
}

#[derive(Deserialize)]
struct File {
    lottery: String,
    entries: Vec<Option<Entry>>,
}

/// The receipts of one lottery, unchecked.
pub(super) struct Receipt {
    event_id: EventId,
    claims: LotteryClaims,
    /// The entry of number n + 1 at index n.
    entries: Vec<Option<Entry>>,
}

/// Receipts that were checked.
pub(super) struct Checked {
    pub(super) claims: LotteryClaims,
    event_id: EventId,
    entries: Vec<Option<Entry>>,
    order: Permutation,
}

/// The place of a token's holder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    account: String,
    number: Number,
    place: Place,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            account,
            number,
            place,
        } = self;
        write!(f, "account {account}: number {number}, place {place}")
    }
}

impl Receipt {
    /// Parses a file. Without keys the signature is not verified.
    pub(super) fn read(json: &[u8], keys: Option<&PublishedKeys>) -> Result<Self, Fault> {
        let file: File =
            serde_json::from_slice(json).map_err(|error| Fault::Unreadable(error.to_string()))?;
        let claims = match keys {
            Some(keys) => keys.verify_lottery(&file.lottery)?,
            None => claims(&file.lottery).map_err(Fault::Unreadable)?,
        };
        let event_id = (claims.iss == ISSUER)
            .then(|| audience_sale(&claims.aud))
            .flatten()
            .ok_or_else(|| Fault::Unreadable("it names no sale".to_owned()))?;
        Ok(Self {
            event_id,
            claims,
            entries: file.entries,
        })
    }

    /// Recomputes everything.
    pub(super) fn check(self) -> Result<Checked, Fault> {
        let seed = self.check_seed()?;
        self.check_entries()?;
        let order = Draw {
            lobby: self.claims.lobby,
            seed,
            entropy: self.claims.entropy.clone(),
        }
        .permutation();
        Ok(Checked {
            claims: self.claims,
            event_id: self.event_id,
            entries: self.entries,
            order,
        })
    }

    fn check_seed(&self) -> Result<[u8; 32], Fault> {
        let claims = &self.claims;
        let seed = hex::decode(&claims.seed)
            .ok_or_else(|| Fault::Unreadable("the seed is not 32 bytes".to_owned()))?;
        let actual = hex::encode(&commitment(&seed));
        if actual != claims.commitment {
            return Err(Fault::Commitment {
                actual,
                promised: claims.commitment.clone(),
            });
        }
        if claims.fixed_at < claims.committed_at || claims.iat < claims.fixed_at.timestamp() {
            return Err(Fault::TooEarly);
        }
        Ok(seed)
    }

    fn check_entries(&self) -> Result<(), Fault> {
        let (lobby, entries) = (self.claims.lobby, self.claims.entries);
        let mut digest = EntriesDigest::new(self.event_id, lobby);
        let mut numbers = HashMap::with_capacity(self.entries.len());
        let (mut listed, mut held) = (0, 0);
        for (number, entry) in (1_i64..).zip(&self.entries) {
            listed = number;
            let Some(entry) = *entry else { continue };
            held += 1;
            if let Some(first) = numbers.insert(entry, number) {
                return Err(Fault::Doubled {
                    entry,
                    first,
                    second: number,
                });
            }
            digest.add(Number(number), entry);
        }
        if listed != lobby {
            return Err(Fault::Length { listed, lobby });
        }
        if held != entries {
            return Err(Fault::Count { held, entries });
        }
        let actual = hex::encode(&digest.finish());
        if actual != self.claims.entries_digest {
            return Err(Fault::Digest {
                actual,
                fixed: self.claims.entries_digest.clone(),
            });
        }
        Ok(())
    }
}

/// The claims of a queue token. Its MAC can be verified by the servers only, and need not be: the
/// entry must be in the list.
#[derive(Deserialize)]
struct QueueToken {
    aud: String,
    sub: String,
    number: Number,
    entry: Entry,
}

impl Checked {
    /// Returns the place of a token's holder, whose entry must be in the list.
    pub(super) fn place_of(&self, token: &str) -> Result<Standing, Fault> {
        let token: QueueToken = claims(token).map_err(Fault::Token)?;
        if token.aud != sale_audience(self.event_id) {
            return Err(Fault::OtherSale(token.aud));
        }
        // Later numbers are not in the list, and are their own places.
        if token.number.0 <= self.claims.lobby {
            let at = usize::try_from(token.number.0 - 1).ok();
            let listed = at.and_then(|at| self.entries.get(at)).copied().flatten();
            if listed != Some(token.entry) {
                return Err(Fault::NotListed {
                    number: token.number,
                    token: token.entry,
                    listed,
                });
            }
        }
        Ok(Standing {
            account: token.sub,
            number: token.number,
            place: self.order.place_of(token.number),
        })
    }
}

/// The claims of a token, without verifying its signature.
fn claims<T: DeserializeOwned>(token: &str) -> Result<T, String> {
    let payload = token.trim().split('.').nth(1).ok_or("it has no claims")?;
    let json = URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&json).map_err(|error| error.to_string())
}
