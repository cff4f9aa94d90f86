//! Page of the buyer's bank, on which a 3-D Secure payment is approved or declined.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::{Html, IntoResponse, Redirect};
use url::Url;

use crate::html::escape;
use crate::stripe::amounts;
use crate::stripe::model::{PaymentIntent, Status};

/// Renders the question, or that nothing is to be confirmed.
pub(super) fn page(intent: Option<&PaymentIntent>) -> Response<Body> {
    let Some(intent) = intent.filter(|intent| intent.status == Status::RequiresAction) else {
        return nothing_to_do(intent);
    };
    let amount = amounts::shown(intent.amount, &intent.currency);
    let currency = intent.currency.to_ascii_uppercase();
    let card = intent.payment_method.as_ref().map(|method| {
        let brand = match method.card.brand() {
            "amex" => "American Express",
            "mastercard" => "Mastercard",
            _ => "Visa",
        };
        format!("{brand} ending in {}", method.card.last4())
    });
    let body = format!(
        "<h1>Is this payment yours?</h1>\
         <dl><dt>Amount</dt><dd class=\"amount\">{amount} {currency}</dd>\
         <dt>Card</dt><dd>{}</dd>\
         <dt>Payment</dt><dd><code>{}</code></dd></dl>\
         <form method=\"post\">\
         <button name=\"outcome\" value=\"success\">Approve</button>\
         <button name=\"outcome\" value=\"fail\" class=\"plain\">Decline</button>\
         </form>\
         <p class=\"quiet\">This page stands in for your bank. No real money moves.</p>",
        escape(card.as_deref().unwrap_or("unknown")),
        escape(&intent.id),
    );
    Html(frame("Your bank: is this payment yours?", &body)).into_response()
}

/// Redirects back to the shop, as Stripe does.
pub(super) fn back(intent: &PaymentIntent, passed: bool) -> Response<Body> {
    match return_url(intent, passed) {
        Some(url) => Redirect::to(url.as_str()).into_response(),
        None => {
            let body = "<h1>Thank you</h1><p>You can close this page.</p>";
            Html(frame("Your bank", body)).into_response()
        }
    }
}

fn return_url(intent: &PaymentIntent, passed: bool) -> Option<Url> {
    let mut url = Url::parse(intent.return_url.as_deref()?).ok()?;
    url.query_pairs_mut()
        .append_pair("payment_intent", &intent.id)
        .append_pair("payment_intent_client_secret", &intent.client_secret)
        .append_pair(
            "redirect_status",
            if passed { "succeeded" } else { "failed" },
        );
    Some(url)
}

pub(super) fn nothing_to_do(intent: Option<&PaymentIntent>) -> Response<Body> {
    let link = intent
        .and_then(|intent| intent.return_url.as_deref())
        .map(|url| format!("<p><a href=\"{}\">Back to the shop</a></p>", escape(url)));
    let body = format!(
        "<h1>Nothing to confirm</h1><p>This payment waits for nothing from you.</p>{}",
        link.unwrap_or_default()
    );
    let page = Html(frame("Your bank: nothing to confirm", &body));
    (StatusCode::NOT_FOUND, page).into_response()
}

fn frame(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n<header>Test bank</header>\n\
         <main>{body}</main>\n</html>\n",
        escape(title)
    )
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1b29; --paper: #f1f0f7; --card: #fff; --quiet: #5b5870;
  --line: #d6d3e4; --accent: #4a3aa7; --on-accent: #fff }
@media (prefers-color-scheme: dark) { :root { --ink: #efeef7; --paper: #15141f; --card: #201e2d;
  --quiet: #aeaac6; --line: #3b3850; --accent: #b3a6ff; --on-accent: #15141f } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.5 system-ui, sans-serif }
header { background: var(--accent); color: var(--on-accent); font-weight: 700;
  padding: 1rem max(1rem, calc(50% - 15rem)) }
main { max-width: 30rem; margin: 1.5rem auto; padding: 1.25rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .75rem }
@media (max-width: 31rem) { main { margin: 1rem } }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem }
dt { color: var(--quiet); font-size: .9375rem }
dd { margin: 0 0 .75rem; overflow-wrap: anywhere }
.amount { font-size: 1.75rem; font-weight: 700; line-height: 1.25 }
.quiet { color: var(--quiet); font-size: .9375rem; margin: 1rem 0 0 }
form { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; margin: 1.25rem 0 0 }
button { font: inherit; font-weight: 600; min-height: 3rem; padding: .5rem 1rem;
  border: 1px solid var(--accent); border-radius: .5rem; background: var(--accent);
  color: var(--on-accent); cursor: pointer }
button.plain { background: transparent; color: var(--accent) }
a { color: var(--accent) }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
";
