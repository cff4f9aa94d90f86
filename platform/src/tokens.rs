//! Signs and verifies JWTs after RFC 8725 (algorithm and `typ` are fixed for each type of token;
//! issuer, audience and times are always checked, and the time is an argument), ticket codes,
//! confirmation codes and the pseudonyms of a lottery, and publishes the public keys as a JWKS.
//!
//! Keys are derived from the configured secrets, so there is nothing to store or to distribute.
//! The first secret signs, all of them verify: put a new secret in front, and drop the old one
//! when the last token it signed has expired.

mod confirmation;
mod entry_names;
mod hs256;
mod keys;
mod published;
mod ticket;

use chrono::{DateTime, Utc};
use domain::lottery::Entry;
use domain::token::{
    ACCESS_AUDIENCE, AccessClaims, ISSUER, LEEWAY_SECONDS, LotteryClaims, PassClaims, QueueClaims,
    VisitorClaims, audience_sale, sale_audience, subject,
};
use domain::{AccountId, EventId};
use jsonwebtoken::{Algorithm, Header, Validation};
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use confirmation::Confirmation;
use entry_names::EntryNames;
use keys::{SecretKeys, SigningKey};
pub use published::{JwksError, PublishedKeys};
pub use ticket::TicketFace;

/// Longest accepted token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;
/// Shortest secret, in characters.
pub const MIN_SECRET_CHARS: usize = 32;

/// Failure to verify a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is too long")]
    TooLong,
    /// Not a token, or its claims are not those of its type.
    #[error("the token can't be read")]
    Malformed,
    /// Signed with another algorithm than its type has; `none` is one.
    #[error("the token's algorithm is not accepted")]
    WrongAlgorithm,
    /// Its `typ` is another than expected.
    #[error("the token is of another type")]
    WrongType,
    /// Signed with a key that is not, or no longer, known.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The signature does not match.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// The issuer is another.
    #[error("the token's issuer is not accepted")]
    WrongIssuer,
    /// The audience is another, such as another sale.
    #[error("the token is for something else")]
    WrongAudience,
    /// Its `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// Its `nbf` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
}

/// Failure to derive keys from the secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No secret is set.
    #[error("no secret is set")]
    Missing,
    /// Too short to be safe.
    #[error("a secret is shorter than {MIN_SECRET_CHARS} characters")]
    TooShort,
}

/// The properties that distinguish types of token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Access,
    Queue,
    Visitor,
    Pass,
    Lottery,
}

impl TokenType {
    fn typ(self) -> &'static str {
        match self {
            Self::Access => "at+jwt",
            Self::Queue => "queue+jwt",
            Self::Visitor => "visitor+jwt",
            Self::Pass => "pass+jwt",
            Self::Lottery => "lottery+jwt",
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::Access | Self::Queue | Self::Visitor => Algorithm::HS256,
            Self::Pass | Self::Lottery => Algorithm::EdDSA,
        }
    }
}

/// The claims that every type has.
trait Claims: Serialize + DeserializeOwned + Clone {
    const TYPE: TokenType;
    fn issuer(&self) -> &str;
    fn audience(&self) -> &str;
    /// `nbf` and `exp`.
    fn window(&self) -> (i64, i64);
}

macro_rules! claims {
    ($type:ty, $token_type:expr) => {
        impl Claims for $type {
            const TYPE: TokenType = $token_type;

            fn issuer(&self) -> &str {
                &self.iss
            }

            fn audience(&self) -> &str {
                &self.aud
            }

            fn window(&self) -> (i64, i64) {
                (self.nbf, self.exp)
            }
        }
    };
}

claims!(AccessClaims, TokenType::Access);
claims!(QueueClaims, TokenType::Queue);
claims!(VisitorClaims, TokenType::Visitor);
claims!(PassClaims, TokenType::Pass);

impl Claims for LotteryClaims {
    const TYPE: TokenType = TokenType::Lottery;

    fn issuer(&self) -> &str {
        &self.iss
    }

    fn audience(&self) -> &str {
        &self.aud
    }

    /// A draw does not expire.
    fn window(&self) -> (i64, i64) {
        (self.iat, i64::MAX)
    }
}

/// The claims of a queue token, as they are signed.
#[derive(Serialize)]
struct Receipt<'a> {
    #[serde(flatten)]
    claims: &'a QueueClaims,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<Entry>,
}

/// The keys of every type of token, for each configured secret.
pub struct KeyRing {
    current: SecretKeys,
    previous: Vec<SecretKeys>,
    /// One for each secret, the one that signs first.
    entries: Vec<EntryNames>,
    hs256: Validation,
    eddsa: Validation,
}

impl KeyRing {
    /// Derives the keys. The first secret signs, all verify.
    ///
    /// # Errors
    /// When there is no secret, or one is shorter than [`MIN_SECRET_CHARS`].
    pub fn new(secrets: &[SecretString]) -> Result<Self, SecretError> {
        let mut keys = secrets
            .iter()
            .map(SecretKeys::derive)
            .collect::<Result<Vec<_>, _>>()?
            .into_iter();
        let current = keys.next().ok_or(SecretError::Missing)?;
        let previous: Vec<SecretKeys> = keys.collect();
        let all = std::iter::once(&current).chain(&previous);
        Ok(Self {
            entries: all.map(EntryNames::derive).collect(),
            current,
            previous,
            hs256: signature_only(Algorithm::HS256),
            eddsa: signature_only(Algorithm::EdDSA),
        })
    }

    /// The keys for `purpose` of every secret, that of the first secret first: what was made before
    /// a rotation is recognised by one of the others.
    #[must_use]
    pub fn derive_each(&self, purpose: &str) -> Vec<[u8; 32]> {
        self.secrets()
            .map(|secret| secret.expand(&format!("use:{purpose}")))
            .collect()
    }

    /// Signs an access token. Equal claims give equal bytes.
    #[must_use]
    pub fn sign_access(&self, claims: &AccessClaims) -> String {
        self.sign(claims)
    }

    /// Verifies an access token at `now` and returns its claims.
    ///
    /// # Errors
    /// The reason of its refusal.
    pub fn verify_access(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<AccessClaims, TokenError> {
        self.verify(token, ACCESS_AUDIENCE, now)
    }

    /// Signs a queue token. Equal claims give equal bytes. The token is its holder's receipt in the
    /// lottery, so it carries the holder's [`Self::lottery_entry`] under `entries_key`, too.
    ///
    /// # Panics
    /// Never: queue tokens have an HS256 key.
    #[must_use]
    pub fn sign_queue(&self, claims: &QueueClaims, entries_key: &str) -> String {
        let holder = audience_sale(&claims.aud).zip(subject(&claims.sub));
        let entry = holder.and_then(|(event_id, account_id)| {
            self.lottery_entry(entries_key, event_id, account_id)
        });
        let key = self.current.key_of(TokenType::Queue);
        let hs256 = key.hs256.as_ref().expect("queue tokens are HS256");
        hs256.sign(&Receipt { claims, entry })
    }

    /// Verifies a queue token of `event_id`'s sale at `now` and returns its claims.
    ///
    /// # Errors
    /// The reason of its refusal.
    pub fn verify_queue(
        &self,
        token: &str,
        event_id: EventId,
        now: DateTime<Utc>,
    ) -> Result<QueueClaims, TokenError> {
        self.verify(token, &sale_audience(event_id), now)
    }

    /// Signs a visitor's token. Equal claims give equal bytes.
    #[must_use]
    pub fn sign_visitor(&self, claims: &VisitorClaims) -> String {
        self.sign(claims)
    }

    /// Verifies a visitor's token of `event_id`'s sale at `now` and returns its claims.
    ///
    /// # Errors
    /// The reason of its refusal.
    pub fn verify_visitor(
        &self,
        token: &str,
        event_id: EventId,
        now: DateTime<Utc>,
    ) -> Result<VisitorClaims, TokenError> {
        self.verify(token, &sale_audience(event_id), now)
    }

    /// Signs a pass. Equal claims give equal bytes.
    #[must_use]
    pub fn sign_pass(&self, claims: &PassClaims) -> String {
        self.sign(claims)
    }

    /// Verifies a pass of `event_id`'s sale at `now` and returns its claims. Revocation is checked
    /// elsewhere.
    ///
    /// # Errors
    /// The reason of its refusal.
    pub fn verify_pass(
        &self,
        token: &str,
        event_id: EventId,
        now: DateTime<Utc>,
    ) -> Result<PassClaims, TokenError> {
        self.verify(token, &sale_audience(event_id), now)
    }

    /// Signs the result of a draw, with the key of passes. Equal claims give equal bytes.
    #[must_use]
    pub fn sign_lottery(&self, claims: &LotteryClaims) -> String {
        self.sign(claims)
    }

    /// The id of the key that names the entries of lotteries that are committed to now.
    ///
    /// # Panics
    /// Never: there is a key for each secret.
    #[must_use]
    pub fn entries_key(&self) -> &str {
        let current = self.entries.first();
        &current.expect("there is a secret").id
    }

    /// Returns the pseudonym of `account_id` in the lottery of `event_id`'s sale. `key` is the
    /// [`entries_key`](Self::entries_key) that the lottery was committed to with, empty for the
    /// current one; `None` when its secret is not configured any more.
    #[must_use]
    pub fn lottery_entry(
        &self,
        key: &str,
        event_id: EventId,
        account_id: AccountId,
    ) -> Option<Entry> {
        let is_meant = |names: &&EntryNames| key.is_empty() || names.id == key;
        let names = self.entries.iter().find(is_meant)?;
        Some(names.of(event_id, account_id))
    }

    /// The public keys that verify passes, as a JWK set.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.secrets().map(SecretKeys::pass_jwk).collect();
        json!({ "keys": keys })
    }

    /// A key for another use, derived from the secret that signs. Each use has its own `label`.
    #[must_use]
    pub fn derive(&self, label: &str) -> [u8; 32] {
        self.current.expand(&format!("use:{label}"))
    }

    fn secrets(&self) -> impl Iterator<Item = &SecretKeys> {
        std::iter::once(&self.current).chain(&self.previous)
    }

    fn sign<C: Claims>(&self, claims: &C) -> String {
        let key = self.current.key_of(C::TYPE);
        if let Some(hs256) = &key.hs256 {
            return hs256.sign(claims);
        }
        let mut header = Header::new(C::TYPE.algorithm());
        header.typ = Some(C::TYPE.typ().to_owned());
        header.kid = Some(key.id.clone());
        jsonwebtoken::encode(&header, claims, &key.encoding)
            .expect("claims are plain JSON and the key fits the algorithm")
    }

    fn verify<C: Claims>(
        &self,
        token: &str,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<C, TokenError> {
        let claims = match self.verify_own_header(token) {
            Some(outcome) => outcome?,
            None => self.verify_any_header(token)?,
        };
        check(&claims, audience, now.timestamp())?;
        Ok(claims)
    }

    /// Fast path: returns the claims if the header is byte-identical to ours.
    fn verify_own_header<C: Claims>(&self, token: &str) -> Option<Result<C, TokenError>> {
        if token.len() > MAX_TOKEN_BYTES {
            return Some(Err(TokenError::TooLong));
        }
        self.secrets()
            .filter_map(|keys| keys.key_of(C::TYPE).hs256.as_ref())
            .find_map(|hs256| hs256.verify(token))
    }

    fn verify_any_header<C: Claims>(&self, token: &str) -> Result<C, TokenError> {
        let key = self.key_for(C::TYPE, token)?;
        let validation = match C::TYPE.algorithm() {
            Algorithm::HS256 => &self.hs256,
            _ => &self.eddsa,
        };
        jsonwebtoken::decode(token, &key.decoding, validation)
            .map(|decoded| decoded.claims)
            .map_err(|error| refusal(&error))
    }

    /// Returns the key that a token of type `token_type` names in its header. Nothing else in the
    /// header influences the verification.
    fn key_for(&self, token_type: TokenType, token: &str) -> Result<&SigningKey, TokenError> {
        let id = key_id(token_type, token)?;
        self.secrets()
            .map(|keys| keys.key_of(token_type))
            .find(|key| key.id == id)
            .ok_or(TokenError::UnknownKey)
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing")
            .field("secrets", &(1 + self.previous.len()))
            .finish_non_exhaustive()
    }
}

/// The id of the key in the header of a token of type `token_type`.
fn key_id(token_type: TokenType, token: &str) -> Result<String, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|error| refusal(&error))?;
    if header.alg != token_type.algorithm() {
        return Err(TokenError::WrongAlgorithm);
    }
    if header.typ.as_deref() != Some(token_type.typ()) {
        return Err(TokenError::WrongType);
    }
    if header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    header.kid.ok_or(TokenError::UnknownKey)
}

/// The library verifies the signature only: it would compare times with the machine's clock.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn refusal(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => TokenError::WrongAlgorithm,
        _ => TokenError::Malformed,
    }
}

fn check<C: Claims>(claims: &C, audience: &str, now: i64) -> Result<(), TokenError> {
    let leeway = LEEWAY_SECONDS.cast_signed();
    let (not_before, expires) = claims.window();
    if claims.issuer() != ISSUER {
        Err(TokenError::WrongIssuer)
    } else if claims.audience() != audience {
        Err(TokenError::WrongAudience)
    } else if expires <= now.saturating_sub(leeway) {
        Err(TokenError::Expired)
    } else if not_before > now.saturating_add(leeway) {
        Err(TokenError::NotYetValid)
    } else {
        Ok(())
    }
}
