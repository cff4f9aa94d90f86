//! Stripe's JSON of customers and PaymentMethods.

use serde_json::{Value, json};

use crate::stripe::model::{Customer, PaymentMethod};

/// Renders a PaymentMethod.
pub(crate) fn payment_method(method: &PaymentMethod) -> Value {
    json!({
        "id": method.id,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": billing_details(),
        "card": {
            "brand": method.card.brand(),
            "checks": checks(),
            "country": "US",
            "display_brand": method.card.brand(),
            "exp_month": EXPIRY.0,
            "exp_year": EXPIRY.1,
            "fingerprint": method.card.fingerprint(),
            "funding": "credit",
            "generated_from": null,
            "last4": method.card.last4(),
            "networks": { "available": [method.card.brand()], "preferred": null },
            "three_d_secure_usage": { "supported": true },
            "wallet": null,
        },
        "created": method.created.timestamp(),
        "customer": method.customer,
        "livemode": false,
        "metadata": {},
        "type": "card",
    })
}

/// Renders a Customer.
pub(crate) fn customer(customer: &Customer) -> Value {
    if customer.is_deleted {
        return json!({ "id": customer.id, "object": "customer", "deleted": true });
    }
    json!({
        "id": customer.id,
        "object": "customer",
        "address": null,
        "balance": 0,
        "created": customer.created.timestamp(),
        "currency": null,
        "default_source": null,
        "delinquent": false,
        "description": customer.description,
        "discount": null,
        "email": customer.email,
        "invoice_prefix": customer.id.to_uppercase()[4..12],
        "invoice_settings": {
            "custom_fields": null,
            "default_payment_method": null,
            "footer": null,
            "rendering_options": null,
        },
        "livemode": false,
        "metadata": customer.metadata,
        "name": customer.name,
        "next_invoice_sequence": 1,
        "phone": null,
        "preferred_locales": [],
        "shipping": null,
        "tax_exempt": "none",
        "test_clock": null,
    })
}

/// Month and year at which every test card expires.
pub(super) const EXPIRY: (u8, u16) = (12, 2099);

pub(super) fn billing_details() -> Value {
    json!({
        "address": {
            "city": null, "country": null, "line1": null,
            "line2": null, "postal_code": null, "state": null,
        },
        "email": null,
        "name": null,
        "phone": null,
        "tax_id": null,
    })
}

pub(super) fn checks() -> Value {
    json!({
        "address_line1_check": null,
        "address_postal_code_check": null,
        "cvc_check": "pass",
    })
}
