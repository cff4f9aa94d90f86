//! Tampering with receipts in any way is detected.

use chrono::DateTime;
use domain::lottery::{EntriesDigest, Entry, commitment};
use domain::token::{ISSUER, LotteryClaims, sale_audience};
use domain::{AccountId, EventId, Number, hex};
use platform::tokens::{KeyRing, PublishedKeys, TokenError};
use serde_json::{Value, json};

use super::check::{Checked, Fault, Receipt};

const SALE: EventId = EventId(7);
const LOBBY: i64 = 40;
/// A number that nobody holds.
const GAP: i64 = 5;
const SEED: [u8; 32] = [9; 32];

fn ring(secret: &str) -> KeyRing {
    KeyRing::new(&[secret.repeat(40).into()]).unwrap()
}

/// The entry of account `number`, which has that number.
fn entry(number: i64) -> Entry {
    ring("a")
        .lottery_entry("", SALE, AccountId(number))
        .unwrap()
}

fn honest_claims() -> LotteryClaims {
    let at = |second: i64| DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap();
    let mut digest = EntriesDigest::new(SALE, LOBBY);
    for number in (1..=LOBBY).filter(|number| *number != GAP) {
        digest.add(Number(number), entry(number));
    }
    LotteryClaims {
        iss: ISSUER.to_owned(),
        aud: sale_audience(SALE),
        iat: at(90).timestamp(),
        commitment: hex::encode(&commitment(&SEED)),
        committed_at: at(0),
        lobby: LOBBY,
        entries: LOBBY - 1,
        entries_digest: hex::encode(&digest.finish()),
        fixed_at: at(60),
        entropy_source: "the numbers of tonight".to_owned(),
        entropy: "4 8 15".to_owned(),
        seed: hex::encode(&SEED),
    }
}

/// Receipts whose claims and entries are changed before the claims are signed with `secret`.
fn receipts(
    secret: &str,
    change_claims: impl FnOnce(&mut LotteryClaims),
    change_entries: impl FnOnce(&mut Vec<Option<Entry>>),
) -> Value {
    let mut claims = honest_claims();
    change_claims(&mut claims);
    let mut entries: Vec<_> = (1..=LOBBY)
        .map(|number| (number != GAP).then(|| entry(number)))
        .collect();
    change_entries(&mut entries);
    json!({ "lottery": ring(secret).sign_lottery(&claims), "entries": entries })
}

fn audit(receipts: &Value) -> Result<Checked, Fault> {
    let jwks = ring("a").jwks().to_string();
    let keys = PublishedKeys::parse(jwks.as_bytes()).unwrap();
    Receipt::read(receipts.to_string().as_bytes(), Some(&keys)).and_then(Receipt::check)
}

/// The fault reported for changed entries.
fn found(change: impl FnOnce(&mut Vec<Option<Entry>>)) -> String {
    audit(&receipts("a", |_| (), change))
        .err()
        .expect("a fault")
        .to_string()
}

fn signed_fault(change: impl FnOnce(&mut LotteryClaims)) -> Fault {
    audit(&receipts("a", change, |_| ()))
        .err()
        .expect("a fault")
}

#[test]
fn honest_receipts_pass_and_say_every_place() {
    let checked = audit(&receipts("a", |_| (), |_| ())).ok().unwrap();
    let mut places: Vec<_> = (1..=LOBBY)
        .filter(|number| *number != GAP)
        .map(|number| {
            checked
                .place_of(&token(SALE, number, entry(number)))
                .unwrap()
        })
        .map(|standing| standing.to_string())
        .collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 39);
    let late = token(SALE, LOBBY + 3, entry(99));
    assert_eq!(
        checked.place_of(&late).unwrap().to_string(),
        "account 43: number 43, place 43"
    );
}

#[test]
fn an_inserted_entry_is_found() {
    let stranger = entry(500);
    let at_the_end = found(|entries| entries.push(Some(stranger)));
    assert!(at_the_end.contains("41 numbers are listed, but 40 took part: entries were inserted"));
    let in_the_gap = found(|entries| entries[4] = Some(stranger));
    assert!(in_the_gap.contains("40 of the numbers are held, but 39 were: entries were inserted"));
}

#[test]
fn a_dropped_entry_is_found() {
    let taken_out = found(|entries| {
        entries.remove(11);
    });
    assert!(taken_out.contains("39 numbers are listed, but 40 took part: entries were dropped"));
    let blanked = found(|entries| entries[11] = None);
    assert!(blanked.contains("38 of the numbers are held, but 39 were: entries were dropped"));
}

#[test]
fn a_moved_or_replaced_entry_is_found() {
    let swapped = found(|entries| entries.swap(0, 30));
    let shifted = found(|entries| entries.swap(3, 4));
    let replaced = found(|entries| entries[0] = Some(entry(500)));
    for fault in [swapped, shifted, replaced] {
        assert!(fault.contains("some were moved or replaced"), "{fault}");
    }
}

#[test]
fn a_doubled_entry_is_found() {
    let doubled = found(|entries| entries[19] = entries[2]);
    let expected = format!(
        "the entry {} has the numbers 3 and 20: it was doubled",
        entry(3)
    );
    assert_eq!(doubled, expected);
}

#[test]
fn another_seed_or_entropy_or_digest_is_found() {
    let other_seed = signed_fault(|claims| claims.seed = hex::encode(&[8; 32]));
    assert!(
        matches!(other_seed, Fault::Commitment { .. }),
        "{other_seed}"
    );
    let other_digest = signed_fault(|claims| claims.entries_digest = hex::encode(&[8; 32]));
    assert!(
        matches!(other_digest, Fault::Digest { .. }),
        "{other_digest}"
    );
    let late =
        signed_fault(|claims| claims.committed_at = claims.fixed_at + chrono::TimeDelta::days(1));
    assert_eq!(late, Fault::TooEarly);
}

#[test]
fn what_somebody_else_signed_is_refused() {
    let forged = receipts("b", |claims| claims.entropy = "16".to_owned(), |_| ());
    assert_eq!(
        audit(&forged).err(),
        Some(Fault::Signature(TokenError::UnknownKey))
    );
    // The claims of one JWS under the signature of another.
    let mut spliced = receipts("a", |_| (), |_| ());
    let other = receipts("a", |claims| claims.entropy = "16".to_owned(), |_| ());
    let part = |receipts: &Value, at: usize| {
        let token = receipts["lottery"].as_str().unwrap();
        token.split('.').nth(at).unwrap().to_owned()
    };
    spliced["lottery"] = json!(format!(
        "{}.{}.{}",
        part(&spliced, 0),
        part(&other, 1),
        part(&spliced, 2)
    ));
    assert_eq!(
        audit(&spliced).err(),
        Some(Fault::Signature(TokenError::BadSignature))
    );
}

#[test]
fn rubbish_is_told_as_such() {
    for rubbish in [
        json!({}),
        json!({"lottery": "a.b.c", "entries": ["short"]}),
        json!(7),
    ] {
        let fault = audit(&rubbish).err();
        assert!(matches!(fault, Some(Fault::Unreadable(_))), "{fault:?}");
    }
}

/// A queue token, without a valid signature.
fn token(sale: EventId, number: i64, entry: Entry) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = json!({
        "iss": ISSUER, "aud": sale_audience(sale), "sub": number.to_string(), "number": number,
        "entry": entry, "exp": 0,
    });
    format!(
        "header.{}.signature",
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}

#[test]
fn a_token_whose_entry_is_not_listed_under_its_number_is_told() {
    let checked = audit(&receipts("a", |_| (), |_| ())).ok().unwrap();
    let fault = |token: &str| checked.place_of(token).unwrap_err();
    let stolen = fault(&token(SALE, 3, entry(4)));
    assert!(
        matches!(
            stolen,
            Fault::NotListed {
                listed: Some(_),
                ..
            }
        ),
        "{stolen}"
    );
    let gone = fault(&token(SALE, GAP, entry(GAP)));
    assert!(
        matches!(gone, Fault::NotListed { listed: None, .. }),
        "{gone}"
    );
    let other = fault(&token(EventId(8), 3, entry(3)));
    assert_eq!(other, Fault::OtherSale("sale:8".to_owned()));
    assert!(matches!(fault("no token"), Fault::Token(_)));
}
