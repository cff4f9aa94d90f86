//! The stand-in's books: every PaymentIntent, Charge and Refund, as an independent witness of true
//! charges and refunds.

mod list;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use serde_json::Value;

pub(crate) use list::{Catalogue, ListQuery, first, limit};

use super::errors::Refusal;
use super::model::{Charge, Customer, Dispute, PaymentIntent, PaymentMethod, Refund};
use super::render;

/// Books of a stand-in.
pub struct Ledger {
    books: Mutex<Books>,
}

impl Ledger {
    pub(crate) fn new(clock: SharedClock, base_url: String, max_objects: usize) -> Self {
        let books = Books {
            clock,
            base_url,
            max_objects,
            intents: Catalogue::default(),
            charges: Catalogue::default(),
            refunds: Catalogue::default(),
            disputes: Catalogue::default(),
            customers: Catalogue::default(),
            methods: Catalogue::default(),
            expiries: VecDeque::new(),
            balance: None,
            news: Vec::new(),
        };
        Self {
            books: Mutex::new(books),
        }
    }

    /// Returns every PaymentIntent, oldest first.
    pub fn payment_intents(&self) -> Vec<PaymentIntent> {
        self.open().intents.iter().cloned().collect()
    }

    /// Returns the PaymentIntent with this id.
    pub fn payment_intent(&self, id: &str) -> Option<PaymentIntent> {
        self.open().intents.get(id).cloned()
    }

    /// Returns every refund, oldest first, including failed ones.
    pub fn refunds(&self) -> Vec<Refund> {
        self.open().refunds.iter().cloned().collect()
    }

    /// Returns every charge, successful or not, oldest first.
    pub fn charges(&self) -> Vec<Charge> {
        self.open().charges.iter().cloned().collect()
    }

    /// Returns every customer, oldest first, including deleted ones.
    pub fn customers(&self) -> Vec<Customer> {
        self.open().customers.iter().cloned().collect()
    }

    /// Returns the customer's saved payment methods, oldest first.
    pub fn payment_methods_of(&self, customer: &str) -> Vec<PaymentMethod> {
        let is_theirs = |method: &&PaymentMethod| method.customer.as_deref() == Some(customer);
        let books = self.open();
        books.methods.iter().filter(is_theirs).cloned().collect()
    }

    /// Returns the captured total of a PaymentIntent, in its currency's smallest unit.
    pub fn captured_total(&self, payment_intent: &str) -> i64 {
        self.open()
            .intents
            .get(payment_intent)
            .map_or(0, |intent| intent.amount_received)
    }

    /// Returns the refunded total of a PaymentIntent, in its currency's smallest unit.
    pub fn refunded_total(&self, payment_intent: &str) -> i64 {
        let books = self.open();
        let charge = books
            .intents
            .get(payment_intent)
            .and_then(|intent| books.charges.get(intent.latest_charge.as_ref()?));
        charge.map_or(0, |charge| charge.amount_refunded)
    }

    pub(crate) fn open(&self) -> MutexGuard<'_, Books> {
        self.books
            .lock()
            .expect("nothing panics while the books are open")
    }
}

/// A change to publish by webhook.
pub(crate) struct News {
    /// Stripe's event type.
    pub(crate) kind: &'static str,
    /// The object right after the change.
    pub(crate) object: Value,
}

/// A validated request's effect on the books.
pub(crate) type Effect = Box<dyn FnOnce(&mut Books) -> Result<Value, Refusal> + Send>;

pub(crate) struct Books {
    clock: SharedClock,
    base_url: String,
    max_objects: usize,
    pub(crate) intents: Catalogue<PaymentIntent>,
    pub(crate) charges: Catalogue<Charge>,
    pub(crate) refunds: Catalogue<Refund>,
    pub(crate) disputes: Catalogue<Dispute>,
    pub(crate) customers: Catalogue<Customer>,
    /// Payment methods that are or were attached to a customer, or were created explicitly.
    pub(crate) methods: Catalogue<PaymentMethod>,
    /// Expiries of authorisations with their PaymentIntents, soonest first.
    pub(crate) expiries: VecDeque<(DateTime<Utc>, String)>,
    /// Balance that funds refunds, by currency; `None` for unlimited.
    pub(crate) balance: Option<BTreeMap<String, i64>>,
    news: Vec<News>,
}

impl Books {
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Returns the URL at which the buyer authenticates a PaymentIntent.
    pub(crate) fn authentication_url(&self, payment_intent: &str) -> String {
        format!(
            "{}/test/payment_intents/{payment_intent}/authenticate",
            self.base_url
        )
    }

    pub(crate) fn has_room(&self) -> Result<(), Refusal> {
        let objects = self.intents.len()
            + self.charges.len()
            + self.refunds.len()
            + self.customers.len()
            + self.methods.len();
        if objects < self.max_objects {
            return Ok(());
        }
        Err(Refusal::malformed(
            "This stand-in is full: start a new one.",
        ))
    }

    pub(crate) fn intent(&self, id: &str) -> Result<&PaymentIntent, Refusal> {
        self.intents
            .get(id)
            .ok_or_else(|| Refusal::missing("payment_intent", id, "intent"))
    }

    /// Returns an intent that is known to exist.
    pub(crate) fn known(&mut self, id: &str) -> &mut PaymentIntent {
        self.intents
            .get_mut(id)
            .expect("an intent found once is never removed")
    }

    /// Renders an intent that is known to exist.
    pub(crate) fn show(&self, id: &str) -> Value {
        let intent = self
            .intents
            .get(id)
            .expect("an intent found once is never removed");
        render::payment_intent(intent, None)
    }

    /// Renders an intent with its latest charge expanded.
    pub(crate) fn show_with_charge(&self, intent: &PaymentIntent) -> Value {
        let charge = intent
            .latest_charge
            .as_ref()
            .and_then(|id| self.charges.get(id));
        render::payment_intent(intent, charge.map(|charge| render::charge(charge, intent)))
    }

    /// Emits an event of an intent, and returns its JSON.
    pub(crate) fn emit(&mut self, kind: &'static str, payment_intent: &str) -> Value {
        let object = self.show(payment_intent);
        self.report(kind, object.clone());
        object
    }

    /// Emits an event of a charge that is known to exist.
    pub(crate) fn emit_charge(&mut self, kind: &'static str, charge: &str) {
        let charge = self.charges.get(charge).expect("a charge is never removed");
        let intent = self
            .intents
            .get(&charge.payment_intent)
            .expect("an intent is never removed");
        let object = render::charge(charge, intent);
        self.report(kind, object);
    }

    pub(crate) fn report(&mut self, kind: &'static str, object: Value) {
        self.news.push(News { kind, object });
    }

    /// Takes the events emitted since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }
}
