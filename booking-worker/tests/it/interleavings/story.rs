//! The story of one small event, drawn from a seed.

use std::time::Duration;

use chrono::TimeDelta;
use domain::booking::Wish;
use domain::clock::Clock as _;
use domain::event::Section;
use domain::message::{CancelBooking, PlaceHold};
use domain::{AccountId, BookingId, EventId, SectionId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::cashier::Cashier;
use crate::shop::{Shop, euros, floor, stand};
use crate::witness::NODE;

/// Steps of a story.
const STEPS: usize = 14;
/// Buyers beyond the number of seats.
const BUYERS: i64 = 5;

#[derive(Debug, Clone)]
enum Step {
    /// An account requests seats.
    Book { account: i64, wish: Wish },
    /// An earlier message is repeated.
    Redeliver(usize),
    /// A buyer authorises.
    Pay(usize),
    /// A buyer, or staff, cancels a booking.
    Cancel(usize),
    /// Time passes, and some holds expire.
    Pass(TimeDelta),
    /// A pause.
    Rest(Duration),
}

/// One event and its steps.
pub(super) struct Story {
    pub(super) event_id: EventId,
    is_free: bool,
    steps: Vec<Step>,
}

impl Story {
    pub(super) fn of(seed: u64, event: i64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let event_id = EventId(event);
        Self {
            event_id,
            is_free: rng.random_bool(0.1),
            steps: (0..STEPS).map(|_| draw(&mut rng, event)).collect(),
        }
    }

    /// A row of three seats and a floor of two places.
    pub(super) fn sections(&self) -> Vec<Section> {
        let price = euros(if self.is_free { 0 } else { 700 });
        let row = stand(self.event_id.0 * 10, 1, 3);
        let mut sections = vec![row, floor(self.event_id.0 * 10 + 1, 2, price)];
        if self.is_free {
            sections[0].tier.price = price;
        }
        sections
    }

    /// Runs the steps; returns the bookings that were requested.
    pub(super) async fn tell(&self, shop: &Shop, cashier: &Cashier) -> Vec<BookingId> {
        let mut sent: Vec<PlaceHold> = Vec::new();
        for step in &self.steps {
            match step {
                Step::Book { account, wish } => {
                    let mut request = shop.request(*account, wish.clone());
                    request.event_id = self.event_id;
                    // The clock of all stories jumps by minutes, and no buyer has left.
                    request.asked_at = Some(shop.clock.now() + TimeDelta::days(1));
                    shop.send(&request).await;
                    sent.push(request);
                }
                Step::Redeliver(nth) => {
                    if let Some(request) = pick(&sent, *nth) {
                        shop.send(request).await;
                    }
                }
                Step::Pay(nth) => {
                    if let Some(request) = pick(&sent, *nth) {
                        cashier.authorise(request.booking_id).await;
                    }
                }
                Step::Cancel(nth) => {
                    if let Some(request) = pick(&sent, *nth) {
                        shop.send_cancellation(&CancelBooking {
                            booking_id: request.booking_id,
                            event_id: self.event_id,
                            asked_by: AccountId(1),
                            reply_to: NODE.to_owned(),
                        })
                        .await;
                    }
                }
                Step::Pass(time) => shop.clock.advance(*time),
                Step::Rest(time) => tokio::time::sleep(*time).await,
            }
        }
        sent.iter().map(|request| request.booking_id).collect()
    }
}

fn pick(sent: &[PlaceHold], nth: usize) -> Option<&PlaceHold> {
    sent.get(nth % sent.len().max(1))
}

fn draw(rng: &mut StdRng, event: i64) -> Step {
    let nth = rng.random_range(0..STEPS);
    match rng.random_range(0..100) {
        0..35 => Step::Book {
            account: event * 100 + rng.random_range(0..BUYERS),
            wish: draw_wish(rng, event),
        },
        35..45 => Step::Redeliver(nth),
        45..65 => Step::Pay(nth),
        65..75 => Step::Cancel(nth),
        75..80 => Step::Pass(TimeDelta::seconds(rng.random_range(1..40))),
        _ => Step::Rest(Duration::from_millis(rng.random_range(1..150))),
    }
}

fn draw_wish(rng: &mut StdRng, event: i64) -> Wish {
    let tickets = rng.random_range(1..=3);
    let section = [event * 10, event * 10 + 1];
    if rng.random_bool(0.3) {
        Wish::best_in(
            SectionId(*section.choose(rng).expect("there are two")),
            tickets,
        )
    } else {
        Wish::best(tickets)
    }
}
