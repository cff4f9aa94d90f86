//! One buyer's purchase, from signing up to the ticket.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::api::{Api, ApiError, Credentials, jittered, text};
use super::funnel::{Funnel, Stage};
use super::plan::{Card, Habits, Plan};
use super::session::Session;
use crate::challenge;

/// The password of every simulated buyer.
pub const PASSWORD: &str = "correct horse battery";
/// First pause between polls of a booking.
const FIRST_LOOK: Duration = Duration::from_millis(150);
/// Longest pause between polls of a booking.
const MAX_LOOK: Duration = Duration::from_secs(2);
/// Time limit of a whole purchase: a sale that makes no progress is an error.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// Booking attempts of a buyer who finds every seat held.
const BOOKING_ATTEMPTS: u32 = 4;
/// Attempts to reach Stripe.
const PAYMENT_ATTEMPTS: u32 = 20;

/// Attempts to solve a challenge: one may expire meanwhile.
const CHALLENGES: u32 = 3;

/// Outcome of a purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Has tickets.
    Confirmed {
        /// The booking with the tickets.
        booking_id: Uuid,
    },
    /// Had tickets and cancelled.
    Cancelled {
        /// The cancelled booking.
        booking_id: Uuid,
    },
    /// The hold ended unpaid, as planned or because every card was declined.
    Unpaid {
        /// The unpaid booking.
        booking_id: Uuid,
    },
    /// Nothing was left.
    SoldOut,
    /// Booking was refused for another reason.
    Rejected(String),
    /// Did not come when called, or came too late.
    Missed,
    /// Left the queue.
    Left,
    /// Closed the page while waiting, at the end set by [`Buyer::with_end`].
    Waiting,
}

/// One simulated buyer.
#[derive(Debug, Clone)]
pub struct Buyer {
    api: Api,
    funnel: Arc<Funnel>,
    event_id: i64,
    email: String,
    tickets: u32,
    plan: Plan,
    habits: Habits,
    patience: Duration,
    end: CancellationToken,
}

impl Buyer {
    /// A buyer of `tickets` for `event_id` who follows `plan`.
    #[must_use]
    pub fn new(
        api: Api,
        funnel: Arc<Funnel>,
        event_id: i64,
        email: String,
        tickets: u32,
        plan: Plan,
    ) -> Self {
        Self {
            api,
            funnel,
            event_id,
            email,
            tickets,
            plan,
            habits: Habits::default(),
            patience: PATIENCE,
            end: CancellationToken::new(),
        }
    }

    /// Sets the habits; by default there are no disturbances.
    #[must_use]
    pub fn with_habits(self, habits: Habits) -> Self {
        Self { habits, ..self }
    }

    /// Sets the time limit of the whole purchase; an hour by default.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sets the end: a buyer who is still waiting then closes the page. Those who
    /// were called go on.
    #[must_use]
    pub fn with_end(self, end: CancellationToken) -> Self {
        Self { end, ..self }
    }

    /// Creates the account, or signs in when it exists.
    ///
    /// # Errors
    /// When the API refuses, or does not answer for minutes.
    pub async fn sign_up(&self) -> Result<Session, ApiError> {
        let started = Instant::now();
        let url = self.api.box_office("/api/accounts");
        let made = self.post_unsigned(&url, &self.password()).await;
        let session = match made {
            Err(error) if error.kind() == "email-taken" => self.sign_in().await?,
            other => Session::of(&other?),
        };
        self.funnel.reached(Stage::SignedUp, started.elapsed());
        Ok(session)
    }

    /// Signs in, as on another device.
    ///
    /// # Errors
    /// When the API refuses, or does not answer for minutes.
    pub async fn sign_in(&self) -> Result<Session, ApiError> {
        let started = Instant::now();
        let url = self.api.box_office("/api/sessions");
        let answer = self.post_unsigned(&url, &self.password()).await?;
        self.funnel.reached(Stage::SignedIn, started.elapsed());
        Ok(Session::of(&answer))
    }

    fn password(&self) -> Value {
        json!({ "email": self.email, "password": PASSWORD })
    }

    /// Follows the plan from joining to its end, or to an earlier one.
    ///
    /// # Errors
    /// When a response is not one of a correct server, requests fail for minutes, or the purchase
    /// takes longer than the buyer's patience.
    pub async fn shop(&self, session: &Session) -> Result<Fate, ApiError> {
        let shopping = self.shop_with_patience(session);
        let ended = tokio::time::timeout(self.patience, shopping).await;
        ended.unwrap_or_else(|_| {
            let email = self.email.clone();
            Err(ApiError::OutOfPatience(email, self.patience))
        })
    }

    async fn shop_with_patience(&self, session: &Session) -> Result<Fate, ApiError> {
        let other_device;
        let session = if self.habits.signs_in_at_the_opening {
            other_device = self.sign_in().await?;
            &other_device
        } else {
            session
        };
        let joined = match self.join(session).await {
            Err(error) if error.kind() == "queue-closed" => return Ok(Fate::SoldOut),
            other => other?,
        };
        let queue_token = text(&joined, "queue_token");
        if self.plan == Plan::LeaveQueue {
            let credentials = Credentials {
                queue_token: Some(queue_token),
                ..Credentials::default()
            };
            let url = self
                .api
                .waiting_room(&format!("/api/events/{}/queue/me", self.event_id));
            self.ask(session, Method::DELETE, &url, credentials).await?;
            return Ok(Fate::Left);
        }
        let queued = Instant::now();
        if let Some(fate) = self.wait_for_turn(session, queue_token).await? {
            return Ok(fate);
        }
        if self.plan == Plan::NoShow {
            return Ok(Fate::Missed);
        }
        let Some(pass) = self.claim(session, queue_token).await? else {
            return Ok(Fate::Missed);
        };
        self.funnel.reached(Stage::Admitted, queued.elapsed());
        let fate = self.book(session, &pass).await?;
        self.finish(session, &pass).await;
        Ok(fate)
    }

    /// Joins the queue; returns the response with the queue token.
    ///
    /// # Errors
    /// When the API refuses, or does not answer for minutes.
    pub async fn join(&self, session: &Session) -> Result<Value, ApiError> {
        let started = Instant::now();
        let joined = self.try_join(session).await?;
        self.funnel.reached(Stage::Joined, started.elapsed());
        Ok(joined)
    }

    async fn try_join(&self, session: &Session) -> Result<Value, ApiError> {
        let url = self
            .api
            .waiting_room(&format!("/api/events/{}/queue", self.event_id));
        let mut body = json!({});
        for _ in 0..CHALLENGES {
            match self
                .post(session, &url, Credentials::default(), &body)
                .await
            {
                Err(error) if error.kind().starts_with("challenge-") => {
                    body = json!({ "challenge": self.solve(session).await? });
                }
                outcome => return outcome,
            }
        }
        self.post(session, &url, Credentials::default(), &body)
            .await
    }

    /// Requests a challenge and solves it.
    async fn solve(&self, session: &Session) -> Result<Option<String>, ApiError> {
        let path = format!("/api/events/{}/queue/challenge", self.event_id);
        let url = self.api.waiting_room(&path);
        let challenge = self
            .ask(session, Method::GET, &url, Credentials::default())
            .await?;
        let solving = tokio::task::spawn_blocking(move || challenge::solve(&challenge));
        Ok(solving.await.unwrap_or_default())
    }

    /// Polls at the server's pace until called; returns a fate when the wait ends otherwise.
    async fn wait_for_turn(
        &self,
        session: &Session,
        queue_token: &str,
    ) -> Result<Option<Fate>, ApiError> {
        let url = self
            .api
            .waiting_room(&format!("/api/events/{}/queue/me", self.event_id));
        let credentials = Credentials {
            queue_token: Some(queue_token),
            ..Credentials::default()
        };
        let mut reloads = self.habits.reloads;
        let mut offline = self.habits.offline;
        let _waiting = self.funnel.wait();
        loop {
            let me = self.ask(session, Method::GET, &url, credentials).await?;
            match (text(&me, "state"), text(&me, "sale")) {
                ("ready" | "claimed", _) => return Ok(None),
                ("missed", _) => return Ok(Some(Fate::Missed)),
                ("left", _) => return Ok(Some(Fate::Left)),
                (_, "sold_out" | "closed") => return Ok(Some(Fate::SoldOut)),
                _ => {}
            }
            if reloads > 0 {
                reloads -= 1;
                self.reload().await?;
            }
            let pause = me["poll_after_ms"].as_u64().unwrap_or(1_000);
            let pause = Duration::from_millis(pause) + std::mem::take(&mut offline);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.end.cancelled() => return Ok(Some(Fate::Waiting)),
            }
        }
    }

    /// Reloads the page: its document, the event and the snapshot. The place comes from the page's
    /// storage, and the next poll stays on schedule.
    async fn reload(&self) -> Result<(), ApiError> {
        let page = format!("/events/{}", self.event_id);
        self.api.visit(&self.api.box_office(&page)).await;
        let event = self
            .api
            .box_office(&format!("/api/events/{}", self.event_id));
        let snapshot = format!("/api/events/{}/queue", self.event_id);
        let snapshot = self.api.waiting_room(&snapshot);
        for url in [event, snapshot] {
            let nobody = Credentials::default();
            self.api
                .call(Method::GET, &url, nobody, None, &self.funnel)
                .await?;
        }
        Ok(())
    }

    /// Claims the pass; `None` when the claim window has passed.
    async fn claim(
        &self,
        session: &Session,
        queue_token: &str,
    ) -> Result<Option<String>, ApiError> {
        let url = self
            .api
            .admission(&format!("/api/events/{}/pass", self.event_id));
        let credentials = Credentials {
            queue_token: Some(queue_token),
            ..Credentials::default()
        };
        loop {
            match self.post(session, &url, credentials, &json!({})).await {
                Ok(answer) => return Ok(Some(text(&answer, "pass").to_owned())),
                Err(error) if error.kind() == "place-missed" => return Ok(None),
                // The snapshot that said "ready" may be ahead of admission's view.
                Err(error) if error.kind() == "not-called" => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn book(&self, session: &Session, pass: &str) -> Result<Fate, ApiError> {
        let mut attempts_left = BOOKING_ATTEMPTS;
        loop {
            let started = Instant::now();
            let booking = match self.request(session, pass).await {
                Ok(booking) => booking,
                Err(error) if error.kind() == "pass-invalid" => return Ok(Fate::Missed),
                // A repeat so late that the hold of the first request has expired.
                Err(ApiError::Refused { kind, problem, .. }) if kind == "conflict" => {
                    let booking_id = text(&problem, "booking_id").parse().unwrap_or_default();
                    return Ok(Fate::Unpaid { booking_id });
                }
                Err(error) => return Err(error),
            };
            match text(&booking, "state") {
                "held" => {
                    self.funnel.reached(Stage::Held, started.elapsed());
                    return self.settle(session, &booking).await;
                }
                "confirmed" => return Ok(self.confirmed(booking_id(&booking), started)),
                _ => {}
            }
            let reason = text(&booking, "reason");
            attempts_left -= 1;
            let may_come_back = matches!(reason, "sold_out" | "not_adjacent");
            if !may_come_back || attempts_left == 0 || !self.seats_come_back().await? {
                return Ok(rejected(reason));
            }
        }
    }

    /// Requests seats; returns the decided booking, or the problem of a rejection.
    async fn request(&self, session: &Session, pass: &str) -> Result<Value, ApiError> {
        let key = Uuid::new_v4().to_string();
        let credentials = Credentials {
            pass: Some(pass),
            idempotency_key: Some(&key),
            ..Credentials::default()
        };
        let url = self.api.admission("/api/bookings");
        let wish = json!({
            "event_id": self.event_id, "user_id": session.account_id(), "tickets": self.tickets,
        });
        match self.post(session, &url, credentials, &wish).await {
            Ok(answer) => self.decided(session, answer["booking"].clone()).await,
            Err(ApiError::Refused { kind, problem, .. }) if kind == "booking-rejected" => {
                Ok(problem)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until enough seats are free, while other buyers' holds may still expire. Returns
    /// `false` once none are held.
    async fn seats_come_back(&self) -> Result<bool, ApiError> {
        let url = self
            .api
            .box_office(&format!("/api/events/{}/availability", self.event_id));
        loop {
            tokio::time::sleep(jittered(MAX_LOOK)).await;
            let credentials = Credentials::default();
            let stock = self
                .api
                .call(Method::GET, &url, credentials, None, &self.funnel)
                .await?;
            let sections = stock["sections"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let count = |section: &Value, what: &str| section[what].as_u64().unwrap_or_default();
            if sections
                .iter()
                .any(|one| count(one, "available") >= u64::from(self.tickets))
            {
                return Ok(true);
            }
            if sections.iter().all(|one| count(one, "held") == 0) {
                return Ok(false);
            }
        }
    }

    /// Follows the plan for a held booking.
    async fn settle(&self, session: &Session, booking: &Value) -> Result<Fate, ApiError> {
        match self.plan {
            Plan::AbandonHold => Ok(Fate::Unpaid {
                booking_id: booking_id(booking),
            }),
            Plan::CancelHold => match self.cancel(session, booking).await {
                // The hold expired first.
                Err(error) if error.kind() != "conflict" => Err(error),
                _ => Ok(Fate::Unpaid {
                    booking_id: booking_id(booking),
                }),
            },
            _ => self.pay(session, booking).await,
        }
    }

    /// Waits until a worker has decided the booking.
    async fn decided(&self, session: &Session, booking: Value) -> Result<Value, ApiError> {
        if text(&booking, "state") != "requested" {
            return Ok(booking);
        }
        self.booking_when(session, booking_id(&booking), |b| {
            text(b, "state") != "requested"
        })
        .await
    }

    async fn pay(&self, session: &Session, booking: &Value) -> Result<Fate, ApiError> {
        let other_device;
        let session = if self.habits.pays_from_the_mail {
            other_device = self.sign_in().await?;
            &other_device
        } else {
            session
        };
        let id = booking_id(booking);
        let due =
            |b: &Value| !b["payment"]["client_secret"].is_null() || text(b, "state") != "held";
        let booking = self.booking_when(session, id, due).await?;
        if text(&booking, "state") != "held" {
            return Ok(Fate::Unpaid { booking_id: id });
        }
        let payment = &booking["payment"];
        let paid = match self.plan {
            Plan::Buy(card) => self.authorise(payment, card).await,
            Plan::BuyWithSecondCard => {
                let _declined = self.authorise(payment, Card::Declined).await;
                self.authorise(payment, Card::Good).await
            }
            _ => self.authorise(payment, Card::Good).await,
        };
        if !paid {
            return Ok(Fate::Unpaid { booking_id: id });
        }
        let paid_at = Instant::now();
        self.funnel.reached(Stage::Paid, Duration::ZERO);
        let booking = self
            .booking_when(session, id, |b| text(b, "state") != "held")
            .await?;
        if text(&booking, "state") != "confirmed" {
            return Ok(Fate::Unpaid { booking_id: id });
        }
        let fate = self.confirmed(id, paid_at);
        if self.plan == Plan::BuyThenCancel {
            self.cancel(session, &booking).await?;
            self.funnel.reached(Stage::Cancelled, paid_at.elapsed());
            return Ok(Fate::Cancelled { booking_id: id });
        }
        Ok(fate)
    }

    fn confirmed(&self, booking_id: Uuid, since: Instant) -> Fate {
        self.funnel.reached(Stage::Confirmed, since.elapsed());
        Fate::Confirmed { booking_id }
    }

    /// Confirms the payment at Stripe; returns whether it was authorised. A request without a
    /// response is retried: the intent then shows whether it is authorised.
    async fn authorise(&self, payment: &Value, card: Card) -> bool {
        for _ in 0..PAYMENT_ATTEMPTS {
            let answer = self
                .api
                .confirm_payment(payment, card.payment_method(), "https://example.org")
                .await;
            let Ok(answer) = answer else {
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            };
            let intent = if answer["error"].is_object() {
                &answer["error"]["payment_intent"]
            } else {
                &answer
            };
            match text(intent, "status") {
                "requires_capture" | "succeeded" => return true,
                "requires_action" => return self.pass_challenge(payment).await,
                "requires_payment_method" | "canceled" => return false,
                _ => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
        false
    }

    async fn pass_challenge(&self, payment: &Value) -> bool {
        for _ in 0..PAYMENT_ATTEMPTS {
            if let Ok(intent) = self.api.authenticate(payment).await {
                return text(&intent, "status") == "requires_capture";
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        false
    }

    async fn cancel(&self, session: &Session, booking: &Value) -> Result<(), ApiError> {
        let url = self
            .api
            .admission(&format!("/api/bookings/{}/cancel", booking_id(booking)));
        self.ask(session, Method::PUT, &url, Credentials::default())
            .await
            .map(drop)
    }

    /// Releases the pass. A failure is ignored, as when a buyer closes the tab.
    async fn finish(&self, session: &Session, pass: &str) {
        let url = self
            .api
            .admission(&format!("/api/events/{}/pass", self.event_id));
        let credentials = Credentials {
            pass: Some(pass),
            ..Credentials::default()
        };
        if let Err(error) = self.ask(session, Method::DELETE, &url, credentials).await {
            tracing::debug!(%error, "failed to give the pass back");
        }
    }

    /// Polls the booking until `done` holds.
    async fn booking_when(
        &self,
        session: &Session,
        id: Uuid,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Value, ApiError> {
        let url = self.api.admission(&format!("/api/bookings/{id}"));
        let mut pause = FIRST_LOOK;
        loop {
            let answer = self
                .ask(session, Method::GET, &url, Credentials::default())
                .await?;
            let booking = &answer["booking"];
            if done(booking) {
                return Ok(booking.clone());
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 3 / 2).min(MAX_LOOK);
        }
    }

    async fn post(
        &self,
        session: &Session,
        url: &url::Url,
        credentials: Credentials<'_>,
        body: &Value,
    ) -> Result<Value, ApiError> {
        let (api, funnel) = (&self.api, &self.funnel);
        session
            .call(api, Method::POST, url, credentials, Some(body), funnel)
            .await
    }

    /// A call without a body.
    async fn ask(
        &self,
        session: &Session,
        method: Method,
        url: &url::Url,
        credentials: Credentials<'_>,
    ) -> Result<Value, ApiError> {
        let (api, funnel) = (&self.api, &self.funnel);
        session
            .call(api, method, url, credentials, None, funnel)
            .await
    }

    async fn post_unsigned(&self, url: &url::Url, body: &Value) -> Result<Value, ApiError> {
        let nobody = Credentials::default();
        self.api
            .call(Method::POST, url, nobody, Some(body), &self.funnel)
            .await
    }
}

fn booking_id(booking: &Value) -> Uuid {
    text(booking, "id").parse().unwrap_or_default()
}

fn rejected(reason: &str) -> Fate {
    match reason {
        "sold_out" | "not_adjacent" => Fate::SoldOut,
        other => Fate::Rejected(other.to_owned()),
    }
}
