//! Test harness: a notifier with stand-ins for mail and SMS, and the messages of other services.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use domain::booking::{BookedSeat, BookingFacts, TicketFacts};
use domain::clock::{SharedClock, SystemClock};
use domain::event::{Event, EventState};
use domain::message::{
    AccountChanged, BookingCancelled, BookingPaid, ConfirmationAsked, ContactChannel, EventChanged,
    Message,
};
use domain::{AccountId, BookingId, Currency, EventId, Money, SeatId};
use platform::amqp::Exchange;
use platform::service::{Context, Routes};
use platform::testing::{TestApp, eventually, wait_until_consumed};
use platform::topology;
use stand_ins::mail::Mail;
use stand_ins::{mail, sms};
use uuid::Uuid;

/// Time limit of every wait.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const EMAIL: &str = "ada@buyers.test";
pub(crate) const PHONE: &str = "+491701234567";
pub(crate) const ACCOUNT: AccountId = AccountId(7);

#[derive(clap::Parser)]
#[command(args_override_self = true)]
struct Command {
    #[command(flatten)]
    config: notifier::Config,
}

pub(crate) struct Stage {
    pub(crate) app: TestApp,
    pub(crate) mail: mail::StandIn,
    pub(crate) sms: sms::StandIn,
    pub(crate) staff: SocketAddr,
    flags: &'static [&'static str],
}

/// A row of `notifier.notifications`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) kind: String,
    pub(crate) channel: String,
    pub(crate) state: String,
    pub(crate) tries: i32,
    pub(crate) last_error: Option<String>,
}

impl Stage {
    /// Starts with the system clock and empty tables.
    pub(crate) async fn start() -> Self {
        Self::start_with(SystemClock::shared()).await
    }

    pub(crate) async fn start_with(clock: SharedClock) -> Self {
        Self::start_at(clock, mail::Config::default(), &[]).await
    }

    /// Starts with a clock, a mail server's configuration, and flags that override the defaults.
    pub(crate) async fn start_at(
        clock: SharedClock,
        mail: mail::Config,
        flags: &'static [&'static str],
    ) -> Self {
        let app = TestApp::start_with(clock, |_| ()).await;
        topology::declare_all(&app.ctx.broker).await.unwrap();
        let mut stage = Self {
            app,
            staff: SocketAddr::from(([127, 0, 0, 1], 0)),
            mail: mail::StandIn::start(mail).await.unwrap(),
            sms: sms::StandIn::start(sms::Config::default()).await.unwrap(),
            flags,
        };
        let routes = stage.start_notifier(stage.app.ctx.clone()).await;
        stage.staff = stage.app.serve(routes).await.internal_addr;
        stage
    }

    pub(crate) async fn start_notifier(&self, ctx: Context) -> Routes {
        let (smtp_url, sms_url) = (self.mail.smtp_url(), self.sms.url());
        let mut flags = vec![
            "notifier",
            "--smtp-url",
            &smtp_url,
            "--mail-from",
            "Onsale <tickets@onsale.test>",
            "--sms-url",
            &sms_url,
            "--sms-account",
            self.sms.account_sid(),
            "--sms-token",
            self.sms.auth_token(),
            "--sms-from",
            "+4930123456",
            "--held-mail-delay-seconds=0",
            "--news-delay-seconds=0",
        ];
        flags.extend(self.flags);
        let config = Command::parse_from(flags);
        let routes = notifier::start(ctx.clone(), config.config).await.unwrap();
        wait_until_consumed(&ctx, &routes).await;
        routes
    }

    /// Publishes an event and the account, optionally with a phone, and waits until both are known.
    pub(crate) async fn introduce(&self, event: &Event, phone: Option<&str>) {
        self.tell(&EventChanged {
            event: event.clone(),
        })
        .await;
        self.tell(&AccountChanged {
            account_id: ACCOUNT,
            version: 1,
            email: EMAIL.into(),
            name: "Ada".into(),
            phone: phone.map(str::to_owned),
        })
        .await;
        eventually(SOON, async || self.knows(event).await).await;
    }

    /// Asks for a code to a contact of the account; returns its nonce.
    pub(crate) async fn ask_for_code(&self, channel: ContactChannel, address: &str) -> Uuid {
        let nonce = Uuid::new_v4();
        self.tell(&ConfirmationAsked {
            account_id: ACCOUNT,
            channel,
            address: address.to_owned(),
            nonce,
            good_until: self.app.ctx.clock.now() + chrono::TimeDelta::minutes(10),
        })
        .await;
        nonce
    }

    /// Returns true if this version of the event, and an account, are stored.
    pub(crate) async fn knows(&self, event: &Event) -> bool {
        sqlx::query_scalar(
            "select exists (select from notifier.events where event_id = $1 and version = $2)
                and exists (select from notifier.accounts)",
        )
        .bind(event.id.0)
        .bind(event.version)
        .fetch_one(&self.app.ctx.db)
        .await
        .unwrap()
    }

    /// Publishes a message twice, as at-least-once delivery may.
    pub(crate) async fn tell<M: Message>(&self, message: &M) {
        for _ in 0..2 {
            self.app
                .ctx
                .broker
                .publish(Exchange::Events, M::NAME, message, Uuid::new_v4())
                .await
                .unwrap();
        }
    }

    /// Publishes a new paid booking of two tickets.
    pub(crate) async fn pay(&self, event: &Event) -> BookingPaid {
        let paid = self.paid(event, 2);
        self.tell(&paid).await;
        paid
    }

    pub(crate) fn paid(&self, event: &Event, tickets: i32) -> BookingPaid {
        let now = self.app.ctx.clock.now();
        let seats: Vec<_> = (1..=tickets)
            .map(|number| BookedSeat {
                id: SeatId(number.into()),
                section: "Stalls".into(),
                row: Some("C".into()),
                number: Some(number),
            })
            .collect();
        let ticket = |seat: &BookedSeat| TicketFacts {
            code: format!("T-{}", Uuid::new_v4().simple()),
            seat: seat.clone(),
        };
        BookingPaid {
            tickets: seats.iter().map(ticket).collect(),
            booking: BookingFacts {
                booking_id: BookingId::new(now),
                event_id: event.id,
                account_id: ACCOUNT,
                seats,
                total: Money::new(4_500, Currency::EUR),
                hold_until: now + Duration::from_secs(600),
                created_at: now,
            },
        }
    }

    pub(crate) async fn cancel(&self, paid: &BookingPaid) {
        let booking = paid.booking.clone();
        self.tell(&BookingCancelled {
            booking,
            was_confirmed: true,
            asked: None,
        })
        .await;
    }

    /// Inserts paid bookings of the account without notifications.
    pub(crate) async fn know_bookings(&self, event: &Event, count: i32) {
        let paid = serde_json::to_value(self.paid(event, 1)).unwrap();
        sqlx::query(
            "insert into notifier.bookings (booking_id, event_id, account_id, live, facts)
             select id, $1, $2, true, jsonb_set($3, '{booking,booking_id}', to_jsonb(id))
             from (select gen_random_uuid() as id from generate_series(1, $4)) as new",
        )
        .bind(event.id.0)
        .bind(ACCOUNT.0)
        .bind(paid)
        .bind(count)
        .execute(&self.app.ctx.db)
        .await
        .unwrap();
    }

    /// Runs a query that returns one number.
    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap()
    }

    /// Returns the notifications of a booking, oldest first.
    pub(crate) async fn rows(&self, booking_id: BookingId) -> Vec<Row> {
        sqlx::query_as(
            "select kind, channel, state, tries, last_error from notifier.notifications
             where booking_id = $1 order by created_at, channel, kind",
        )
        .bind(booking_id.0)
        .fetch_all(&self.app.ctx.db)
        .await
        .unwrap()
    }

    /// Waits until a mail of this kind waits for another try.
    pub(crate) async fn mail_is_put_off(&self, booking_id: BookingId, kind: &str) {
        let is_it = |row: &Row| row.kind == kind && row.channel == "email" && row.tries > 0;
        let is_put_off = |row: &Row| is_it(row) && row.last_error.is_some();
        eventually(SOON, async || {
            self.rows(booking_id).await.iter().any(is_put_off)
        })
        .await;
        self.mail_is(booking_id, kind, "waiting").await;
    }

    /// Waits until a mail of this kind is in this state.
    pub(crate) async fn mail_is(&self, booking_id: BookingId, kind: &str, state: &str) {
        let is_it = |row: &Row| row.kind == kind && row.channel == "email" && row.state == state;
        eventually(SOON, async || self.rows(booking_id).await.iter().any(is_it)).await;
    }

    /// Returns the mails of a kind about a booking that the mail server accepted.
    pub(crate) fn mails(&self, booking_id: BookingId, kind: &str) -> Vec<Arc<Mail>> {
        let (start, end) = (format!("{kind}."), format!(".{booking_id}@onsale.test"));
        let mut mails = self.mail.inbox().all();
        mails.retain(|mail| {
            let id = mail.message_id.as_deref().unwrap_or_default();
            id.starts_with(&start) && id.ends_with(&end)
        });
        mails
    }
}

/// An event a month ahead, in Berlin.
pub(crate) fn event(clock: &SharedClock) -> Event {
    Event {
        id: EventId(1),
        version: 1,
        name: "Gala".into(),
        date: clock.now() + chrono::TimeDelta::days(30),
        capacity: 100,
        description: String::new(),
        category: "concert".into(),
        venue: "Opera".into(),
        city: "Berlin".into(),
        country: "DE".into(),
        time_zone: "Europe/Berlin".into(),
        state: EventState::Announced,
        max_tickets_per_account: 6,
        reminder_before_seconds: None,
        ticket_transfer: false,
        sections: Vec::new(),
    }
}
