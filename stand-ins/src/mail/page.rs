//! Pages that show the received mails.

use std::fmt::Write as _;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use serde::Deserialize;

use super::message::{Attachment, Mail};
use crate::html::escape;
use crate::inbox::Inbox;

/// Mails per page of the list.
const PER_PAGE: usize = 100;

/// Content security policy: a mail can't run scripts or load anything but its own pictures.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; \
                      frame-src 'self'; form-action 'self'; base-uri 'none'";

type SharedInbox = State<Inbox<Mail>>;

pub(crate) fn router(inbox: Inbox<Mail>) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/{name}", get(show))
        .route("/{number}/{attachment}", get(attachment))
        .layer(axum::middleware::map_response(protect))
        .with_state(inbox)
}

async fn protect(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[derive(Deserialize)]
struct ListQuery {
    /// Only mails to this address.
    #[serde(default)]
    to: String,
    /// Only mails before this number.
    before: Option<usize>,
}

async fn list(State(inbox): SharedInbox, Query(query): Query<ListQuery>) -> Html<String> {
    let wanted = query.to.trim();
    let before = query.before.unwrap_or(usize::MAX);
    let mails = inbox.all();
    let mut matching = mails
        .iter()
        .enumerate()
        .map(|(index, mail)| (index + 1, mail))
        .rev()
        .filter(|(number, mail)| *number < before && addressed(mail, wanted));
    let shown: Vec<_> = matching.by_ref().take(PER_PAGE).collect();
    let more = matching.next().is_some();
    let mut body = format!(
        "<h1>Mails</h1><p>{} received. Newest first.</p>\
         <form><label>Recipient contains <input name=\"to\" value=\"{}\"></label> \
         <button>Show</button></form><ol class=\"mails\">",
        mails.len(),
        escape(wanted),
    );
    for (number, mail) in &shown {
        let subject = if mail.subject.is_empty() {
            "(no subject)"
        } else {
            &mail.subject
        };
        push(
            &mut body,
            format_args!(
                "<li><a href=\"/{number}\">{}</a><br><small>to {}</small></li>",
                escape(subject),
                escape(&mail.to.join(", ")),
            ),
        );
    }
    body.push_str("</ol>");
    if shown.is_empty() {
        body.push_str("<p>Nothing here yet. Reload the page later.</p>");
    }
    if let Some((oldest, _)) = shown.last().filter(|_| more) {
        let to: String = url::form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
        push(
            &mut body,
            format_args!("<p><a href=\"/?before={oldest}&amp;to={to}\">Older</a></p>"),
        );
    }
    Html(crate::html::page("Mails", &body))
}

fn addressed(mail: &Mail, wanted: &str) -> bool {
    wanted.is_empty()
        || mail
            .to
            .iter()
            .any(|to| to.to_lowercase().contains(&wanted.to_lowercase()))
}

async fn show(State(inbox): SharedInbox, Path(name): Path<String>) -> Response<Body> {
    let (number, raw) = match name.strip_suffix(".eml") {
        Some(number) => (number, true),
        None => (name.as_str(), false),
    };
    let found = number
        .parse()
        .ok()
        .and_then(|number| Some((number, inbox.get(number)?)));
    match found {
        None => missing(),
        Some((_, mail)) if raw => {
            ([(header::CONTENT_TYPE, "message/rfc822")], mail.raw.clone()).into_response()
        }
        Some((number, mail)) => Html(mail_page(number, &mail)).into_response(),
    }
}

fn mail_page(number: usize, mail: &Mail) -> String {
    let attachments = mail.attachments();
    let mut body = format!(
        "<p><a href=\"/\">All mails</a></p><h1>{}</h1><dl><dt>From</dt><dd>{}</dd><dt>To</dt>\
         <dd>{}</dd><dt>Message-ID</dt><dd>{}</dd></dl>",
        escape(&mail.subject),
        escape(&mail.from),
        escape(&mail.to.join(", ")),
        escape(mail.message_id.as_deref().unwrap_or("(none)")),
    );
    if let Some(html) = mail.html() {
        let html = show_pictures(html, number, &attachments);
        // `sandbox` without any permission: no script, no form, no access to this page.
        push(
            &mut body,
            format_args!(
                "<h2>As designed</h2><iframe sandbox title=\"The mail as designed\" \
             srcdoc=\"{}\"></iframe>",
                escape(&html),
            ),
        );
    }
    push(
        &mut body,
        format_args!("<h2>As text</h2><pre>{}</pre>", escape(&mail.text)),
    );
    if !attachments.is_empty() {
        body.push_str("<h2>Attachments</h2><ul>");
        for (index, attachment) in attachments.iter().enumerate() {
            push(
                &mut body,
                format_args!(
                    "<li><a href=\"/{number}/{index}\">{}</a> ({}, {} bytes)</li>",
                    escape(&attachment.name),
                    escape(&attachment.media_type),
                    attachment.content.len(),
                ),
            );
        }
        body.push_str("</ul>");
    }
    push(
        &mut body,
        format_args!("<p><a href=\"/{number}.eml\">Raw message</a></p>"),
    );
    crate::html::page(&mail.subject, &body)
}

/// Replaces `cid:` references by the attachments' URLs.
fn show_pictures(html: String, number: usize, attachments: &[Attachment]) -> String {
    attachments
        .iter()
        .enumerate()
        .fold(html, |html, (index, attachment)| {
            match &attachment.content_id {
                Some(id) => html.replace(&format!("cid:{id}"), &format!("/{number}/{index}")),
                None => html,
            }
        })
}

async fn attachment(
    State(inbox): SharedInbox,
    Path((number, index)): Path<(usize, usize)>,
) -> Response<Body> {
    let found = inbox
        .get(number)
        .and_then(|mail| mail.attachments().into_iter().nth(index));
    let Some(attachment) = found else {
        return missing();
    };
    // Types that a browser could execute are sent as downloads.
    let media_type = match attachment.media_type.as_str() {
        kind @ ("image/png" | "image/jpeg" | "image/gif" | "image/svg+xml" | "text/calendar"
        | "application/pdf") => kind,
        _ => "application/octet-stream",
    };
    (
        [(header::CONTENT_TYPE, media_type)],
        attachment.content.clone(),
    )
        .into_response()
}

fn missing() -> Response<Body> {
    let page = crate::html::page(
        "No such mail",
        "<h1>No such mail</h1><p><a href=\"/\">All mails</a></p>",
    );
    (StatusCode::NOT_FOUND, Html(page)).into_response()
}

fn push(page: &mut String, part: std::fmt::Arguments<'_>) {
    page.write_fmt(part).expect("writing to memory cannot fail");
}
