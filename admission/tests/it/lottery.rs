//! The lottery, step by step, against a real database.

use std::collections::HashSet;

use admission::lottery;
use chrono::{DateTime, Utc};
use domain::lottery::{Draw, EntriesDigest, Entry, commitment};
use domain::queue::Lottery;
use domain::sale::SaleSettings;
use domain::{AccountId, EventId, Number, hex};
use platform::testing::TestApp;
use platform::tokens::{KeyRing, PublishedKeys};
use reqwest::StatusCode;
use serde_json::Value;
use sqlx::PgPool;

use crate::line;
use crate::shop::Shop;

/// A sale unknown to any release leader.
const EVENT: EventId = EventId(4_242);
/// A full chunk of pseudonyms, and a few more.
const MANY: i64 = 16_384 + 5;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn sale() -> SaleSettings {
    SaleSettings {
        event_id: EVENT,
        ..line::sale()
    }
}

fn announced(entropy: &str) -> SaleSettings {
    SaleSettings {
        entropy_source: "the lottery numbers of tonight".to_owned(),
        entropy: entropy.to_owned(),
        ..sale()
    }
}

/// Issues number n to account n + 100.
async fn join(db: &PgPool, numbers: std::ops::RangeInclusive<i64>) {
    sqlx::query(
        "insert into waiting_room.numbers (event_id, account_id, number, joined_at)
         select $1, 100 + n, n, now() from generate_series($2, $3) as n",
    )
    .bind(EVENT.0)
    .bind(numbers.start())
    .bind(numbers.end())
    .execute(db)
    .await
    .unwrap();
}

/// Reissues: the account of `number` gets the number `again` instead.
async fn rejoin(db: &PgPool, number: i64, again: i64) {
    let moved = sqlx::query(
        "update waiting_room.numbers set number = $3 where event_id = $1 and number = $2",
    );
    let moved = moved.bind(EVENT.0).bind(number).bind(again);
    assert_eq!(moved.execute(db).await.unwrap().rows_affected(), 1);
}

async fn shown_seed(db: &PgPool) -> Option<Vec<u8>> {
    let seed = sqlx::query_scalar("select seed from admission.public_draws");
    seed.fetch_one(db).await.unwrap()
}

#[tokio::test]
async fn the_commitment_stays_and_is_that_of_the_seed_shown_later() {
    let app = TestApp::start().await;
    let (db, keys) = (&app.ctx.db, &app.ctx.keys);
    let first = lottery::commit(db, keys, &sale(), now()).await.unwrap();
    let again = lottery::commit(db, keys, &sale(), now()).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(shown_seed(db).await, None);
    join(db, 1..=3).await;
    let drawn = lottery::draw(db, keys, &sale(), 3, now()).await.unwrap();
    assert_eq!(drawn.commitment, first.commitment);
    let seed = drawn.drawn.unwrap().seed;
    assert_eq!(
        hex::encode(&commitment(&hex::decode(&seed).unwrap())),
        first.commitment
    );

    let other = SaleSettings {
        event_id: EventId(EVENT.0 + 1),
        ..sale()
    };
    let other = lottery::commit(db, keys, &other, now()).await.unwrap();
    assert_ne!(other.commitment, first.commitment);
    app.finish().await;
}

#[tokio::test]
async fn entries_are_fixed_before_the_entropy_is_entered_and_the_seed_is_revealed() {
    let app = TestApp::start().await;
    let (db, keys) = (&app.ctx.db, &app.ctx.keys);
    join(db, 1..=5).await;
    let draw = async |sale: &SaleSettings, lobby| -> Lottery {
        lottery::draw(db, keys, sale, lobby, now()).await.unwrap()
    };
    let fixed = draw(&announced(""), 5).await;
    assert_eq!(fixed.drawn, None);
    assert_eq!(shown_seed(db).await, None);
    // Later joins come after the lobby, whatever size a repeat passes.
    join(db, 6..=7).await;
    assert_eq!(draw(&announced(""), 7).await, fixed);

    let lottery = draw(&announced("4 8 15 16 23 42"), 7).await;
    let drawn = lottery.drawn.clone().unwrap();
    let (lobby, digest) = (drawn.lobby, drawn.entries_digest);
    assert_eq!((lobby, drawn.entropy.as_str()), (5, "4 8 15 16 23 42"));
    assert_eq!(digest, fixed.fixed.unwrap().entries_digest);
    assert_eq!(draw(&announced("something else"), 7).await, lottery);
    app.finish().await;
}

#[tokio::test]
async fn two_leaders_at_once_draw_one_lottery() {
    let app = TestApp::start().await;
    let (db, keys) = (&app.ctx.db, &app.ctx.keys);
    join(db, 1..=200).await;
    let sale = sale();
    let draw = |lobby| lottery::draw(db, keys, &sale, lobby, now());
    let (one, two, three) = tokio::join!(draw(200), draw(150), draw(100));
    let all: Vec<_> = [one, two, three].map(Result::unwrap).into();
    assert!(all[0].drawn.is_some());
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    app.finish().await;
}

/// Returns the entries of a receipt, by number from 1.
fn entries(receipt: &Value) -> Vec<Option<Entry>> {
    serde_json::from_value(receipt["entries"].clone()).unwrap()
}

#[tokio::test]
async fn the_receipt_has_everything_to_check_the_lottery_and_stays() {
    let shop = Shop::open().await;
    let ctx = &shop.app.ctx;
    let (db, keys) = (&ctx.db, &ctx.keys);
    join(db, 1..=MANY).await;
    rejoin(db, 7, MANY + 1).await;
    rejoin(db, MANY, MANY + 2).await;
    let url = |event: i64| format!("{}/api/events/{event}/queue/lottery", shop.base);
    let get = async |event| reqwest::get(url(event)).await.unwrap();
    assert_eq!(get(EVENT.0 + 50).await.status(), StatusCode::NOT_FOUND);
    let sale = announced("");
    let lottery = lottery::commit(db, keys, &sale, now()).await.unwrap();
    assert_eq!(get(EVENT.0).await.status(), StatusCode::CONFLICT);
    lottery::draw(db, keys, &sale, MANY, now()).await.unwrap();
    assert_eq!(get(EVENT.0).await.status(), StatusCode::CONFLICT);
    // Numbers that change hands after the entries were fixed do not change the receipt.
    rejoin(db, 9, MANY + 3).await;
    lottery::draw(db, keys, &announced("42"), MANY, now())
        .await
        .unwrap();

    let response = get(EVENT.0).await;
    assert_eq!(response.status(), StatusCode::OK);
    let etag = response.headers()["etag"].clone();
    assert_eq!(response.headers()["cache-control"], "public, max-age=3600");
    let receipt: Value = response.json().await.unwrap();
    let jwks = serde_json::to_vec(&keys.jwks()).unwrap();
    let published = PublishedKeys::parse(&jwks).unwrap();
    let signed = receipt["lottery"].as_str().unwrap();
    let claims = published.verify_lottery(signed).unwrap();
    assert_eq!(
        (claims.aud, claims.lobby, claims.entries),
        (format!("sale:{EVENT}"), MANY, MANY - 2)
    );
    assert_eq!(
        (claims.commitment, claims.committed_at),
        (lottery.commitment, now())
    );

    let entries = entries(&receipt);
    let mut digest = EntriesDigest::new(EVENT, MANY);
    for (number, entry) in (1..).zip(&entries) {
        let expected = keys
            .lottery_entry("", EVENT, AccountId(100 + number))
            .unwrap();
        let expected = (number != 7 && number != MANY).then_some(expected);
        assert_eq!(*entry, expected, "number {number}");
        if let Some(entry) = entry {
            digest.add(Number(number), *entry);
        }
    }
    assert_eq!(entries.len(), usize::try_from(MANY).unwrap());
    assert_eq!(hex::encode(&digest.finish()), claims.entries_digest);

    let order = Draw {
        lobby: claims.lobby,
        seed: hex::decode(&claims.seed).unwrap(),
        entropy: claims.entropy,
    }
    .permutation();
    let places: HashSet<_> = (1..=MANY).map(|n| order.place_of(Number(n))).collect();
    assert_eq!(places.len(), entries.len());

    let client = reqwest::Client::new();
    let again = client.get(url(EVENT.0)).header("if-none-match", etag);
    assert_eq!(
        again.send().await.unwrap().status(),
        StatusCode::NOT_MODIFIED
    );
    let packed = client.get(url(EVENT.0)).header("accept-encoding", "gzip");
    let packed = packed.send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    shop.app.finish().await;
}

#[tokio::test]
async fn receipts_from_before_a_change_of_secrets_are_those_of_the_list() {
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    let ring = |secrets: &[&str]| {
        let secrets: Vec<_> = secrets.iter().map(|one| one.repeat(40).into()).collect();
        KeyRing::new(&secrets).unwrap()
    };
    let (old, rotated) = (ring(&["o"]), ring(&["n", "o"]));
    join(db, 1..=12).await;
    let committed = lottery::commit(db, &old, &sale(), now()).await.unwrap();
    let names = |keys: &KeyRing| {
        let key = committed.entries_key.clone();
        let entry = |n: i64| keys.lottery_entry(&key, EVENT, AccountId(100 + n)).unwrap();
        (1..=12).flat_map(|n| entry(n).0).collect::<Vec<u8>>()
    };
    let promised = names(&old);
    lottery::draw(db, &rotated, &sale(), 12, now())
        .await
        .unwrap();
    let listed: Vec<u8> = sqlx::query_scalar("select names from admission.draw_entries")
        .fetch_one(db)
        .await
        .unwrap();
    assert_eq!(listed, promised);
    assert_eq!(
        names(&rotated),
        promised,
        "who joins later has the same name"
    );
    app.finish().await;
}

#[tokio::test]
async fn a_seed_is_renewed_only_where_nobody_took_part() {
    let app = TestApp::start().await;
    let (db, keys) = (&app.ctx.db, &app.ctx.keys);
    let nobody = lottery::draw(db, keys, &sale(), 0, now()).await.unwrap();
    let renewed = lottery::renew(db, keys, &sale(), now()).await.unwrap();
    assert!(renewed.is_awaited() && renewed.fixed.is_none());
    assert_ne!(renewed.commitment, nobody.commitment);
    join(db, 1..=3).await;
    let drawn = lottery::draw(db, keys, &sale(), 3, now()).await.unwrap();
    let again = lottery::renew(db, keys, &sale(), now()).await.unwrap();
    assert_eq!(again, drawn);
    app.finish().await;
}

#[tokio::test]
async fn a_lottery_of_nobody_is_drawn_too() {
    let shop = Shop::open().await;
    let ctx = &shop.app.ctx;
    lottery::draw(&ctx.db, &ctx.keys, &sale(), 0, now())
        .await
        .unwrap();
    let url = format!("{}/api/events/{EVENT}/queue/lottery", shop.base);
    let receipt: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    assert_eq!(entries(&receipt), []);
    shop.app.finish().await;
}
