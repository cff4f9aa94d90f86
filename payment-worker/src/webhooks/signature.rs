use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use stripe_webhook::{Webhook, WebhookError};

/// What Stripe signs webhooks with: one secret, or two while rotating.
pub(crate) struct Secrets(Vec<SecretString>);

impl Secrets {
    /// Any of these is good.
    #[must_use]
    pub(crate) fn new(secrets: &[SecretString]) -> Self {
        Self(secrets.to_vec())
    }

    /// Whether `header` signs exactly these bytes with one of the secrets, at most 300 s away from
    /// `now`. Compares in constant time.
    pub(super) fn verify(&self, body: &[u8], header: &str, now: DateTime<Utc>) -> bool {
        // Stripe sends UTF-8; other bytes can't be what it signed.
        let Ok(body) = std::str::from_utf8(body) else {
            return false;
        };
        self.0
            .iter()
            .any(|secret| is_signed(body, header, secret.expose_secret(), now))
    }
}

fn is_signed(body: &str, header: &str, secret: &str, now: DateTime<Utc>) -> bool {
    let seconds = now.timestamp();
    match Webhook::construct_event_with_timestamp(body, header, secret, seconds) {
        Ok(_) => true,
        // Signature and time are checked before the event is read: this one is genuine, of a type
        // or an API version that the library does not know.
        Err(WebhookError::BadParse(_)) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

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
