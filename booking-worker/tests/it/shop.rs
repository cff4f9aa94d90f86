//! A running booking worker with one event on sale.

use std::sync::Arc;
use std::time::Duration;

use booking_worker::Config;
use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::{BookingFacts, Wish};
use domain::clock::{Clock, ManualClock};
use domain::event::{Event, EventState, Section, Tier};
use domain::message::{
    CancelBooking, EventChanged, Message, Outcome, PaymentAuthorised, PaymentVoided, PlaceHold,
    RefundSucceeded, SaleChanged,
};
use domain::sale::SaleSettings;
use domain::{AccountId, BookingId, Currency, EventId, Money, SectionId};
use platform::amqp::{Exchange, dead_letters};
use platform::testing::{TestApp, eventually, wait_until_consumed};
use platform::topology;
use uuid::Uuid;

use crate::invariants::assert_invariants;
use crate::witness::{NODE, Witness};

/// Longest wait for a condition, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const EVENT: EventId = EventId(1);
pub(crate) const HOLD_SECONDS: i64 = 60;

pub(crate) struct Shop {
    pub(crate) app: TestApp,
    pub(crate) clock: ManualClock,
    pub(crate) witness: Witness,
}

pub(crate) fn config() -> Config {
    Config { max_batch: 16 }
}

pub(crate) fn opening() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

pub(crate) fn euros(amount_minor: i64) -> Money {
    Money::new(amount_minor, Currency::EUR)
}

/// A general-admission section.
pub(crate) fn floor(id: i64, capacity: u32, price: Money) -> Section {
    Section {
        id: SectionId(id),
        name: format!("Floor {id}"),
        numbered: false,
        capacity,
        rows: None,
        seats_per_row: None,
        tier: Tier {
            name: "Standard".to_owned(),
            price,
        },
    }
}

/// A numbered section.
pub(crate) fn stand(id: i64, rows: u32, per_row: u32) -> Section {
    Section {
        name: format!("Stand {id}"),
        numbered: true,
        rows: Some(rows),
        seats_per_row: Some(per_row),
        ..floor(id, rows * per_row, euros(1500))
    }
}

pub(crate) fn event(version: i64, sections: Vec<Section>) -> Event {
    Event {
        id: EVENT,
        version,
        name: "Night of the Proms".to_owned(),
        date: opening() + TimeDelta::days(60),
        capacity: sections.iter().map(|section| section.capacity).sum(),
        description: String::new(),
        category: String::new(),
        venue: String::new(),
        city: String::new(),
        country: String::new(),
        time_zone: "UTC".to_owned(),
        state: EventState::Announced,
        max_tickets_per_account: 4,
        reminder_before_seconds: None,
        ticket_transfer: false,
        sections,
    }
}

pub(crate) fn sale(version: i64) -> SaleSettings {
    SaleSettings {
        version,
        hold_seconds: u32::try_from(HOLD_SECONDS).unwrap(),
        ..domain::testing::sale(EVENT, opening())
    }
}

pub(crate) fn best(tickets: u32) -> Wish {
    Wish::best(tickets)
}

impl Shop {
    /// Starts a worker with nothing on sale.
    pub(crate) async fn start() -> Self {
        let shop = Self::empty().await;
        let routes = booking_worker::start(shop.app.ctx.clone(), config()).await;
        wait_until_consumed(&shop.app.ctx, &routes.unwrap()).await;
        shop
    }

    /// Without a worker.
    pub(crate) async fn empty() -> Self {
        let clock = ManualClock::at(opening());
        let app = TestApp::start_with(Arc::new(clock.clone()), |_| ()).await;
        topology::declare_all(&app.ctx.broker).await.unwrap();
        let witness = Witness::listen(&app.ctx).await;
        Self {
            app,
            clock,
            witness,
        }
    }

    /// Starts a worker with these sections on sale.
    pub(crate) async fn open(sections: Vec<Section>) -> Self {
        let shop = Self::start().await;
        shop.put_on_sale(sections).await;
        shop
    }

    pub(crate) async fn put_on_sale(&self, sections: Vec<Section>) {
        self.tell(&EventChanged {
            event: event(1, sections),
        })
        .await;
        self.tell(&SaleChanged { sale: sale(1) }).await;
        self.eventually_row("select from booking.events").await;
        self.eventually_row("select from booking.sales").await;
    }

    /// Waits until a query returns a row.
    pub(crate) async fn eventually_row(&self, query: &'static str) {
        eventually(LIMIT, async || {
            sqlx::query(query)
                .fetch_optional(&self.app.ctx.db)
                .await
                .unwrap()
                .is_some()
        })
        .await;
    }

    pub(crate) async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap()
    }

    /// Publishes a message, twice.
    pub(crate) async fn tell<M: Message>(&self, message: &M) {
        let id = Uuid::new_v4();
        for _ in 0..2 {
            let exchange = Exchange::for_name(M::NAME);
            self.app
                .ctx
                .broker
                .publish(exchange, M::NAME, message, id)
                .await
                .unwrap();
        }
    }

    async fn command<M: Message>(&self, queue: &str, command: &M) {
        let broker = &self.app.ctx.broker;
        broker
            .publish(Exchange::Commands, queue, command, Uuid::new_v4())
            .await
            .unwrap();
    }

    pub(crate) fn request(&self, account: i64, wish: Wish) -> PlaceHold {
        PlaceHold {
            booking_id: BookingId::new(self.clock.now()),
            event_id: EVENT,
            account_id: AccountId(account),
            wish,
            accepted_at: self.clock.now(),
            reply_to: NODE.to_owned(),
            asked_at: None,
            asked_by: Some(AccountId(account)),
        }
    }

    /// Sends a request once, to the partition of its event.
    pub(crate) async fn send(&self, request: &PlaceHold) {
        self.command(&topology::booking_requests_of(request.event_id), request)
            .await;
    }

    /// Sends a request to any partition, as if two workers had its event.
    pub(crate) async fn send_to(&self, partition: u16, request: &PlaceHold) {
        self.command(&topology::booking_requests(partition).name, request)
            .await;
    }

    /// Sends a request twice, and returns its outcome.
    pub(crate) async fn place(&self, account: i64, wish: Wish) -> (BookingId, Outcome) {
        let request = self.request(account, wish);
        self.send(&request).await;
        self.send(&request).await;
        let outcomes = self.outcomes(request.booking_id, 2).await;
        assert_eq!(outcomes[0], outcomes[1]);
        (request.booking_id, outcomes[0].clone())
    }

    /// Places a hold that must succeed.
    pub(crate) async fn hold(&self, account: i64, wish: Wish) -> BookingFacts {
        match self.place(account, wish).await {
            (_, Outcome::Held(facts)) => facts,
            (_, outcome) => panic!("not held: {outcome:?}"),
        }
    }

    /// Holds seats and authorises the payment, up to the tickets.
    pub(crate) async fn buy(&self, account: i64, tickets: u32) -> BookingFacts {
        let booking = self.hold(account, best(tickets)).await;
        self.authorise(&booking).await;
        self.eventually_state(booking.booking_id, "confirmed").await;
        booking
    }

    pub(crate) async fn authorise(&self, booking: &BookingFacts) {
        let (booking_id, amount) = (booking.booking_id, booking.total);
        self.tell(&PaymentAuthorised { booking_id, amount }).await;
    }

    pub(crate) async fn void(&self, booking_id: BookingId) {
        self.tell(&PaymentVoided { booking_id }).await;
    }

    /// Sends a cancellation, without waiting for its outcome.
    pub(crate) async fn send_cancel(&self, booking_id: BookingId) {
        let asked_by = AccountId(1);
        let reply_to = NODE.to_owned();
        let command = CancelBooking {
            booking_id,
            event_id: EVENT,
            asked_by,
            reply_to,
        };
        self.send_cancellation(&command).await;
    }

    /// Sends a cancellation once, to the partition of its event.
    pub(crate) async fn send_cancellation(&self, command: &CancelBooking) {
        let queue = topology::booking_requests_of(command.event_id);
        self.command(&queue, command).await;
    }

    /// Sends a cancellation twice, and returns its outcome.
    pub(crate) async fn cancel(&self, booking_id: BookingId) -> Outcome {
        let before = self.witness.outcomes(booking_id).len();
        self.send_cancel(booking_id).await;
        self.send_cancel(booking_id).await;
        let outcomes = self.outcomes(booking_id, before + 2).await;
        assert_eq!(outcomes[before], outcomes[before + 1]);
        outcomes[before].clone()
    }

    /// Returns the outcomes of a booking, once there are `count`.
    pub(crate) async fn outcomes(&self, id: BookingId, count: usize) -> Vec<Outcome> {
        eventually(LIMIT, async || self.witness.outcomes(id).len() >= count).await;
        self.witness.outcomes(id)
    }

    pub(crate) async fn state(&self, id: BookingId) -> Option<String> {
        sqlx::query_scalar("select state from booking.bookings where id = $1")
            .bind(id.0)
            .fetch_optional(&self.app.ctx.db)
            .await
            .unwrap()
    }

    pub(crate) async fn eventually_state(&self, id: BookingId, state: &str) {
        eventually(LIMIT, async || {
            self.state(id).await.as_deref() == Some(state)
        })
        .await;
    }

    /// Advances the clock past all holds.
    pub(crate) fn let_holds_run_out(&self) {
        self.clock.advance(TimeDelta::seconds(HOLD_SECONDS));
    }

    /// Waits until everything sent so far is handled: each queue is in order, so an unreadable
    /// message reaches the dead queue after all before it.
    pub(crate) async fn settle(&self) {
        let broker = &self.app.ctx.broker;
        let mut queues: Vec<_> = (0..topology::BOOKING_PARTITIONS)
            .map(|partition| topology::booking_requests(partition).name)
            .map(|name| (name.clone(), Exchange::Commands, name))
            .collect();
        let (payments, events) = (topology::booking_payments(), topology::booking_events());
        queues.push((
            payments.name,
            Exchange::Events,
            PaymentVoided::NAME.to_owned(),
        ));
        queues.push((events.name, Exchange::Events, SaleChanged::NAME.to_owned()));
        let unreadable = RefundSucceeded {
            booking_id: BookingId::new(self.clock.now()),
            event_id: EVENT,
            account_id: AccountId(0),
            amount: euros(0),
            number: 0,
        };
        for (queue, exchange, key) in queues {
            let before = dead_letters::count(broker, &queue).await.unwrap();
            broker
                .publish(exchange, &key, &unreadable, Uuid::new_v4())
                .await
                .unwrap();
            eventually(LIMIT, async || {
                dead_letters::count(broker, &queue)
                    .await
                    .is_ok_and(|count| count > before)
            })
            .await;
        }
        eventually(LIMIT, async || {
            self.count("select count(*) from platform.outbox").await == 0
        })
        .await;
    }

    /// Settles everything, asserts the invariants, and stops.
    pub(crate) async fn close(self) {
        self.settle().await;
        assert_invariants(&self.app.ctx.db).await;
        self.app.finish().await;
    }
}
