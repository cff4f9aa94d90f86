//! Static pages for buyers and operators, embedded into the binary.

use std::borrow::Cow;
use std::path::Path as FilePath;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use platform::problem::{Kind, Problem};
use platform::service::Routes;
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::Config;
use crate::cached_response::is_known;

const REFERRER_POLICY: HeaderName = HeaderName::from_static("referrer-policy");
/// Pages are revalidated on each visit, so that they match the running version.
const PAGE_CACHING: HeaderValue = HeaderValue::from_static("no-cache");
const ASSET_CACHING: HeaderValue = HeaderValue::from_static("public, max-age=60");

#[derive(RustEmbed)]
#[folder = "../web/public"]
struct PublicFiles;

#[derive(RustEmbed)]
#[folder = "../web/staff"]
struct StaffFiles;

/// Assets used by both sets of pages.
#[derive(RustEmbed)]
#[folder = "../web/shared"]
struct SharedFiles;

/// Page routes: buyers' on the public listener, the console on the internal one.
pub(crate) fn routes(config: &Config) -> Routes {
    let banner = banner(config);
    let public = Site {
        file: PublicFiles::get,
        policy: public_policy(config),
        banner,
    };
    let staff = Site {
        file: StaffFiles::get,
        policy: HeaderValue::from_static(STAFF_POLICY),
        banner,
    };
    Routes {
        public: public
            .router()
            .route("/events/{id}", public.page("event.html"))
            .route("/bookings/{id}", public.page("booking.html"))
            .route("/tickets", public.page("tickets.html")),
        internal: staff.router(),
        ..Routes::default()
    }
}

/// The warning shown on top of every page while stand-ins replace Stripe or the mail server, so
/// that a test shop can't be mistaken for a real one.
fn banner(config: &Config) -> Option<&'static str> {
    match (config.payments_to_stand_in(), config.mails_to_stand_in) {
        (true, true) => Some("Test shop: no money moves, no mail leaves, and no ticket is real."),
        (true, false) => Some("Test shop: no money moves, and no ticket is real."),
        (false, true) => Some("Test shop: no mail leaves."),
        (false, false) => None,
    }
}

const STAFF_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'self'; frame-ancestors 'none'";

/// Content security policy of buyers' pages: own files, and the origins that Stripe.js needs to
/// send card data directly to Stripe.
fn public_policy(config: &Config) -> HeaderValue {
    let stripe = config.pages_stripe_url.origin().ascii_serialization();
    let policy = format!(
        "default-src 'none'; script-src 'self' https://js.stripe.com https://*.js.stripe.com; worker-src 'self'; style-src 'self'; \
         img-src 'self' data:; font-src 'self'; \
         connect-src 'self' https://api.stripe.com {stripe}; \
         frame-src https://js.stripe.com https://*.js.stripe.com https://hooks.stripe.com; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("an origin is visible ASCII")
}

/// A set of embedded files with its content security policy.
#[derive(Clone)]
struct Site {
    file: fn(&str) -> Option<EmbeddedFile>,
    policy: HeaderValue,
    banner: Option<&'static str>,
}

impl Site {
    /// Routes of the start page and the assets.
    fn router(&self) -> Router {
        let site = self.clone();
        let asset = async move |Path(name): Path<String>, headers: HeaderMap| {
            site.respond(&format!("assets/{name}"), ASSET_CACHING, &headers)
        };
        Router::new()
            .route("/", self.page("index.html"))
            .route("/assets/{*name}", get(asset))
    }

    /// Serves one page for any path parameters; its script reads them from the URL.
    fn page(&self, name: &'static str) -> axum::routing::MethodRouter {
        let site = self.clone();
        get(async move |headers: HeaderMap| site.respond(name, PAGE_CACHING, &headers))
    }

    fn respond(&self, name: &str, caching: HeaderValue, request: &HeaderMap) -> Response {
        let Some(file) = (self.file)(name).or_else(|| SharedFiles::get(name)) else {
            return Problem::new(Kind::NotFound, "There is no such file.").into_response();
        };
        let hash = file.metadata.sha256_hash();
        // The banner changes the page, so the ETag must differ.
        let variant = if self.banner.is_some() { "b" } else { "" };
        let etag = format!("W/\"{}{variant}\"", URL_SAFE_NO_PAD.encode(&hash[..12]));
        let etag = HeaderValue::try_from(etag).expect("base64 is visible ASCII");
        let mut response = if is_known(request, &etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            Response::new(self.body(name, file.data))
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type(name));
        headers.insert(header::ETAG, etag);
        headers.insert(header::CACHE_CONTROL, caching);
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        response
    }

    fn body(&self, name: &str, data: Cow<'static, [u8]>) -> Body {
        let is_page = FilePath::new(name)
            .extension()
            .is_some_and(|extension| extension == "html");
        match self.banner {
            Some(banner) if is_page => with_banner(&data, banner),
            _ => body(data),
        }
    }
}

fn with_banner(page: &[u8], banner: &str) -> Body {
    let page = String::from_utf8_lossy(page);
    let line = format!("<body>\n<p id=\"test-shop\" class=\"notice\" role=\"note\">{banner}</p>");
    Body::from(page.replacen("<body>", &line, 1))
}

fn body(data: Cow<'static, [u8]>) -> Body {
    match data {
        Cow::Borrowed(bytes) => Body::from(bytes),
        Cow::Owned(bytes) => Body::from(bytes),
    }
}

fn content_type(name: &str) -> HeaderValue {
    let extension = FilePath::new(name)
        .extension()
        .and_then(|extension| extension.to_str());
    HeaderValue::from_static(match extension {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_and_asset_has_a_known_type() {
        let names = PublicFiles::iter().chain(StaffFiles::iter());
        for name in names.chain(SharedFiles::iter()) {
            assert_ne!(content_type(&name), "application/octet-stream", "{name}");
        }
    }
}
