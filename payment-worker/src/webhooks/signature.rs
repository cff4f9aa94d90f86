use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// Largest difference between the time of a signature and ours.
const TOLERANCE_SECONDS: u64 = 300;

/// Webhook signing secrets: one, or two while rotating.
pub(crate) struct Secrets(Vec<SecretString>);

impl Secrets {
    /// Accepts signatures by any of these.
    #[must_use]
    pub(crate) fn new(secrets: &[SecretString]) -> Self {
        Self(secrets.to_vec())
    }

    /// Returns `true` if `header` signs exactly these bytes with one of the secrets, at most 300 s
    /// away from `now`. Compares in constant time.
    pub(super) fn verify(&self, body: &[u8], header: &str, now: DateTime<Utc>) -> bool {
        let Some(signed) = Signed::read(header) else {
            return false;
        };
        let is_recent = signed
            .at
            .parse()
            .is_ok_and(|at: i64| at.abs_diff(now.timestamp()) <= TOLERANCE_SECONDS);
        is_recent
            && self
                .0
                .iter()
                .any(|secret| signed.is_by(secret.expose_secret(), body))
    }
}

/// A parsed `Stripe-Signature` header, `t=SECONDS,v1=HEX`, with a signature for each active secret.
/// Schemes other than `v1` are ignored.
struct Signed<'a> {
    /// The time, as it was signed.
    at: &'a str,
    signatures: Vec<[u8; 32]>,
}

impl<'a> Signed<'a> {
    fn read(header: &'a str) -> Option<Self> {
        let mut at = None;
        let mut signatures = Vec::new();
        for part in header.split(',') {
            match part.trim().split_once('=')? {
                ("t", seconds) => at = Some(seconds),
                ("v1", signature) => signatures.extend(domain::hex::decode::<32>(signature)),
                _ => {}
            }
        }
        Some(Self {
            at: at?,
            signatures,
        })
    }

    fn is_by(&self, secret: &str, body: &[u8]) -> bool {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
            .expect("HMAC takes a key of any length");
        mac.update(self.at.as_bytes());
        mac.update(b".");
        mac.update(body);
        self.signatures
            .iter()
            .any(|signature| mac.clone().verify_slice(signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use stripe_webhook::Webhook;

    use super::*;

    const BODY: &str = r#"{"id": "evt_1", "type": "unheard.of"}"#;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn header(body: &str, secret: &str) -> String {
        Webhook::generate_test_header(body, secret, Some(at(0).timestamp()))
    }

    fn secrets() -> Secrets {
        Secrets::new(&["whsec_new".into(), "whsec_old".into()])
    }

    #[test]
    fn either_secret_is_good_while_rotating() {
        for secret in ["whsec_new", "whsec_old"] {
            assert!(secrets().verify(BODY.as_bytes(), &header(BODY, secret), at(0)));
        }
        assert!(!secrets().verify(BODY.as_bytes(), &header(BODY, "whsec_other"), at(0)));
    }

    #[test]
    fn a_signature_is_good_for_300_seconds_to_either_side() {
        let header = header(BODY, "whsec_new");
        for (seconds, good) in [(-301, false), (-300, true), (300, true), (301, false)] {
            assert_eq!(
                secrets().verify(BODY.as_bytes(), &header, at(seconds)),
                good,
                "{seconds}"
            );
        }
        let far = at(0) + TimeDelta::days(365);
        assert!(!secrets().verify(BODY.as_bytes(), &header, far));
    }

    #[test]
    fn altered_bytes_and_broken_headers_are_refused() {
        let good = header(BODY, "whsec_new");
        assert!(!secrets().verify(format!("{BODY} ").as_bytes(), &good, at(0)));
        assert!(!secrets().verify(b"\xff\xfe", &good, at(0)));
        for broken in [
            "",
            "t=1",
            "v1=00",
            "t=x,v1=00",
            &good[..good.len() - 2],
            "nonsense",
        ] {
            assert!(
                !secrets().verify(BODY.as_bytes(), broken, at(0)),
                "{broken}"
            );
        }
    }
}
