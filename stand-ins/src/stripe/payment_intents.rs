//! `POST|GET /v1/payment_intents…`: parameters and effects.

use super::amounts;
use super::attempts;
use super::auth::Caller;
use super::customers;
use super::errors::Refusal;
use super::form::Form;
use super::ids;
use super::ledger::{Books, Effect, ListQuery};
use super::model::{AllowRedirects, CaptureMethod, Charge, FutureUsage, PaymentIntent, Status};
use super::payment_methods::Means;
use super::render;

/// `POST /v1/payment_intents`: creates an intent, and confirms it if requested.
pub(crate) fn create(form: &Form) -> Result<Effect, Refusal> {
    form.required("amount")?;
    let amount = form.amount("amount")?.expect("it is required above");
    let currency = amounts::currency(form.required("currency")?)?;
    amounts::charge("amount", amount, &currency)?;
    let capture_method = capture_method(form)?;
    let means = Means::of(form)?;
    let confirm = form.boolean("confirm")?;
    let off_session = form.boolean("off_session")? || form.boolean("error_on_requires_action")?;
    let metadata = form.metadata()?;
    let text = |name| form.get(name).map(str::to_owned);
    let (description, receipt_email, return_url) = (
        text("description"),
        text("receipt_email"),
        text("return_url"),
    );
    let automatic_payment_methods = automatic_payment_methods(form)?;
    let customer = text("customer");
    let setup_future_usage = future_usage(form.get("setup_future_usage"))?;
    Ok(Box::new(move |books| {
        books.has_room()?;
        if let Some(customer) = &customer {
            customers::named(books, customer)?;
        }
        let payment_method = means.map(|means| means.for_payment(books, customer.as_deref()));
        let payment_method = payment_method.transpose()?;
        let id = ids::payment_intent();
        let status = match payment_method {
            None => Status::RequiresPaymentMethod,
            Some(_) => Status::RequiresConfirmation,
        };
        books.intents.insert(PaymentIntent {
            client_secret: ids::client_secret(&id),
            id: id.clone(),
            amount,
            currency,
            status,
            capture_method,
            amount_received: 0,
            metadata,
            created: books.now(),
            canceled_at: None,
            cancellation_reason: None,
            latest_charge: None,
            last_error: None,
            customer,
            setup_future_usage,
            description,
            receipt_email,
            authentication_url: None,
            return_url,
            payment_method,
            automatic_payment_methods,
        });
        let created = books.emit("payment_intent.created", &id);
        if confirm {
            attempts::confirm(books, &id, None, off_session)
        } else {
            Ok(created)
        }
    }))
}

/// `GET /v1/payment_intents/{id}`: returns an intent.
pub(crate) fn retrieve(id: String, form: &Form, caller: Caller) -> Effect {
    let expand = form.expands("latest_charge");
    Box::new(move |books| {
        let intent = allowed(books, &id, &caller)?;
        Ok(if expand {
            books.show_with_charge(intent)
        } else {
            books.show(&id)
        })
    })
}

/// `POST /v1/payment_intents/{id}/confirm`: authorises, or asks for authentication.
pub(crate) fn confirm(id: String, form: &Form, caller: Caller) -> Result<Effect, Refusal> {
    let means = Means::of(form)?;
    let usage = future_usage(form.get("setup_future_usage"))?;
    let off_session = form.boolean("off_session")? || form.boolean("error_on_requires_action")?;
    let return_url = form.get("return_url").map(str::to_owned);
    Ok(Box::new(move |books| {
        let intent = allowed(books, &id, &caller)?;
        if !matches!(
            intent.status,
            Status::RequiresPaymentMethod | Status::RequiresConfirmation | Status::RequiresAction
        ) {
            let message = format!(
                "You cannot confirm this PaymentIntent because it has a status of {}. Only a \
                 PaymentIntent with one of the following statuses may be confirmed: \
                 requires_payment_method, requires_confirmation, requires_action.",
                intent.status.as_str()
            );
            return Err(Refusal::unexpected_state(message, books.show(&id)));
        }
        books.has_room()?;
        let method = means.map(|means| means.for_payment(books, intent.customer.as_deref()));
        let method = method.transpose()?;
        let intent = books.known(&id);
        if return_url.is_some() {
            intent.return_url = return_url;
        }
        intent.setup_future_usage = usage.or(intent.setup_future_usage);
        attempts::confirm(books, &id, method, off_session)
    }))
}

/// `POST /v1/payment_intents/{id}/capture`: captures all or a part of the authorisation.
pub(crate) fn capture(id: String, form: &Form) -> Result<Effect, Refusal> {
    let wanted = form.amount("amount_to_capture")?;
    Ok(Box::new(move |books| {
        let intent = books.intent(&id)?;
        if intent.status != Status::RequiresCapture {
            let message = format!(
                "This PaymentIntent could not be captured because it has a status of {}. Only a \
                 PaymentIntent with one of the following statuses may be captured: \
                 requires_capture.",
                intent.status.as_str()
            );
            return Err(Refusal::unexpected_state(message, books.show(&id)));
        }
        let amount = wanted.unwrap_or(intent.amount);
        amounts::part("amount_to_capture", amount, &intent.currency)?;
        if amount > intent.amount {
            let message = format!(
                "The remaining amount to capture for this PaymentIntent is {}, but you tried to \
                 capture {amount}.",
                intent.amount
            );
            return Err(Refusal::parameter(
                "amount_too_large",
                "amount_to_capture",
                message,
            ));
        }
        attempts::capture(books, &id, amount);
        let charge = books.known(&id).latest_charge.clone();
        let charge = charge.expect("an authorised intent has a charge");
        books.emit_charge("charge.captured", &charge);
        Ok(books.emit("payment_intent.succeeded", &id))
    }))
}

/// `POST /v1/payment_intents/{id}/cancel`: cancels, which releases an authorisation.
pub(crate) fn cancel(id: String, form: &Form) -> Result<Effect, Refusal> {
    let reason = form.get("cancellation_reason").map(str::to_owned);
    const REASONS: [&str; 4] = [
        "duplicate",
        "fraudulent",
        "requested_by_customer",
        "abandoned",
    ];
    if reason
        .as_deref()
        .is_some_and(|reason| !REASONS.contains(&reason))
    {
        let message = format!(
            "Invalid cancellation_reason: must be one of {}.",
            REASONS.join(", ")
        );
        return Err(Refusal::parameter(
            "parameter_unknown",
            "cancellation_reason",
            message,
        ));
    }
    Ok(Box::new(move |books| {
        let intent = books.intent(&id)?;
        if matches!(intent.status, Status::Succeeded | Status::Canceled) {
            let message = format!(
                "You cannot cancel this PaymentIntent because it has a status of {}. Only a \
                 PaymentIntent with one of the following statuses may be canceled: \
                 requires_payment_method, requires_capture, requires_confirmation, \
                 requires_action, processing.",
                intent.status.as_str()
            );
            return Err(Refusal::unexpected_state(message, books.show(&id)));
        }
        attempts::release(books, &id, "charge.refunded");
        Ok(attempts::cancel(books, &id, reason))
    }))
}

/// `GET /v1/payment_intents`: lists intents.
pub(crate) fn list(form: &Form) -> Result<Effect, Refusal> {
    let query = ListQuery::parse("/v1/payment_intents", form)?;
    let expand = form.expands("latest_charge");
    Ok(Box::new(move |books| {
        books.intents.page(
            &query,
            |_| true,
            |intent| {
                if expand {
                    books.show_with_charge(intent)
                } else {
                    render::payment_intent(intent, None)
                }
            },
        )
    }))
}

/// `GET /v1/charges/{id}`: returns a charge.
pub(crate) fn retrieve_charge(id: String) -> Effect {
    Box::new(move |books| {
        let charge = books
            .charges
            .get(&id)
            .ok_or_else(|| Refusal::missing("charge", &id, "id"))?;
        Ok(render::charge(
            charge,
            books.intent(&charge.payment_intent)?,
        ))
    })
}

/// `GET /v1/charges`: lists charges.
pub(crate) fn list_charges(form: &Form) -> Result<Effect, Refusal> {
    let query = ListQuery::parse("/v1/charges", form)?;
    let by_intent = form.get("payment_intent").map(str::to_owned);
    let by_customer = form.get("customer").map(str::to_owned);
    Ok(Box::new(move |books| {
        let intent_of = |charge: &Charge| books.intents.get(&charge.payment_intent);
        let wanted = |charge: &Charge| {
            by_intent
                .as_ref()
                .is_none_or(|intent| *intent == charge.payment_intent)
                && (by_customer.is_none()
                    || intent_of(charge).is_some_and(|intent| intent.customer == by_customer))
        };
        let show = |charge: &Charge| {
            let intent = intent_of(charge).expect("an intent is never removed");
            render::charge(charge, intent)
        };
        books.charges.page(&query, wanted, show)
    }))
}

/// Returns the intent if the caller is authorised: a buyer needs its client secret.
fn allowed<'books>(
    books: &'books Books,
    id: &str,
    caller: &Caller,
) -> Result<&'books PaymentIntent, Refusal> {
    let intent = books.intent(id)?;
    match caller {
        Caller::Account => Ok(intent),
        Caller::Buyer { client_secret } if *client_secret == intent.client_secret => Ok(intent),
        Caller::Buyer { .. } => Err(Refusal::wrong_client_secret()),
    }
}

/// Parses `setup_future_usage`; `None` when the card is not to be saved.
pub(crate) fn future_usage(text: Option<&str>) -> Result<Option<FutureUsage>, Refusal> {
    match text {
        None | Some("") => Ok(None),
        Some("on_session") => Ok(Some(FutureUsage::OnSession)),
        Some("off_session") => Ok(Some(FutureUsage::OffSession)),
        Some(_) => {
            let message = "Invalid setup_future_usage: must be one of off_session or on_session.";
            let param = "setup_future_usage";
            Err(Refusal::parameter("parameter_unknown", param, message))
        }
    }
}

/// Parses `automatic_payment_methods`; `None` when disabled.
fn automatic_payment_methods(form: &Form) -> Result<Option<AllowRedirects>, Refusal> {
    let redirects = match form.get("automatic_payment_methods[allow_redirects]") {
        None | Some("always") => AllowRedirects::Always,
        Some("never") => AllowRedirects::Never,
        Some(_) => {
            let param = "automatic_payment_methods[allow_redirects]";
            let message = format!("Invalid {param}: must be one of always or never");
            return Err(Refusal::invalid(param, message));
        }
    };
    let is_enabled = form.boolean("automatic_payment_methods[enabled]")?;
    Ok(is_enabled.then_some(redirects))
}

fn capture_method(form: &Form) -> Result<CaptureMethod, Refusal> {
    match form.get("capture_method") {
        None | Some("automatic_async") => Ok(CaptureMethod::AutomaticAsync),
        Some("automatic") => Ok(CaptureMethod::Automatic),
        Some("manual") => Ok(CaptureMethod::Manual),
        Some(_) => {
            let message = "Invalid capture_method: must be one of automatic, automatic_async, or \
                           manual.";
            Err(Refusal::parameter(
                "parameter_unknown",
                "capture_method",
                message,
            ))
        }
    }
}
