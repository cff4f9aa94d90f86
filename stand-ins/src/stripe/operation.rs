//! Routing of requests to Stripe's endpoints.

use serde::{Deserialize, Serialize};

/// An endpoint of Stripe's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `POST /v1/payment_intents`
    CreatePaymentIntent,
    /// `GET /v1/payment_intents/{id}`
    RetrievePaymentIntent,
    /// `POST /v1/payment_intents/{id}`
    UpdatePaymentIntent,
    /// `POST /v1/payment_intents/{id}/confirm`
    ConfirmPaymentIntent,
    /// `POST /v1/payment_intents/{id}/capture`
    CapturePaymentIntent,
    /// `POST /v1/payment_intents/{id}/cancel`
    CancelPaymentIntent,
    /// `GET /v1/payment_intents`
    ListPaymentIntents,
    /// `GET /v1/payment_intents/search`
    SearchPaymentIntents,
    /// `POST /v1/refunds`
    CreateRefund,
    /// `POST /v1/refunds/{id}`
    UpdateRefund,
    /// `GET /v1/refunds/{id}`
    RetrieveRefund,
    /// `GET /v1/refunds`
    ListRefunds,
    /// `GET /v1/charges/{id}`
    RetrieveCharge,
    /// `GET /v1/charges`
    ListCharges,
    /// `GET /v1/disputes`
    ListDisputes,
    /// `POST /v1/customers`
    CreateCustomer,
    /// `POST /v1/customers/{id}`
    UpdateCustomer,
    /// `GET /v1/customers/{id}`
    RetrieveCustomer,
    /// `DELETE /v1/customers/{id}`
    DeleteCustomer,
    /// `GET /v1/customers`
    ListCustomers,
    /// `GET /v1/customers/{id}/payment_methods`
    ListCustomerPaymentMethods,
    /// `POST /v1/payment_methods`
    CreatePaymentMethod,
    /// `GET /v1/payment_methods`
    ListPaymentMethods,
    /// `GET /v1/payment_methods/{id}`
    RetrievePaymentMethod,
    /// `POST /v1/payment_methods/{id}/attach`
    AttachPaymentMethod,
    /// `POST /v1/payment_methods/{id}/detach`
    DetachPaymentMethod,
    /// `GET /v1/events/{id}`
    RetrieveEvent,
    /// `GET /v1/events`
    ListEvents,
    /// `GET /v1/balance`
    RetrieveBalance,
    /// `GET /v1/account`
    RetrieveAccount,
}

/// Method, and path segments after `/v1/`.
type Parts<'a> = (
    &'a str,
    &'a str,
    Option<&'a str>,
    Option<&'a str>,
    Option<&'a str>,
);

impl Operation {
    /// Returns the operation and the id in the path (empty without one).
    pub(crate) fn route(method: &str, path: &str) -> Option<(Self, String)> {
        let mut parts = path
            .strip_prefix("/v1/")?
            .trim_end_matches('/')
            .splitn(4, '/');
        let route = (
            method,
            parts.next()?,
            parts.next(),
            parts.next(),
            parts.next(),
        );
        let (operation, id) = match route {
            ("POST", "payment_intents", None, None, None) => (Self::CreatePaymentIntent, ""),
            ("GET", "payment_intents", None, None, None) => (Self::ListPaymentIntents, ""),
            ("GET", "payment_intents", Some("search"), None, None) => {
                (Self::SearchPaymentIntents, "")
            }
            ("GET", "payment_intents", Some(id), None, None) => (Self::RetrievePaymentIntent, id),
            ("POST", "payment_intents", Some(id), None, None) => (Self::UpdatePaymentIntent, id),
            ("POST", "payment_intents", Some(id), Some(action), None) => {
                (Self::action(action)?, id)
            }
            ("POST", "refunds", None, None, None) => (Self::CreateRefund, ""),
            ("GET", "refunds", None, None, None) => (Self::ListRefunds, ""),
            ("GET", "refunds", Some(id), None, None) => (Self::RetrieveRefund, id),
            ("POST", "refunds", Some(id), None, None) => (Self::UpdateRefund, id),
            ("GET", "charges", None, None, None) => (Self::ListCharges, ""),
            ("GET", "balance", None, None, None) => (Self::RetrieveBalance, ""),
            ("GET", "account", None, None, None) => (Self::RetrieveAccount, ""),
            ("GET", "charges", Some(id), None, None) => (Self::RetrieveCharge, id),
            ("GET", "disputes", None, None, None) => (Self::ListDisputes, ""),
            ("GET", "events", None, None, None) => (Self::ListEvents, ""),
            ("GET", "events", Some(id), None, None) => (Self::RetrieveEvent, id),
            _ => return Self::of_customers(route),
        };
        Some((operation, id.to_owned()))
    }

    /// As [`route`](Self::route), for customers and payment methods.
    fn of_customers(route: Parts<'_>) -> Option<(Self, String)> {
        let (operation, id) = match route {
            ("POST", "customers", None, None, None) => (Self::CreateCustomer, ""),
            ("GET", "customers", None, None, None) => (Self::ListCustomers, ""),
            // Not an id: the search endpoint, which is not implemented.
            ("GET", "customers", Some("search"), None, None) => return None,
            ("GET", "customers", Some(id), None, None) => (Self::RetrieveCustomer, id),
            ("POST", "customers", Some(id), None, None) => (Self::UpdateCustomer, id),
            ("DELETE", "customers", Some(id), None, None) => (Self::DeleteCustomer, id),
            ("GET", "customers", Some(id), Some("payment_methods"), None) => {
                (Self::ListCustomerPaymentMethods, id)
            }
            ("POST", "payment_methods", None, None, None) => (Self::CreatePaymentMethod, ""),
            ("GET", "payment_methods", None, None, None) => (Self::ListPaymentMethods, ""),
            ("GET", "payment_methods", Some(id), None, None) => (Self::RetrievePaymentMethod, id),
            ("POST", "payment_methods", Some(id), Some("attach"), None) => {
                (Self::AttachPaymentMethod, id)
            }
            ("POST", "payment_methods", Some(id), Some("detach"), None) => {
                (Self::DetachPaymentMethod, id)
            }
            _ => return None,
        };
        Some((operation, id.to_owned()))
    }

    fn action(name: &str) -> Option<Self> {
        match name {
            "confirm" => Some(Self::ConfirmPaymentIntent),
            "capture" => Some(Self::CapturePaymentIntent),
            "cancel" => Some(Self::CancelPaymentIntent),
            _ => None,
        }
    }

    /// Returns whether idempotency keys apply: not to reads and deletions.
    pub(crate) fn is_write(self) -> bool {
        match self {
            Self::CreatePaymentIntent
            | Self::UpdatePaymentIntent
            | Self::ConfirmPaymentIntent
            | Self::CapturePaymentIntent
            | Self::CancelPaymentIntent
            | Self::CreateRefund
            | Self::UpdateRefund
            | Self::CreateCustomer
            | Self::UpdateCustomer
            | Self::CreatePaymentMethod
            | Self::AttachPaymentMethod
            | Self::DetachPaymentMethod => true,
            Self::RetrievePaymentIntent
            | Self::ListPaymentIntents
            | Self::SearchPaymentIntents
            | Self::RetrieveRefund
            | Self::ListRefunds
            | Self::RetrieveCharge
            | Self::ListCharges
            | Self::ListDisputes
            | Self::RetrieveCustomer
            | Self::DeleteCustomer
            | Self::ListCustomers
            | Self::ListCustomerPaymentMethods
            | Self::ListPaymentMethods
            | Self::RetrievePaymentMethod
            | Self::RetrieveEvent
            | Self::ListEvents
            | Self::RetrieveBalance
            | Self::RetrieveAccount => false,
        }
    }

    /// Returns whether the response is a page of objects.
    pub(crate) fn is_list(self) -> bool {
        matches!(
            self,
            Self::ListPaymentIntents
                | Self::SearchPaymentIntents
                | Self::ListRefunds
                | Self::ListCharges
                | Self::ListDisputes
                | Self::ListCustomers
                | Self::ListCustomerPaymentMethods
                | Self::ListPaymentMethods
                | Self::ListEvents
        )
    }

    /// Returns whether a buyer may call it with the publishable key and the client secret.
    pub(crate) fn is_open_to_buyers(self) -> bool {
        matches!(
            self,
            Self::RetrievePaymentIntent | Self::ConfirmPaymentIntent
        )
    }
}
