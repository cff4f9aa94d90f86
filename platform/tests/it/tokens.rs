//! Every known attack on a token is refused, for its own reason.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::account::Role;
use domain::token::{
    ACCESS_AUDIENCE, AccessClaims, ISSUER, PassClaims, QueueClaims, VisitorClaims, sale_audience,
};
use domain::{AccountId, EventId, Number, Place, SeatId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use platform::tokens::{KeyRing, PublishedKeys, TicketFace, TokenError};
use secrecy::SecretString;
use serde_json::{Value, json};

const OLD: &str = "old-secret-old-secret-old-secret-old-secret";
const NEW: &str = "new-secret-new-secret-new-secret-new-secret";
const EVENT: EventId = EventId(1);

fn ring(secrets: &[&str]) -> KeyRing {
    let secrets: Vec<_> = secrets
        .iter()
        .map(|&secret| SecretString::from(secret))
        .collect();
    KeyRing::new(&secrets).unwrap()
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn access() -> AccessClaims {
    AccessClaims {
        iss: ISSUER.into(),
        aud: ACCESS_AUDIENCE.into(),
        sub: "7".into(),
        roles: vec![Role::Customer],
        iat: now().timestamp(),
        nbf: now().timestamp(),
        exp: now().timestamp() + 900,
    }
}

fn queue() -> QueueClaims {
    QueueClaims {
        iss: ISSUER.into(),
        aud: sale_audience(EVENT),
        sub: "7".into(),
        number: Number(42),
        iat: now().timestamp(),
        nbf: now().timestamp(),
        exp: now().timestamp() + 900,
    }
}

fn visitor() -> VisitorClaims {
    VisitorClaims {
        iss: ISSUER.into(),
        aud: sale_audience(EVENT),
        sub: "-7".into(),
        iat: now().timestamp(),
        nbf: now().timestamp(),
        exp: now().timestamp() + 900,
    }
}

fn pass() -> PassClaims {
    PassClaims {
        iss: ISSUER.into(),
        aud: sale_audience(EVENT),
        sub: "7".into(),
        jti: "1-42".into(),
        place: Place(42),
        iat: now().timestamp(),
        nbf: now().timestamp(),
        exp: now().timestamp() + 900,
    }
}

fn decoded(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

/// The token with another header and payload, its signature as it was.
fn altered(token: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
    let parts: Vec<_> = token.split('.').collect();
    let (mut header, mut claims) = (decoded(parts[0]), decoded(parts[1]));
    change(&mut header, &mut claims);
    format!("{}.{}.{}", encoded(&header), encoded(&claims), parts[2])
}

#[test]
fn a_queue_token_is_its_holders_receipt_in_the_lottery() {
    let ring = ring(&[NEW]);
    let token = ring.sign_queue(&queue(), "");
    let claims = decoded(token.split('.').nth(1).unwrap());
    let entry = ring.lottery_entry("", EVENT, AccountId(7)).unwrap();
    assert_eq!(claims["entry"], entry.to_string());
    assert_ne!(Some(entry), ring.lottery_entry("", EVENT, AccountId(8)));
}

#[test]
fn a_name_in_the_lottery_outlives_a_change_of_secrets() {
    let (before, after) = (ring(&[OLD]), ring(&[NEW, OLD]));
    let key = before.entries_key();
    let entry = before.lottery_entry(key, EVENT, AccountId(7)).unwrap();
    assert_eq!(after.lottery_entry(key, EVENT, AccountId(7)), Some(entry));
    assert_ne!(after.lottery_entry("", EVENT, AccountId(7)), Some(entry));
    assert_ne!(after.entries_key(), key);
    let claims = |token: String| decoded(token.split('.').nth(1).unwrap());
    let token = claims(after.sign_queue(&queue(), key));
    assert_eq!(token["entry"], entry.to_string());
    let without = ring(&[NEW]);
    assert_eq!(without.lottery_entry(key, EVENT, AccountId(7)), None);
    assert!(claims(without.sign_queue(&queue(), key))["entry"].is_null());
}

#[test]
fn each_type_survives_the_round_trip() {
    let ring = ring(&[NEW]);
    assert_eq!(
        ring.verify_access(&ring.sign_access(&access()), now()),
        Ok(access())
    );
    assert_eq!(
        ring.verify_queue(&ring.sign_queue(&queue(), ""), EVENT, now()),
        Ok(queue())
    );
    assert_eq!(
        ring.verify_visitor(&ring.sign_visitor(&visitor()), EVENT, now()),
        Ok(visitor())
    );
    assert_eq!(
        ring.verify_pass(&ring.sign_pass(&pass()), EVENT, now()),
        Ok(pass())
    );
}

#[test]
fn equal_claims_give_equal_bytes() {
    assert_eq!(
        ring(&[NEW]).sign_pass(&pass()),
        ring(&[NEW, OLD]).sign_pass(&pass())
    );
    assert_eq!(
        ring(&[NEW]).sign_queue(&queue(), ""),
        ring(&[NEW, OLD]).sign_queue(&queue(), "")
    );
}

#[test]
fn alg_none_is_refused_in_every_spelling() {
    let ring = ring(&[NEW]);
    for none in ["none", "None", "NONE", "nOnE"] {
        let token = altered(&ring.sign_access(&access()), |header, claims| {
            header["alg"] = json!(none);
            claims["roles"] = json!(["admin"]);
        });
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        for token in [token.as_str(), &format!("{unsigned}."), unsigned] {
            assert!(ring.verify_access(token, now()).is_err(), "{none}: {token}");
        }
    }
}

#[test]
fn the_public_key_does_not_work_as_a_shared_secret() {
    let ring = ring(&[NEW]);
    let jwk = &ring.jwks()["keys"][0];
    let public = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some("pass+jwt".into());
    header.kid = Some(jwk["kid"].as_str().unwrap().into());
    let forged =
        jsonwebtoken::encode(&header, &pass(), &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(
        ring.verify_pass(&forged, EVENT, now()),
        Err(TokenError::WrongAlgorithm)
    );
}

#[test]
fn another_algorithm_is_refused() {
    let ring = ring(&[NEW]);
    let token = altered(&ring.sign_queue(&queue(), ""), |header, _| {
        header["alg"] = json!("HS512");
    });
    assert_eq!(
        ring.verify_queue(&token, EVENT, now()),
        Err(TokenError::WrongAlgorithm)
    );
}

#[test]
fn a_token_of_another_type_is_refused() {
    let ring = ring(&[NEW]);
    let token = ring.sign_visitor(&visitor());
    assert_eq!(
        ring.verify_access(&token, now()),
        Err(TokenError::WrongType)
    );
    assert_eq!(
        ring.verify_visitor(&token, EventId(2), now()),
        Err(TokenError::WrongAudience)
    );
    let token = ring.sign_queue(&queue(), "");
    assert_eq!(
        ring.verify_access(&token, now()),
        Err(TokenError::WrongType)
    );
    let untyped = altered(&token, |header, _| {
        header.as_object_mut().unwrap().remove("typ");
    });
    assert_eq!(
        ring.verify_queue(&untyped, EVENT, now()),
        Err(TokenError::WrongType)
    );
    let renamed = altered(&token, |header, _| header["typ"] = json!("at+jwt"));
    assert!(ring.verify_access(&renamed, now()).is_err());
}

#[test]
fn an_altered_token_is_refused() {
    let ring = ring(&[NEW]);
    let first = altered(&ring.sign_queue(&queue(), ""), |_, claims| {
        claims["place"] = json!(1);
    });
    assert_eq!(
        ring.verify_queue(&first, EVENT, now()),
        Err(TokenError::BadSignature)
    );
    let longer = altered(&ring.sign_pass(&pass()), |_, claims| {
        claims["exp"] = json!(i64::MAX);
    });
    assert_eq!(
        ring.verify_pass(&longer, EVENT, now()),
        Err(TokenError::BadSignature)
    );
    let critical = altered(&ring.sign_pass(&pass()), |header, _| {
        header["crit"] = json!(["exp"]);
    });
    assert_eq!(
        ring.verify_pass(&critical, EVENT, now()),
        Err(TokenError::Malformed)
    );
}

#[test]
fn a_token_signed_by_somebody_else_is_refused_even_under_our_key_id() {
    let (ours, theirs) = (ring(&[NEW]), ring(&[OLD]));
    let forged = theirs.sign_access(&access());
    assert_eq!(
        ours.verify_access(&forged, now()),
        Err(TokenError::UnknownKey)
    );
    let kid = jsonwebtoken::decode_header(ours.sign_access(&access()))
        .unwrap()
        .kid;
    let forged = altered(&forged, |header, _| header["kid"] = json!(kid));
    assert_eq!(
        ours.verify_access(&forged, now()),
        Err(TokenError::BadSignature)
    );
}

#[test]
fn a_key_carried_in_the_header_is_not_believed() {
    let (ours, theirs) = (ring(&[NEW]), ring(&[OLD]));
    let forged = altered(&theirs.sign_pass(&pass()), |header, _| {
        header["jwk"] = theirs.jwks()["keys"][0].clone();
        header["kid"] = ours.jwks()["keys"][0]["kid"].clone();
    });
    assert!(ours.verify_pass(&forged, EVENT, now()).is_err());
}

#[test]
fn another_issuer_or_audience_is_refused() {
    let ring = ring(&[NEW]);
    let foreign = AccessClaims {
        iss: "elsewhere".into(),
        ..access()
    };
    let token = ring.sign_access(&foreign);
    assert_eq!(
        ring.verify_access(&token, now()),
        Err(TokenError::WrongIssuer)
    );
    let elsewhere = AccessClaims {
        aud: "sale:1".into(),
        ..access()
    };
    let token = ring.sign_access(&elsewhere);
    assert_eq!(
        ring.verify_access(&token, now()),
        Err(TokenError::WrongAudience)
    );
    let token = ring.sign_pass(&pass());
    assert_eq!(
        ring.verify_pass(&token, EventId(11), now()),
        Err(TokenError::WrongAudience)
    );
}

#[test]
fn a_token_is_good_from_nbf_to_exp_and_five_seconds_around() {
    let ring = ring(&[NEW]);
    let token = ring.sign_pass(&pass());
    let outcome_at = |seconds| {
        ring.verify_pass(&token, EVENT, now() + TimeDelta::seconds(seconds))
            .map(|_| ())
    };
    assert_eq!(outcome_at(-6), Err(TokenError::NotYetValid));
    assert_eq!(outcome_at(-5), Ok(()));
    assert_eq!(outcome_at(904), Ok(()));
    assert_eq!(outcome_at(905), Err(TokenError::Expired));
}

#[test]
fn extreme_times_do_not_overflow() {
    let ring = ring(&[NEW]);
    let token = ring.sign_access(&AccessClaims {
        nbf: i64::MIN,
        exp: i64::MAX,
        ..access()
    });
    assert!(ring.verify_access(&token, now()).is_ok());
    let token = ring.sign_access(&AccessClaims {
        nbf: i64::MAX,
        exp: i64::MIN,
        ..access()
    });
    assert_eq!(ring.verify_access(&token, now()), Err(TokenError::Expired));
}

#[test]
fn an_oversize_token_is_not_looked_at() {
    let ring = ring(&[NEW]);
    let token = ring.sign_access(&AccessClaims {
        sub: "7".repeat(4_096),
        ..access()
    });
    assert_eq!(ring.verify_access(&token, now()), Err(TokenError::TooLong));
}

#[test]
fn rubbish_is_malformed() {
    let ring = ring(&[NEW]);
    for token in ["", ".", "..", "a.b", "a.b.c", "e30.e30.", "é.é.é", "\0"] {
        assert_eq!(
            ring.verify_access(token, now()),
            Err(TokenError::Malformed),
            "{token:?}"
        );
    }
}

#[test]
fn tokens_of_the_old_secret_are_good_while_it_is_configured() {
    let token = ring(&[OLD]).sign_queue(&queue(), "");
    assert!(ring(&[NEW, OLD]).verify_queue(&token, EVENT, now()).is_ok());
    assert_eq!(
        ring(&[NEW]).verify_queue(&token, EVENT, now()),
        Err(TokenError::UnknownKey)
    );
}

#[test]
fn the_jwks_has_a_key_per_secret_and_verifies_a_pass_without_us() {
    let rotating = ring(&[NEW, OLD]);
    let jwks = rotating.jwks();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
    assert_eq!(jwks["keys"][1], ring(&[OLD]).jwks()["keys"][0]);

    let token = rotating.sign_pass(&pass());
    let kid = jsonwebtoken::decode_header(&token).unwrap().kid;
    let key = jwks["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == json!(kid));
    let key = DecodingKey::from_ed_components(key.unwrap()["x"].as_str().unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["sale:1"]);
    validation.set_issuer(&[ISSUER]);
    validation.validate_exp = false;
    assert!(jsonwebtoken::decode::<PassClaims>(&token, &key, &validation).is_ok());
}

#[test]
fn derived_keys_differ_by_label_and_secret() {
    assert_ne!(
        ring(&[NEW]).derive("refresh"),
        ring(&[NEW]).derive("webhook")
    );
    assert_ne!(
        ring(&[NEW]).derive("refresh"),
        ring(&[OLD]).derive("refresh")
    );
    assert_eq!(
        ring(&[NEW]).derive("refresh"),
        ring(&[NEW, OLD]).derive("refresh")
    );
}

fn scanner(ring: &KeyRing) -> PublishedKeys {
    PublishedKeys::parse(ring.jwks().to_string().as_bytes()).unwrap()
}

fn ticket() -> TicketFace {
    TicketFace {
        event_id: EVENT,
        seat_id: SeatId(311),
        nonce: *b"sixteen bytes!!!",
    }
}

#[test]
fn a_scanner_verifies_tickets_with_the_published_keys_alone() {
    let code = ring(&[OLD]).sign_ticket(ticket());
    assert!(code.len() <= 160, "{} characters", code.len());
    assert_eq!(scanner(&ring(&[OLD])).verify_ticket(&code), Ok(ticket()));
    // While keys rotate both are published.
    assert_eq!(
        scanner(&ring(&[NEW, OLD])).verify_ticket(&code),
        Ok(ticket())
    );
    let unknown = scanner(&ring(&[NEW])).verify_ticket(&code);
    assert_eq!(unknown, Err(TokenError::UnknownKey));
}

#[test]
fn a_ticket_that_was_altered_or_made_up_is_refused() {
    let keys = ring(&[OLD]);
    let scanner = scanner(&keys);
    let code = keys.sign_ticket(ticket());
    let parts: Vec<_> = code.split('.').collect();
    let other = keys.sign_ticket(TicketFace {
        seat_id: SeatId(312),
        ..ticket()
    });
    let other: Vec<_> = other.split('.').collect();
    let forged = [parts[0], parts[1], other[2], parts[3]].join(".");
    assert_eq!(
        scanner.verify_ticket(&forged),
        Err(TokenError::BadSignature)
    );
    for nonsense in ["", "T1", "T1.a.b.c", &code[3..], &format!("{code}.x")] {
        assert!(scanner.verify_ticket(nonsense).is_err(), "{nonsense}");
    }
    // A pass is signed with the same key, and is no ticket.
    assert!(scanner.verify_ticket(&keys.sign_pass(&pass())).is_err());
    assert!(keys.verify_pass(&code, EVENT, now()).is_err());
}
