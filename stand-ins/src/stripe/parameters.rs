//! Validation of parameter names and `expand` paths: those unknown to Stripe's endpoint are
//! refused.

use super::errors::Refusal;
use super::form::Form;
use super::operation::Operation;

/// Refuses parameters unknown to the endpoint. Known ones that the stand-in ignores pass.
pub(crate) fn check(operation: Operation, form: &Form) -> Result<(), Refusal> {
    for (name, _) in form.pairs() {
        let top = name.split('[').next().unwrap_or(name);
        // Clients send an empty object as a parameter without a name.
        let is_known = ["", "expand", "key"].contains(&top) || known(operation).contains(&top);
        if !is_known {
            let message = format!("Received unknown parameter: {top}");
            return Err(Refusal::parameter("parameter_unknown", top, message));
        }
    }
    for path in form.nested("expand").values() {
        expandable(operation, path)?;
    }
    Ok(())
}

/// Checks a path of `expand[]`.
fn expandable(operation: Operation, path: &str) -> Result<(), Refusal> {
    let refused = |hint: &str| {
        let message = format!("This property cannot be expanded ({path}).{hint}");
        Err(Refusal::invalid("expand", message))
    };
    let inner = match path.strip_prefix("data.") {
        Some(inner) if operation.is_list() => inner,
        Some(_) => return refused(""),
        None if operation.is_list() => {
            let hint = format!(" You may want to try expanding 'data.{path}' instead.");
            return refused(&hint);
        }
        None => path,
    };
    let field = inner.split('.').next().unwrap_or(inner);
    if links(operation).contains(&field) {
        Ok(())
    } else {
        refused("")
    }
}

/// Expandable fields of the endpoint's objects.
fn links(operation: Operation) -> &'static [&'static str] {
    use Operation as Op;
    match operation {
        Op::CreatePaymentIntent
        | Op::RetrievePaymentIntent
        | Op::UpdatePaymentIntent
        | Op::ConfirmPaymentIntent
        | Op::CapturePaymentIntent
        | Op::CancelPaymentIntent
        | Op::ListPaymentIntents
        | Op::SearchPaymentIntents => &[
            "application",
            "customer",
            "latest_charge",
            "on_behalf_of",
            "payment_method",
            "review",
            "transfer_data",
        ],
        Op::CreateRefund | Op::UpdateRefund | Op::RetrieveRefund | Op::ListRefunds => &[
            "balance_transaction",
            "charge",
            "failure_balance_transaction",
            "payment_intent",
            "source_transfer_reversal",
            "transfer_reversal",
        ],
        Op::RetrieveCharge | Op::ListCharges => &[
            "application",
            "balance_transaction",
            "customer",
            "payment_intent",
            "refunds",
            "review",
        ],
        Op::ListDisputes => &["charge", "payment_intent"],
        Op::CreateCustomer | Op::UpdateCustomer | Op::RetrieveCustomer | Op::ListCustomers => &[
            "default_source",
            "invoice_settings",
            "sources",
            "subscriptions",
            "tax",
        ],
        Op::ListCustomerPaymentMethods
        | Op::ListPaymentMethods
        | Op::CreatePaymentMethod
        | Op::RetrievePaymentMethod
        | Op::AttachPaymentMethod
        | Op::DetachPaymentMethod => &["customer"],
        Op::DeleteCustomer
        | Op::RetrieveEvent
        | Op::ListEvents
        | Op::RetrieveBalance
        | Op::RetrieveAccount => &[],
    }
}

const PAGE: [&str; 3] = ["ending_before", "limit", "starting_after"];

fn known(operation: Operation) -> &'static [&'static str] {
    use Operation as Op;
    match operation {
        Op::CreatePaymentIntent => CREATE,
        Op::UpdatePaymentIntent => UPDATE,
        Op::ConfirmPaymentIntent => CONFIRM,
        Op::CapturePaymentIntent => &[
            "amount_details",
            "amount_to_capture",
            "application_fee_amount",
            "final_capture",
            "hooks",
            "metadata",
            "payment_details",
            "statement_descriptor",
            "statement_descriptor_suffix",
            "transfer_data",
        ],
        Op::CancelPaymentIntent => &["cancellation_reason"],
        Op::RetrievePaymentIntent => &["client_secret"],
        Op::ListPaymentIntents => &["created", "customer", PAGE[0], PAGE[1], PAGE[2]],
        Op::SearchPaymentIntents => &["limit", "page", "query"],
        Op::CreateRefund => &[
            "amount",
            "charge",
            "currency",
            "customer",
            "instructions_email",
            "metadata",
            "origin",
            "payment_intent",
            "reason",
            "refund_application_fee",
            "reverse_transfer",
        ],
        Op::UpdateRefund => &["metadata"],
        Op::ListRefunds | Op::ListDisputes => &[
            "charge",
            "created",
            "payment_intent",
            PAGE[0],
            PAGE[1],
            PAGE[2],
        ],
        Op::ListCharges => &[
            "created",
            "customer",
            "payment_intent",
            "transfer_group",
            PAGE[0],
            PAGE[1],
            PAGE[2],
        ],
        Op::CreateCustomer | Op::UpdateCustomer => CUSTOMER,
        Op::ListCustomers => &["created", "email", "test_clock", PAGE[0], PAGE[1], PAGE[2]],
        Op::ListCustomerPaymentMethods => &["allow_redisplay", "type", PAGE[0], PAGE[1], PAGE[2]],
        Op::ListPaymentMethods => &[
            "allow_redisplay",
            "customer",
            "type",
            PAGE[0],
            PAGE[1],
            PAGE[2],
        ],
        Op::CreatePaymentMethod => &[
            "allow_redisplay",
            "billing_details",
            "card",
            "customer",
            "metadata",
            "payment_method",
            "radar_options",
            "type",
        ],
        Op::AttachPaymentMethod => &["customer", "customer_account"],
        Op::ListEvents => &[
            "created",
            "delivery_success",
            "type",
            "types",
            PAGE[0],
            PAGE[1],
            PAGE[2],
        ],
        Op::RetrieveRefund
        | Op::RetrieveCharge
        | Op::RetrieveCustomer
        | Op::DeleteCustomer
        | Op::RetrievePaymentMethod
        | Op::DetachPaymentMethod
        | Op::RetrieveEvent
        | Op::RetrieveBalance
        | Op::RetrieveAccount => &[],
    }
}

const CREATE: &[&str] = &[
    "amount",
    "amount_details",
    "application_fee_amount",
    "automatic_payment_methods",
    "capture_method",
    "confirm",
    "confirmation_method",
    "confirmation_token",
    "currency",
    "customer",
    "customer_account",
    "description",
    "error_on_requires_action",
    "excluded_payment_method_types",
    "hooks",
    "mandate",
    "mandate_data",
    "metadata",
    "off_session",
    "on_behalf_of",
    "payment_details",
    "payment_method",
    "payment_method_configuration",
    "payment_method_data",
    "payment_method_options",
    "payment_method_types",
    "radar_options",
    "receipt_email",
    "return_url",
    "setup_future_usage",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
    "use_stripe_sdk",
];

const UPDATE: &[&str] = &[
    "amount",
    "amount_details",
    "application_fee_amount",
    "capture_method",
    "currency",
    "customer",
    "customer_account",
    "description",
    "excluded_payment_method_types",
    "hooks",
    "metadata",
    "payment_details",
    "payment_method",
    "payment_method_configuration",
    "payment_method_data",
    "payment_method_options",
    "payment_method_types",
    "receipt_email",
    "setup_future_usage",
    "shipping",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
];

const CONFIRM: &[&str] = &[
    "amount_details",
    "capture_method",
    "client_secret",
    "confirmation_token",
    "error_on_requires_action",
    "excluded_payment_method_types",
    "hooks",
    "mandate",
    "mandate_data",
    "off_session",
    "payment_details",
    "payment_method",
    "payment_method_data",
    "payment_method_options",
    "payment_method_types",
    "radar_options",
    "receipt_email",
    "return_url",
    "setup_future_usage",
    "shipping",
    "use_stripe_sdk",
];

const CUSTOMER: &[&str] = &[
    "address",
    "balance",
    "business_name",
    "cash_balance",
    "default_source",
    "description",
    "email",
    "individual_name",
    "invoice_prefix",
    "invoice_settings",
    "metadata",
    "name",
    "next_invoice_sequence",
    "payment_method",
    "phone",
    "preferred_locales",
    "shipping",
    "source",
    "tax",
    "tax_exempt",
    "tax_id_data",
    "test_clock",
];
