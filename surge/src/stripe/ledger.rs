//! The stand-in's books: every PaymentIntent, Charge and Refund, readable as an independent
//! witness of what was really charged and given back.

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

/// The books of one stand-in.
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

    /// Every PaymentIntent, oldest first.
    pub fn payment_intents(&self) -> Vec<PaymentIntent> {
        self.open().intents.iter().cloned().collect()
    }

    /// One PaymentIntent.
    pub fn payment_intent(&self, id: &str) -> Option<PaymentIntent> {
        self.open().intents.get(id).cloned()
    }

    /// Every refund, oldest first, failed ones too.
    pub fn refunds(&self) -> Vec<Refund> {
        self.open().refunds.iter().cloned().collect()
    }

    /// Every charge, successful or not, oldest first.
    pub fn charges(&self) -> Vec<Charge> {
        self.open().charges.iter().cloned().collect()
    }

    /// Every customer, oldest first, deleted ones too.
    pub fn customers(&self) -> Vec<Customer> {
        self.open().customers.iter().cloned().collect()
    }

    /// What this customer keeps, oldest first.
    pub fn payment_methods_of(&self, customer: &str) -> Vec<PaymentMethod> {
        let is_theirs = |method: &&PaymentMethod| method.customer.as_deref() == Some(customer);
        let books = self.open();
        books.methods.iter().filter(is_theirs).cloned().collect()
    }

    /// What was taken for this PaymentIntent, in its currency's smallest unit.
    pub fn captured_total(&self, payment_intent: &str) -> i64 {
        self.open()
            .intents
            .get(payment_intent)
            .map_or(0, |intent| intent.amount_received)
    }

    /// What was given back of this PaymentIntent, in its currency's smallest unit.
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

/// Something that happened, to be told by webhook.
pub(crate) struct News {
    /// Stripe's event type.
    pub(crate) kind: &'static str,
    /// The object as it was right after.
    pub(crate) object: Value,
}

/// What a request does to the books once its parameters are known to be good.
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
    /// Those that are or were kept for a customer, and those created by themselves.
    pub(crate) methods: Catalogue<PaymentMethod>,
    /// When authorisations end and which PaymentIntents they are of, soonest first.
    pub(crate) expiries: VecDeque<(DateTime<Utc>, String)>,
    /// What refunds can be paid from, by currency; `None` while they never wait.
    pub(crate) balance: Option<BTreeMap<String, i64>>,
    news: Vec<News>,
}

impl Books {
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Where the buyer authenticates a PaymentIntent.
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

    /// An intent that is known to exist.
    pub(crate) fn known(&mut self, id: &str) -> &mut PaymentIntent {
        self.intents
            .get_mut(id)
            .expect("an intent found once is never removed")
    }

    /// The JSON of an intent that is known to exist.
    pub(crate) fn show(&self, id: &str) -> Value {
        let intent = self
            .intents
            .get(id)
            .expect("an intent found once is never removed");
        render::payment_intent(intent, None)
    }

    /// The JSON of an intent with its latest charge as an object.
    pub(crate) fn show_with_charge(&self, intent: &PaymentIntent) -> Value {
        let charge = intent
            .latest_charge
            .as_ref()
            .and_then(|id| self.charges.get(id));
        render::payment_intent(intent, charge.map(|charge| render::charge(charge, intent)))
    }

    /// Tells the world what happened to an intent, and returns its JSON.
    pub(crate) fn tell(&mut self, kind: &'static str, payment_intent: &str) -> Value {
        let object = self.show(payment_intent);
        self.report(kind, object.clone());
        object
    }

    /// Tells the world what happened to a charge that is known to exist.
    pub(crate) fn tell_charge(&mut self, kind: &'static str, charge: &str) {
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

    /// Everything that happened since the last call.
    pub(crate) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }
}
