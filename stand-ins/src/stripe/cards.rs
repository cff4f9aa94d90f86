//! Stripe's public test cards and their behaviour.

use super::errors::Refusal;
use super::form::Form;

/// Behaviour of a test card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// The authorisation succeeds.
    Succeeds,
    /// The bank declines.
    Declines(Decline),
    /// The buyer must authenticate first (3-D Secure).
    Authenticates,
    /// It succeeds; a refund stays pending for a while.
    RefundsLate,
    /// It succeeds; a refund fails after a while.
    RefundFails,
}

/// Reason of a declined payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decline {
    /// Stripe's `code`.
    pub code: &'static str,
    /// Stripe's `decline_code`; empty where Stripe has none.
    pub decline_code: &'static str,
    /// Text for the buyer.
    pub message: &'static str,
}

/// A test card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// Stripe's name, without `pm_card_`.
    name: &'static str,
    number: &'static str,
    /// Effect on payments and refunds.
    pub behaviour: Behaviour,
}

const GENERIC: Decline = Decline {
    code: "card_declined",
    decline_code: "generic_decline",
    message: "Your card was declined.",
};
const NO_FUNDS: Decline = Decline {
    code: "card_declined",
    decline_code: "insufficient_funds",
    message: "Your card has insufficient funds.",
};
const LOST: Decline = Decline {
    code: "card_declined",
    decline_code: "lost_card",
    message: "Your card was declined.",
};
const STOLEN: Decline = Decline {
    code: "card_declined",
    decline_code: "stolen_card",
    message: "Your card was declined.",
};
const EXPIRED: Decline = Decline {
    code: "expired_card",
    decline_code: "",
    message: "Your card has expired.",
};
const WRONG_CVC: Decline = Decline {
    code: "incorrect_cvc",
    decline_code: "",
    message: "Your card's security code is incorrect.",
};
const PROCESSING: Decline = Decline {
    code: "processing_error",
    decline_code: "",
    message: "An error occurred while processing your card. Try again in a little bit.",
};

/// Failed authentication.
pub(crate) const NOT_AUTHENTICATED: Decline = Decline {
    code: "payment_intent_authentication_failure",
    decline_code: "",
    message: "The provided PaymentMethod has failed authentication. You can provide \
              payment_method_data or a new PaymentMethod to attempt to fulfill this PaymentIntent \
              again.",
};

/// Authentication required while the buyer is absent.
pub(crate) const AUTHENTICATION_REQUIRED: Decline = Decline {
    code: "authentication_required",
    decline_code: "authentication_required",
    message: "Your card was declined. This transaction requires authentication.",
};

const CARDS: &[Card] = &[
    card("visa", "4242424242424242", Behaviour::Succeeds),
    card("mastercard", "5555555555554444", Behaviour::Succeeds),
    card("amex", "378282246310005", Behaviour::Succeeds),
    card(
        "visa_chargeDeclined",
        "4000000000000002",
        Behaviour::Declines(GENERIC),
    ),
    card(
        "chargeDeclined",
        "4000000000000002",
        Behaviour::Declines(GENERIC),
    ),
    card(
        "visa_chargeDeclinedInsufficientFunds",
        "4000000000009995",
        Behaviour::Declines(NO_FUNDS),
    ),
    card(
        "chargeDeclinedInsufficientFunds",
        "4000000000009995",
        Behaviour::Declines(NO_FUNDS),
    ),
    card(
        "visa_chargeDeclinedLostCard",
        "4000000000009987",
        Behaviour::Declines(LOST),
    ),
    card(
        "visa_chargeDeclinedStolenCard",
        "4000000000009979",
        Behaviour::Declines(STOLEN),
    ),
    card(
        "chargeDeclinedExpiredCard",
        "4000000000000069",
        Behaviour::Declines(EXPIRED),
    ),
    card(
        "chargeDeclinedIncorrectCvc",
        "4000000000000127",
        Behaviour::Declines(WRONG_CVC),
    ),
    card(
        "chargeDeclinedProcessingError",
        "4000000000000119",
        Behaviour::Declines(PROCESSING),
    ),
    card(
        "authenticationRequired",
        "4000002500003155",
        Behaviour::Authenticates,
    ),
    card(
        "threeDSecure2Required",
        "4000000000003220",
        Behaviour::Authenticates,
    ),
    card(
        "threeDSecureRequired",
        "4000002760003184",
        Behaviour::Authenticates,
    ),
    card("pendingRefund", "4000000000007726", Behaviour::RefundsLate),
    card("refundFail", "4000000000005126", Behaviour::RefundFails),
];

const fn card(name: &'static str, number: &'static str, behaviour: Behaviour) -> Card {
    Card {
        name,
        number,
        behaviour,
    }
}

impl Card {
    /// Last four digits.
    pub fn last4(&self) -> &'static str {
        &self.number[self.number.len() - 4..]
    }

    /// Brand, in Stripe's spelling.
    pub fn brand(&self) -> &'static str {
        match self.number.as_bytes()[0] {
            b'3' => "amex",
            b'5' => "mastercard",
            _ => "visa",
        }
    }

    /// Stripe's `fingerprint`: equal for equal cards.
    pub(crate) fn fingerprint(&self) -> String {
        format!("{:0>16}", &self.number[self.number.len() - 10..])
    }

    /// Returns the card of a test PaymentMethod, `pm_card_…`.
    pub(crate) fn of_method(id: &str) -> Option<Self> {
        named(id.strip_prefix("pm_card_")?)
    }

    /// Parses the card from the token or number in the parameters `prefix[…]`.
    pub(crate) fn of_details(form: &Form, prefix: &str) -> Result<Option<Self>, Refusal> {
        let token_name = format!("{prefix}[token]");
        if let Some(token) = form.get(&token_name) {
            return token
                .strip_prefix("tok_")
                .and_then(named)
                .map(Some)
                .ok_or_else(|| Refusal::missing("token", token, &token_name));
        }
        let Some(number) = form.get(&format!("{prefix}[number]")) else {
            return Ok(None);
        };
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        let card = CARDS.iter().find(|card| card.number == digits).copied();
        card.map(Some).ok_or_else(|| {
            let message = "Your card number is incorrect. In test mode only test cards work.";
            Refusal::parameter("incorrect_number", "number", message)
        })
    }
}

fn named(name: &str) -> Option<Card> {
    CARDS.iter().find(|card| card.name == name).copied()
}
