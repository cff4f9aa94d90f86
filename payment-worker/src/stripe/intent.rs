use domain::{BookingId, Currency, Money};
use serde::Deserialize;
use stripe_shared::PaymentIntentStatus;
use uuid::Uuid;

use super::minor;

/// Metadata key of the booking.
pub(super) const BOOKING_ID: &str = "booking_id";
/// Metadata key of the installation that created it.
pub(super) const INSTALLATION: &str = "onsale_installation";

/// A PaymentIntent, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Intent {
    /// `pi_…`.
    pub id: String,
    pub status: IntentStatus,
    /// The amount that is to be paid, in minor units; `None` when a webhook does not say it.
    pub amount_minor: Option<i64>,
    /// Captured amount in minor units.
    pub received_minor: i64,
    /// The currency, unless it is an unknown one.
    pub currency: Option<Currency>,
    /// The secret that the buyer's browser pays with. Webhooks don't carry it.
    pub client_secret: Option<String>,
    /// Our booking, if the PaymentIntent is ours.
    pub booking_id: Option<BookingId>,
    /// The installation that created it; `None` when it predates that mark, or is not ours.
    pub installation: Option<Uuid>,
    /// The error of the last attempt to pay.
    pub last_error: Option<String>,
}

impl Intent {
    /// Returns `true` if it is about another amount or currency than `due`.
    #[must_use]
    pub(crate) fn differs_from(&self, due: Money) -> bool {
        self.amount_minor
            .is_some_and(|minor| minor != due.amount_minor)
            || self.is_in_another_currency(due.currency)
    }

    /// Returns `true` if its currency is another one.
    #[must_use]
    pub(crate) fn is_in_another_currency(&self, currency: Currency) -> bool {
        self.currency.is_some_and(|its| its != currency)
    }

    /// Returns the amount that is to be paid, for people.
    #[must_use]
    pub(crate) fn amount(&self) -> String {
        self.shown(self.amount_minor.unwrap_or_default())
    }

    /// Returns the captured amount, for people.
    #[must_use]
    pub(crate) fn received(&self) -> String {
        self.shown(self.received_minor)
    }

    fn shown(&self, minor: i64) -> String {
        match self.currency {
            Some(currency) => Money::new(minor, currency).to_string(),
            None => minor.to_string(),
        }
    }
}

/// The states of a PaymentIntent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntentStatus {
    /// Not paid yet, or a card was declined.
    AwaitsBuyer,
    /// Waits for authentication, such as 3-D Secure.
    RequiresAction,
    /// Stripe waits for the bank; also any status that this program does not know.
    Processing,
    RequiresCapture,
    Succeeded,
    Canceled,
}

impl IntentStatus {
    fn parse(word: &str) -> Self {
        match word {
            "requires_payment_method" | "requires_confirmation" => Self::AwaitsBuyer,
            "requires_action" => Self::RequiresAction,
            "requires_capture" => Self::RequiresCapture,
            "succeeded" => Self::Succeeded,
            "canceled" => Self::Canceled,
            _ => Self::Processing,
        }
    }

    /// Returns `true` if the state can't change any more.
    #[must_use]
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Canceled)
    }
}

impl From<stripe_shared::PaymentIntent> for Intent {
    fn from(intent: stripe_shared::PaymentIntent) -> Self {
        let currency = intent.currency.to_string();
        Self {
            id: intent.id.to_string(),
            status: status(&intent.status),
            amount_minor: Some(minor(intent.amount, &currency)),
            received_minor: minor(intent.amount_received, &currency),
            currency: Currency::try_from(currency.as_str()).ok(),
            client_secret: intent.client_secret,
            booking_id: intent
                .metadata
                .get(BOOKING_ID)
                .and_then(|id| id.parse().ok()),
            installation: intent
                .metadata
                .get(INSTALLATION)
                .and_then(|token| token.parse().ok()),
            last_error: intent.last_payment_error.and_then(|error| error.message),
        }
    }
}

fn status(status: &PaymentIntentStatus) -> IntentStatus {
    IntentStatus::parse(status.as_str())
}

/// The fields of a webhook's object that are used; the rest may have any shape, so that another API
/// version does no harm.
#[derive(Deserialize)]
struct Wire {
    id: String,
    status: String,
    amount: Option<i64>,
    #[serde(default)]
    amount_received: i64,
    #[serde(default)]
    currency: String,
    #[serde(default)]
    metadata: Metadata,
    last_payment_error: Option<WireError>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    booking_id: Option<String>,
}

#[derive(Deserialize)]
struct WireError {
    message: Option<String>,
}

impl From<Wire> for Intent {
    fn from(wire: Wire) -> Self {
        Self {
            id: wire.id,
            status: IntentStatus::parse(&wire.status),
            amount_minor: wire.amount.map(|amount| minor(amount, &wire.currency)),
            received_minor: minor(wire.amount_received, &wire.currency),
            currency: Currency::try_from(wire.currency).ok(),
            client_secret: None,
            booking_id: wire.metadata.booking_id.and_then(|id| id.parse().ok()),
            installation: None,
            last_error: wire.last_payment_error.and_then(|error| error.message),
        }
    }
}
