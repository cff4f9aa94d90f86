//! Races of a transfer against a cancellation, and against a refund. `ONSALE_RACES` sets how often
//! each is run in each order (20).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use domain::account::Role;
use domain::clock::Clock;
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER};
use domain::{AccountId, BookingId};
use futures_util::future::join_all;
use platform::testing::eventually;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::types::Uuid;
use tokio::time::sleep;

use crate::pipeline::{PATIENCE, PRICE, Pipeline, STAFF};
use crate::setting;

/// Races run at once.
const AT_ONCE: usize = 10;
/// Tickets per booking; the first one is transferred.
const TICKETS: u32 = 2;
const FRIEND: &str = "friend@example.org";
/// Buyers are new for each booking, since transfers per account are limited; above the ids of
/// accounts that are signed up here.
static NEXT_BUYER: AtomicI64 = AtomicI64::new(1_000);

/// What is begun first. Of two races one waits until the first is certainly over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Arrival {
    TransferFirst,
    MoneyFirst,
}

/// A booking that is confirmed and paid.
struct Sold {
    id: BookingId,
    buyer: i64,
    codes: Vec<String>,
}

/// A race, with the answer to its transfer.
struct Run {
    sold: Sold,
    status: StatusCode,
    answer: Value,
}

impl Run {
    fn is_transferred(&self) -> bool {
        self.status == StatusCode::OK
    }
}

impl Pipeline {
    async fn befriend(&self) -> i64 {
        let insert =
            "insert into box_office.accounts (email, password_hash, created_at, updated_at, email_confirmed_at)
                      values ($1, '-', now(), now(), now()) returning id";
        let signing_up = sqlx::query_scalar(insert).bind(FRIEND);
        signing_up.fetch_one(&self.app.ctx.db).await.unwrap()
    }

    /// Sells this many bookings.
    async fn sell_many(&self, count: usize) -> Vec<Sold> {
        let next = || NEXT_BUYER.fetch_add(1, Ordering::Relaxed);
        let buyers: Vec<_> = (0..count).map(|_| next()).collect();
        let mut ids = Vec::new();
        for buyer in &buyers {
            ids.push(self.request(*buyer, TICKETS).await);
        }
        let selling = ids.iter().zip(&buyers).map(async |(id, buyer)| {
            self.wait_for_intent(*id).await;
            assert!(self.pay(*id, "pm_card_visa").await);
            eventually(PATIENCE, async || {
                let captured = "select count(*) from booking.bookings
                                where id = $1 and captured_at is not null";
                self.number(captured, *id).await == 1
            })
            .await;
            let codes = "select code from booking.tickets where booking_id = $1 order by seat_id";
            let codes = sqlx::query_scalar(codes).bind(id.0);
            Sold {
                id: *id,
                buyer: *buyer,
                codes: codes.fetch_all(&self.app.ctx.db).await.unwrap(),
            }
        });
        join_all(selling).await
    }

    async fn number(&self, query: &'static str, id: BookingId) -> i64 {
        let asking = sqlx::query_scalar(query).bind(id.0);
        asking.fetch_one(&self.app.ctx.db).await.unwrap()
    }

    async fn transfer(&self, code: &str, by: i64) -> (StatusCode, Value) {
        let now = self.clock.now();
        let token = self.app.ctx.keys.sign_access(&AccessClaims {
            iss: ISSUER.to_owned(),
            aud: ACCESS_AUDIENCE.to_owned(),
            sub: AccountId(by).to_string(),
            roles: vec![Role::Customer],
            iat: now.timestamp(),
            nbf: now.timestamp(),
            exp: (now + TimeDelta::hours(1)).timestamp(),
        });
        let url = self.bookings_url(&format!("/api/tickets/{code}/transfer"));
        let request = self.http.post(url).bearer_auth(token);
        let answer = request.json(&json!({ "to": FRIEND })).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Runs the races: each transfers the first ticket of a booking against `money`, which is over
    /// when `under_way` counts nothing.
    async fn race(
        &self,
        count: usize,
        arrival: Arrival,
        money: impl AsyncFn(&Sold),
        under_way: &'static str,
    ) -> Vec<Run> {
        let sold = self.sell_many(count).await;
        let money = &money;
        let racing = sold.iter().zip(0_u64..).map(|(sold, nth)| async move {
            let (pause, is_certain) = (Duration::from_millis(nth), nth % 2 == 1);
            let transfer = || self.transfer(&sold.codes[0], sold.buyer);
            match (arrival, is_certain) {
                (Arrival::TransferFirst, true) => {
                    let given = transfer().await;
                    money(sold).await;
                    given
                }
                (Arrival::TransferFirst, false) => {
                    let money = async {
                        sleep(pause).await;
                        money(sold).await;
                    };
                    tokio::join!(transfer(), money).0
                }
                (Arrival::MoneyFirst, true) => {
                    money(sold).await;
                    eventually(PATIENCE, async || {
                        self.number(under_way, sold.id).await == 0
                    })
                    .await;
                    transfer().await
                }
                (Arrival::MoneyFirst, false) => {
                    let transfer = async {
                        sleep(pause).await;
                        transfer().await
                    };
                    tokio::join!(money(sold), transfer).1
                }
            }
        });
        let answers = join_all(racing).await;
        self.assert_kept().await;
        let runs = sold.into_iter().zip(answers);
        let runs = runs.map(|(sold, (status, answer))| Run {
            sold,
            status,
            answer,
        });
        runs.collect()
    }

    /// The holders of a booking's valid tickets.
    async fn holders(&self, id: BookingId) -> Vec<i64> {
        let query = "select account_id from booking.tickets
                     where booking_id = $1 and state = 'valid' order by seat_id";
        let asking = sqlx::query_scalar(query).bind(id.0);
        asking.fetch_all(&self.app.ctx.db).await.unwrap()
    }

    /// Returns the sums that Stripe captured and refunded for a booking.
    async fn money(&self, id: BookingId) -> (i64, i64) {
        let intent = self.intent(id).await.unwrap();
        let ledger = self.stripe.ledger();
        (
            ledger.captured_total(&intent),
            ledger.refunded_total(&intent),
        )
    }

    /// Asserts the reason of a refused transfer.
    fn assert_refused(run: &Run, words: &str) {
        assert_eq!(run.status, StatusCode::CONFLICT, "{}", run.answer);
        let detail = run.answer["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{detail}");
    }
}

/// Won transfers and races, for each order of arrival.
async fn in_both_orders(
    pipeline: &Pipeline,
    race: impl AsyncFn(Arrival, usize) -> usize,
) -> [(usize, usize); 2] {
    let runs: usize = setting("ONSALE_RACES", 20);
    let mut won = [(0, runs); 2];
    for (arrival, won) in [Arrival::TransferFirst, Arrival::MoneyFirst]
        .iter()
        .zip(&mut won)
    {
        for begun in (0..runs).step_by(AT_ONCE) {
            won.0 += race(*arrival, AT_ONCE.min(runs - begun)).await;
            pipeline.free_all().await;
        }
    }
    won
}

fn seats() -> u32 {
    u32::try_from(AT_ONCE).unwrap() * TICKETS
}

const NOT_CANCELLED: &str =
    "select count(*) from booking.bookings where id = $1 and state <> 'cancelled'";

#[tokio::test]
async fn a_cancellation_by_the_buyer_against_a_transfer() {
    let pipeline = Pipeline::open(seats()).await;
    let friend = pipeline.befriend().await;
    let paid = PRICE * i64::from(TICKETS);
    let won = in_both_orders(&pipeline, async |arrival, count| {
        let cancel = async |sold: &Sold| pipeline.cancel(sold.id, sold.buyer).await;
        let runs = pipeline.race(count, arrival, cancel, NOT_CANCELLED).await;
        for run in &runs {
            let (id, buyer) = (run.sold.id, run.sold.buyer);
            let (state, holders) = (pipeline.booking(id).await, pipeline.holders(id).await);
            if run.is_transferred() {
                // The friend's ticket is valid and stays paid.
                assert_eq!((&*state, holders), ("confirmed", vec![friend, buyer]));
                assert_eq!(pipeline.money(id).await, (paid, 0));
            } else {
                Pipeline::assert_refused(run, "cancelled");
                assert_eq!((&*state, holders), ("cancelled", vec![]));
                assert_eq!(pipeline.money(id).await, (paid, paid));
            }
        }
        runs.iter().filter(|run| run.is_transferred()).count()
    })
    .await;
    assert_audit_shows(won);
    pipeline.close().await;
}

#[tokio::test]
async fn a_cancellation_by_staff_against_a_transfer() {
    let pipeline = Pipeline::open(seats()).await;
    pipeline.befriend().await;
    let paid = PRICE * i64::from(TICKETS);
    let won = in_both_orders(&pipeline, async |arrival, count| {
        let cancel = async |sold: &Sold| pipeline.cancel(sold.id, STAFF).await;
        let runs = pipeline.race(count, arrival, cancel, NOT_CANCELLED).await;
        for run in &runs {
            // The tickets end, regardless of their holder, and the buyer is refunded.
            let id = run.sold.id;
            assert_eq!(pipeline.booking(id).await, "cancelled", "{id}");
            assert_eq!(pipeline.holders(id).await, Vec::<i64>::new());
            assert_eq!(pipeline.money(id).await, (paid, paid));
            if !run.is_transferred() {
                Pipeline::assert_refused(run, "cancelled");
            }
        }
        runs.iter().filter(|run| run.is_transferred()).count()
    })
    .await;
    assert_audit_shows(won);
    let counted = "select coalesce(sum(tickets), 0)::bigint from booking.account_tickets";
    assert_eq!(pipeline.count(counted).await, 0, "nobody has a ticket");
    pipeline.close().await;
}

#[tokio::test]
async fn a_refund_by_staff_against_a_transfer() {
    let pipeline = Pipeline::open(seats()).await;
    let friend = pipeline.befriend().await;
    let paid = PRICE * i64::from(TICKETS);
    let not_refunded =
        "select count(*) from payment.payments where booking_id = $1 and refunded_minor = 0";
    let won = in_both_orders(&pipeline, async |arrival, count| {
        let refund = async |sold: &Sold| {
            let key = Uuid::new_v4().to_string();
            let (status, answer) = pipeline.refund(sold.id, &key, PRICE).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        };
        let runs = pipeline.race(count, arrival, refund, not_refunded).await;
        for run in &runs {
            // The tickets stay with their holders, and the buyer is refunded once.
            let (id, buyer) = (run.sold.id, run.sold.buyer);
            assert_eq!(pipeline.money(id).await, (paid, PRICE));
            let first = if run.is_transferred() { friend } else { buyer };
            assert_eq!(pipeline.holders(id).await, [first, buyer]);
            if !run.is_transferred() {
                Pipeline::assert_refused(run, "refunded");
            }
            // After a refund no ticket can be transferred.
            let (status, answer) = pipeline.transfer(&run.sold.codes[1], buyer).await;
            assert_eq!(status, StatusCode::CONFLICT, "{answer}");
        }
        runs.iter().filter(|run| run.is_transferred()).count()
    })
    .await;
    assert_audit_shows(won);
    pipeline.close().await;
}

/// The first to begin mostly wins, so both orders were really raced. Of each: won transfers, races.
fn assert_audit_shows([(first, runs), (last, _)]: [(usize, usize); 2]) {
    assert!(first >= runs / 2, "{first} of {runs} early transfers won");
    assert!(last <= runs / 2, "{last} of {runs} late transfers won");
}
