//! Ticket codes: short enough for a QR code, and verified offline with the published keys.
//!
//! A code is `T1.KEY.BODY.SIGNATURE`. KEY is the first eight characters of the key's `kid`. BODY is
//! base64url, without padding, of 32 bytes: the event's id and the seat's, each eight bytes, the
//! most significant first, then 16 random ones. SIGNATURE is base64url of the Ed25519 signature of
//! everything before its dot. No JWT begins with `T1.`, so neither can be taken for the other.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::{EventId, SeatId};
use ed25519_dalek::Signer as _;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use super::published::PublishedKeys;
use super::{KeyRing, TokenError, TokenType};

const PREFIX: &str = "T1";
const KEY_CHARS: usize = 8;
/// Longest accepted code, in bytes.
const MAX_CODE_BYTES: usize = 200;

/// The content of a ticket's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketFace {
    /// The event it is for.
    pub event_id: EventId,
    /// The seat.
    pub seat_id: SeatId,
    /// Random nonce; new for every ticket of a seat.
    pub nonce: [u8; 16],
}

impl TicketFace {
    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.event_id.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.seat_id.0.to_be_bytes());
        bytes[16..].copy_from_slice(&self.nonce);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (event, rest) = bytes.split_first_chunk::<8>()?;
        let (seat, nonce) = rest.split_first_chunk::<8>()?;
        Some(Self {
            event_id: EventId(i64::from_be_bytes(*event)),
            seat_id: SeatId(i64::from_be_bytes(*seat)),
            nonce: nonce.try_into().ok()?,
        })
    }
}

impl KeyRing {
    /// The code of a ticket.
    #[must_use]
    pub fn sign_ticket(&self, face: TicketFace) -> String {
        let key = self.current.key_of(TokenType::Pass);
        let body = URL_SAFE_NO_PAD.encode(face.to_bytes());
        let signed = format!("{PREFIX}.{}.{body}", &key.id[..KEY_CHARS]);
        // Not through jsonwebtoken, which derives the key pair anew for each signature.
        let signature = self.current.pass_pair().sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }
}

impl PublishedKeys {
    /// Verifies a code and returns its content. Use, cancellation and replacement are not known
    /// here.
    ///
    /// # Errors
    /// The reason of its refusal; `UnknownKey` also when the keys have rotated since they were
    /// read.
    pub fn verify_ticket(&self, code: &str) -> Result<TicketFace, TokenError> {
        if code.len() > MAX_CODE_BYTES {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = code.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let mut parts = signed.split('.');
        let (Some(PREFIX), Some(key), Some(body), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let key = self.ticket_key(key).ok_or(TokenError::UnknownKey)?;
        let is_genuine = crypto::verify(signature, signed.as_bytes(), key, Algorithm::EdDSA);
        if !is_genuine.unwrap_or(false) {
            return Err(TokenError::BadSignature);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).ok();
        bytes
            .and_then(|bytes| TicketFace::from_bytes(&bytes))
            .ok_or(TokenError::Malformed)
    }

    fn ticket_key(&self, beginning: &str) -> Option<&DecodingKey> {
        let is_meant = |id: &str| beginning.len() == KEY_CHARS && id.starts_with(beginning);
        let (_, key) = self.keys.iter().find(|(id, _)| is_meant(id))?;
        Some(key)
    }
}
